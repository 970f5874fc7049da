"""Good input, spoilt: bits, lengths, order, fields twice, another thing altogether."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

brief = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def changed(draw: st.DrawFn, data: bytes) -> bytes:
    """Good data with a change or two, or something else."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(found) - 1, 0)))
        length = draw(st.integers(1, 40))
        kind = draw(st.sampled_from(("flip", "drop", "insert", "double", "cut", "fill")))
        if kind == "flip" and found:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "drop":
            del found[at : at + length]
        elif kind == "insert":
            found[at:at] = draw(st.binary(min_size=1, max_size=40))
        elif kind == "double":
            found[at:at] = found[at : at + length]
        elif kind == "cut":
            del found[at:]
        else:
            found[at : at + length] = draw(st.sampled_from((b"\0", b"\xff", b"9", b"[", b'{"', b"\n"))) * length
    return bytes(found)


@st.composite
def rewritten(draw: st.DrawFn, document: bytes) -> bytes:
    """JSON that says the same in another way, or says a field twice, or has one that is of another kind."""
    value = json.loads(document)
    name = draw(st.sampled_from(sorted(value)))
    kind = draw(st.sampled_from(("spaces", "order", "twice", "more", "less", "other", "deep")))
    if kind == "spaces":
        return json.dumps(value, sort_keys=True).encode()
    if kind == "order":
        return json.dumps(dict(sorted(value.items(), reverse=True)), separators=(",", ":")).encode()
    if kind == "twice":
        return document[:-1] + b"," + json.dumps(name).encode() + b":" + json.dumps(value[name]).encode() + b"}"
    if kind == "deep":
        return document[:-1] + b',"z":' + b"[" * 1500 + b"]" * 1500 + b"}"
    if kind == "more":
        value["zzz"] = None
    elif kind == "less":
        del value[name]
    else:
        value[name] = draw(st.sampled_from((None, 2**70, 1.5, "\u0000", "\ud800", {}, [], True)))
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
