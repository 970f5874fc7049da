from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from ppml_airflow import canonical
from ppml_airflow.canonical import Document
from ppml_airflow.errors import MalformedInputError


class Inner(Document, frozen=True, kw_only=True):
    name: str
    flag: bool


class Sample(Document, frozen=True, kw_only=True):
    number: int
    text: str
    raw: bytes
    items: tuple[Inner, ...]
    table: Mapping[str, int]
    maybe: str | None


WHOLE = st.integers(min_value=-(2**53) + 1, max_value=2**53 - 1)
TEXT = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=20)
SAMPLES = st.builds(
    Sample,
    number=WHOLE,
    text=TEXT,
    raw=st.binary(max_size=40),
    items=st.lists(st.builds(Inner, name=TEXT, flag=st.booleans()), max_size=3).map(tuple),
    table=st.dictionaries(TEXT, WHOLE, max_size=4),
    maybe=st.none() | TEXT,
)
PLAIN = st.recursive(
    st.none() | st.booleans() | WHOLE | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)

ANY_JSON = st.dictionaries(
    TEXT,
    st.recursive(
        st.none() | st.booleans() | st.integers() | TEXT | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=12,
    ),
    max_size=4,
)


@given(SAMPLES)
def test_a_document_reads_as_what_was_written(value: Sample) -> None:
    data = canonical.encode(value)
    assert canonical.decode(data, into=Sample) == value
    assert canonical.digest(value) == "sha256:" + hashlib.sha256(data).hexdigest()


@given(PLAIN)
def test_plain_values_read_as_what_was_written(value: Any) -> None:
    assert json.loads(canonical.encode(value)) == value


@given(ANY_JSON)
@example({"a": 2**53 - 1, "b": [-(2**53)]})
@example({"\U0001f600": 1, "\ufb33": 2})
def test_exactly_what_rfc8785_writes_is_read_and_floats_and_large_integers_are_not(value: dict[str, Any]) -> None:
    """The library of that name is the oracle."""
    for text in (json.dumps(value), json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)):
        try:
            expected = rfc8785.dumps(value) == text.encode() and "float" not in _types(value)
        except rfc8785.IntegerDomainError:
            expected = False
        try:
            assert canonical.encode(canonical.decode(text.encode(), into=dict)) == text.encode()
            found = True
        except MalformedInputError:
            found = False
        assert found == expected


def _types(value: Any) -> set[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {type(value).__name__}.union(*(_types(each) for each in inner))


@given(SAMPLES, st.randoms())
def test_the_order_of_a_mapping_does_not_matter(value: Sample, order: random.Random) -> None:
    keys = list(value.table)
    order.shuffle(keys)
    shuffled = Sample(
        number=value.number,
        text=value.text,
        raw=value.raw,
        items=value.items,
        table={key: value.table[key] for key in keys},
        maybe=value.maybe,
    )
    assert canonical.encode(shuffled) == canonical.encode(value)


@given(SAMPLES, st.data())
def test_a_changed_byte_is_refused_or_is_another_document(value: Sample, draw: st.DataObject) -> None:
    data = canonical.encode(value)
    at = draw.draw(st.integers(min_value=0, max_value=len(data) - 1))
    byte = draw.draw(st.integers(min_value=0, max_value=255).filter(lambda byte: byte != data[at]))
    changed = data[:at] + bytes([byte]) + data[at + 1 :]
    try:
        found = canonical.decode(changed, into=Sample)
    except MalformedInputError:
        return
    assert found != value


@given(SAMPLES, st.sampled_from([b" ", b"\n", b"{}", b"\0", b","]))
def test_trailing_bytes_are_refused(value: Sample, extra: bytes) -> None:
    with pytest.raises(MalformedInputError):
        canonical.decode(canonical.encode(value) + extra, into=Sample)


GOOD = b'{"items":[],"maybe":null,"number":1,"raw":"AA==","table":{"a":1},"text":"x"}'


def test_the_sample_of_the_tests_below_is_canonical() -> None:
    assert canonical.encode(canonical.decode(GOOD, into=Sample)) == GOOD


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"number":1', b'"number":1.0'),
        (b'"number":1', b'"number":1e0'),
        (b'"number":1', b'"number":true'),
        (b'"number":1', b'"number":"1"'),
        (b'"number":1', b'"number":01'),
        (b'"number":1', b'"number":-0'),
        (b'"number":1', b'"number":9007199254740993'),
        (b'"number":1', b'"number":NaN'),
        (b'"number":1', b'"number":1,"number":1'),
        (b'"number":1', b'"number":1,"other":1'),
        (b'"number":1,', b""),
        (b'"maybe":null,', b""),
        (b'"maybe":null,"number":1', b'"number":1,"maybe":null'),
        (b'{"a":1}', b'{"a":1,"a":1}'),
        (b'{"a":1}', b'{"b":1,"a":1}'),
        (b'{"a":1}', b'{"a": 1}'),
        (b'"AA=="', b'"AA"'),
        (b'"AA=="', b'"AB=="'),
        (b'"AA=="', b'"A A=="'),
        (b'"text":"x"', b'"text":"\\u0078"'),
        (b'"text":"x"', b'"text":"\\ud800"'),
        (b'"text":"x"', b'"text":"\xff"'),
        (b'"text":"x"', b'"text":"\n"'),
        (b'"text":"x"', b'"text":"x",'),
    ],
)
def test_another_encoding_is_refused(old: bytes, new: bytes) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(MalformedInputError):
        canonical.decode(GOOD.replace(old, new), into=Sample)


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf" + GOOD, GOOD[:-1], b"[" * 100_000, b"null", b"{}", b"1"])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedInputError):
        canonical.decode(data, into=Sample)


def test_a_form_that_is_not_canonical_has_its_own_code() -> None:
    with pytest.raises(MalformedInputError) as refused:
        canonical.decode(GOOD.replace(b'"text":"x"', b'"text":"\\u0078"'), into=Sample)
    assert refused.value.code == "not_canonical"


def test_what_is_too_long_is_not_parsed() -> None:
    with pytest.raises(MalformedInputError, match="has 77 bytes; at most 76 are read"):
        canonical.decode(GOOD + b" ", into=Sample, max_bytes=76)


@pytest.mark.parametrize("value", [1.0, {"a": 1.5}, [1, [2.0]], {"a": [{"b": float("nan")}]}])
def test_a_float_is_refused(value: Any) -> None:
    with pytest.raises(MalformedInputError, match="a float has no place"):
        canonical.encode(value)


@pytest.mark.parametrize("value", [2**53, -(2**53), "\ud800", {"\udfff": 1}])
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(MalformedInputError, match="has no canonical JSON form"):
        canonical.encode(value)


def test_plain_values_become_a_document() -> None:
    assert canonical.convert({"name": "a", "flag": True}, into=Inner) == Inner(name="a", flag=True)


@pytest.mark.parametrize(
    "value", [None, [], {"name": "a"}, {"name": "a", "flag": 1}, {"name": "a", "flag": True, "x": 1}]
)
def test_plain_values_of_another_shape_are_refused(value: Any) -> None:
    with pytest.raises(MalformedInputError, match="Inner is malformed"):
        canonical.convert(value, into=Inner)


def test_property_names_are_sorted_by_utf16_units() -> None:
    """RFC 8785, section 3.2.3: not by code points."""
    value = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "\u00f6": 7}
    assert list(json.loads(canonical.encode(value)).values()) == [2, 4, 6, 7, 1, 5, 3]
