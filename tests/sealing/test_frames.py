"""A frame opens in its place only: what was dropped, repeated, swapped, cut or flipped is refused by its name."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ppml_airflow.errors import VerificationError
from ppml_airflow.sealing.frames import (
    FRAME_RECORDS,
    HEADER_BYTES,
    NONCE_BYTES,
    Frame,
    SegmentKey,
    SegmentWriter,
    StreamOrder,
    open_segment,
    read_headers,
    segment_aad,
    segment_key,
)

VECTORS = json.loads((Path(__file__).parents[2] / "jvm" / "vectors" / "frames.json").read_text())
DATA_KEY = bytes(range(32))
DOMAIN = "sha256:" + "d" * 64
RECORDS = [b'{"n":%d}' % number for number in range(3 * FRAME_RECORDS)]


def key_of(path: str = "part-00000", *, version: int = 1, dataset: str = "clicks") -> SegmentKey:
    aad = segment_aad(domain_id=DOMAIN, dataset=dataset, version=version, path=path)
    return segment_key(DATA_KEY, aad=aad)


def sealed_frames(*, key: SegmentKey | None = None, partition: int = 2) -> list[bytes]:
    """Four frames: three with records, and the last, which is empty."""
    frames = []
    writer = SegmentWriter(io.BytesIO(), key=key or key_of(), partition=partition)
    for start in range(0, len(RECORDS), FRAME_RECORDS):
        frames.append(_written(writer, RECORDS[start : start + FRAME_RECORDS], is_last=False))
    return [*frames, _written(writer, [], is_last=True)]


def _written(writer: SegmentWriter, records: list[bytes], *, is_last: bool) -> bytes:
    target = io.BytesIO()
    writer._target = target
    writer.write(records, is_last=is_last)
    return target.getvalue()


def opened(folder: Path, frames: list[bytes], *, key: SegmentKey | None = None) -> list[bytes]:
    path = folder / "part-00000"
    path.write_bytes(b"".join(frames))
    order = StreamOrder()
    records = [record for _, found in open_segment(path, key=key or key_of(), order=order) for record in found]
    order.require_end()
    return records


def test_what_was_sealed_is_opened_in_order(tmp_path: Path) -> None:
    assert opened(tmp_path, sealed_frames()) == RECORDS


def test_headers_are_read_without_a_key(tmp_path: Path) -> None:
    (tmp_path / "part-00000").write_bytes(b"".join(sealed_frames()))
    headers = list(read_headers(tmp_path / "part-00000"))
    assert [(frame.sequence, frame.records, frame.is_last) for frame in headers] == [
        (0, 256, False),
        (1, 256, False),
        (2, 256, False),
        (3, 0, True),
    ]
    assert {frame.partition for frame in headers} == {2}


def _flipped(frame: bytes, *, at: int) -> bytes:
    changed = bytearray(frame)
    changed[at] ^= 1
    return bytes(changed)


Attack = Callable[[list[bytes]], list[bytes]]
ATTACKS: dict[str, tuple[Attack, str, str]] = {
    "a dropped frame": (lambda f: [f[0], *f[2:]], "frame_missing", "partition 2: frame 1 is missing, 2 stands"),
    "a dropped first frame": (lambda f: f[1:], "frame_missing", "partition 2: frame 0 is missing, 1 stands"),
    "a dropped last frame": (lambda f: f[:3], "frame_missing", "partition 2: frame 3 is missing, with all"),
    "a repeated frame": (lambda f: [f[0], f[1], *f[1:]], "frame_repeated", "frame 1 stands where frame 2 belongs"),
    "swapped frames": (lambda f: [f[0], f[2], f[1], f[3]], "frame_missing", "frame 1 is missing, 2 stands"),
    "a frame after the last": (lambda f: [*f, f[0]], "frame_repeated", "frame 0 comes after the last frame"),
    "a cut frame": (lambda f: [*f[:2], f[2][:-1]], "frame_cut", "partition 2: frame 2 is cut off"),
    "a cut header": (lambda f: [*f[:3], f[3][:20]], "frame_cut", "cut off within the frame at byte"),
    "a flipped bit": (
        lambda f: [f[0], _flipped(f[1], at=HEADER_BYTES + NONCE_BYTES + 5), *f[2:]],
        "frame_changed",
        "partition 2: frame 1 was changed",
    ),
    "a flipped nonce": (
        lambda f: [f[0], _flipped(f[1], at=HEADER_BYTES), *f[2:]],
        "frame_changed",
        "partition 2: frame 1 was changed",
    ),
    "another number of records": (
        lambda f: [f[0], _flipped(f[1], at=35), *f[2:]],
        "frame_changed",
        "partition 2: frame 1 was changed",
    ),
    "a moved end": (
        lambda f: [f[0], f[1], _flipped(f[2], at=39)],
        "frame_changed",
        "partition 2: frame 2 was changed",
    ),
    "another magic": (lambda f: [f[0], _flipped(f[1], at=0), *f[2:]], "frame_changed", "holds no frame at byte"),
    "an unknown flag": (lambda f: [f[0], _flipped(f[1], at=36), *f[2:]], "frame_changed", "holds no frame at byte"),
    "a frame of another segment": (
        lambda f: [f[0], sealed_frames(key=key_of("part-00001"))[1], *f[2:]],
        "frame_misplaced",
        "partition 2: frame 1 was sealed for another segment",
    ),
    "a frame of another version": (
        lambda f: [f[0], sealed_frames(key=key_of(version=2))[1], *f[2:]],
        "frame_misplaced",
        "partition 2: frame 1 was sealed for another segment",
    ),
    "a frame of another stream": (
        lambda f: [f[0], sealed_frames(key=key_of(dataset="plans"))[1], *f[2:]],
        "frame_misplaced",
        "partition 2: frame 1 was sealed for another segment",
    ),
    "a frame of another partition": (
        lambda f: [f[0], sealed_frames(partition=5)[1], *f[2:]],
        "frame_missing",
        "partition 5: frame 0 is missing, 1 stands",
    ),
}


@pytest.mark.parametrize(("attack", "code", "named"), ATTACKS.values(), ids=ATTACKS)
def test_an_attacked_segment_is_refused_and_the_frame_is_named(
    tmp_path: Path, attack: Attack, code: str, named: str
) -> None:
    with pytest.raises(VerificationError) as refused:
        opened(tmp_path, attack(sealed_frames()))
    assert refused.value.code == code
    assert named in refused.value.message


def test_a_segment_under_another_key_is_refused(tmp_path: Path) -> None:
    other = segment_key(b"x" * 32, aad=key_of().aad)
    with pytest.raises(VerificationError, match="partition 2: frame 0 was changed"):
        opened(tmp_path, sealed_frames(), key=other)


def test_two_sealings_of_the_same_records_are_different() -> None:
    assert not set(sealed_frames()) & set(sealed_frames())


def test_a_missing_segment_is_named(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="segment part-00007 is missing"):
        list(open_segment(tmp_path / "part-00007", key=key_of(), order=StreamOrder()))


def test_the_key_does_not_show() -> None:
    assert DATA_KEY.hex() not in repr(key_of())
    assert "key" not in repr(key_of()).replace("SegmentKey", "")


# ---------------------------------------------------------------- vectors, which jvm/ reads too


@pytest.mark.parametrize("vector", VECTORS["segments"], ids=lambda vector: vector["name"])
def test_the_vectors_are_read_as_they_say(tmp_path: Path, vector: dict[str, str]) -> None:
    aad = base64.b64decode(VECTORS["aad"])
    assert aad == segment_aad(domain_id=DOMAIN, dataset="clicks", version=1, path="part-00000")
    key = segment_key(base64.b64decode(VECTORS["data_key"]), aad=aad)
    assert key.key == base64.b64decode(VECTORS["key"])
    segment = base64.b64decode(vector["segment"])
    if "error" not in vector:
        assert opened(tmp_path, [segment], key=key) == [record.encode() for record in vector["records"]]
        return
    with pytest.raises(VerificationError) as refused:
        opened(tmp_path, [segment], key=key)
    assert refused.value.code == vector["code"]
    assert vector["error"] in refused.value.message


def test_a_header_has_the_bytes_that_the_format_says() -> None:
    frame = Frame(place=bytes(range(16)), partition=1, sequence=2, records=3, is_last=True, ciphertext_bytes=4)
    assert frame.encode().hex() == (
        "50504631" + bytes(range(16)).hex() + "00000001" + "0000000000000002" + "00000003" + "00000001" + "00000004"
    )
