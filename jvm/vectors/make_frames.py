"""Write `frames.json`: segments of sealed record frames, whole ones and one for each way in which one is broken.

    python jvm/vectors/make_frames.py

Nonces are random, so every run gives other bytes; the expectations stay. Both ends read them: `tests/sealing` and
`tests/workloads/flink`.
"""

from __future__ import annotations

import base64
import io
import json
from itertools import pairwise
from pathlib import Path

from ppml_airflow.sealing.frames import SegmentWriter, segment_aad, segment_key

DATA_KEY = bytes(range(32))
RECORDS = [['{"n":1}', '{"n":2}'], ['{"n":3}'], []]


def main() -> None:
    """Make them all."""
    aad = segment_aad(domain_id="sha256:" + "d" * 64, dataset="clicks", version=1, path="part-00000")
    first, second, last = frames = _frames(aad)
    changed = bytearray(second)
    changed[-1] ^= 1
    segments = [
        _vector("whole", frames, records=[record for group in RECORDS for record in group]),
        _vector("without records", [_frames(aad, records=[[]])[0]], records=[]),
        _vector("dropped", [first, last], code="frame_missing", error="partition 3: frame 1 is missing"),
        _vector("cut short", [first, second], code="frame_missing", error="partition 3: frame 2 is missing"),
        _vector("repeated", [first, second, second], code="frame_repeated", error="frame 1 stands where frame 2"),
        _vector("swapped", [second, first, last], code="frame_missing", error="frame 0 is missing, 1 stands"),
        _vector("after the end", [*frames, first], code="frame_repeated", error="frame 0 comes after the last"),
        _vector("cut", [first, second[:-1]], code="frame_cut", error="partition 3: frame 1 is cut off"),
        _vector("flipped", [first, bytes(changed), last], code="frame_changed", error="frame 1 was changed"),
        _vector("elsewhere", [_frames(aad + b" ")[0]], code="frame_misplaced", error="frame 0 was sealed for another"),
        _vector("no frame", [b"x" * 100], code="frame_changed", error="holds no frame"),
    ]
    vectors = {
        "data_key": _text(DATA_KEY),
        "aad": _text(aad),
        "key": _text(segment_key(DATA_KEY, aad=aad).key),
        "segments": segments,
    }
    Path(__file__).with_name("frames.json").write_text(json.dumps(vectors, indent=1) + "\n")


def _frames(aad: bytes, *, records: list[list[str]] = RECORDS) -> list[bytes]:
    target = io.BytesIO()
    writer = SegmentWriter(target, key=segment_key(DATA_KEY, aad=aad), partition=3)
    ends = [0]
    for index, group in enumerate(records):
        writer.write([record.encode() for record in group], is_last=index == len(records) - 1)
        ends.append(target.tell())
    sealed = target.getvalue()
    return [sealed[start:end] for start, end in pairwise(ends)]


def _vector(name: str, frames: list[bytes], **expected: object) -> dict[str, object]:
    return {"name": name, "segment": _text(b"".join(frames)), **expected}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


if __name__ == "__main__":
    main()
