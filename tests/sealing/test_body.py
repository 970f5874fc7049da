"""A sealed part opens in its place only, and a failure leaves nothing: no file, no plaintext in a buffer."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from cryptography.cobblestone import Cobblestone256Encryptor

from ppml_airflow import canonical
from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.sealing.body import (
    SealedBody,
    appearing,
    open_part,
    open_part_bytes,
    padded_bytes,
    part_context,
    seal_part,
)
from ppml_airflow.sealing.manifest import Part
from ppml_airflow.units import KIB, MIB

KEY = secrets.token_bytes(32)
DOMAIN = "sha256:" + "d" * 64
PLACE = {"domain_id": DOMAIN, "dataset": "claims", "version": 1, "path": "part-00000", "index": 0, "count": 2}
CONTEXT = part_context(**PLACE)  # type: ignore[arg-type]  # a table of cases
MARKER = b"an unmistakable plaintext marker"


def as_part(body: SealedBody) -> Part:
    return Part(path="part-00000", size=body.size, digest=body.digest, sealed_version=1)


def as_it_lies(path: Path) -> Part:
    """A part whose size and digest are those of the file now: what is left then is the body's own authenticity."""
    data = path.read_bytes()
    return Part(path="part-00000", size=len(data), digest=canonical.digest_bytes(data), sealed_version=1)


SIZES = [0, 1, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, MIB - 8, MIB - 7, MIB, 3 * MIB + 77]


@pytest.mark.parametrize("padded", [False, True], ids=["plain", "padded"])
@pytest.mark.parametrize("length", SIZES)
def test_what_was_sealed_is_opened(tmp_path: Path, length: int, padded: bool) -> None:
    data = secrets.token_bytes(length)
    source = tmp_path / "source"
    source.write_bytes(data)
    from_file = seal_part(source, tmp_path / "a", key=KEY, context=CONTEXT, padded=padded)
    from_bytes = seal_part(data, tmp_path / "b", key=KEY, context=CONTEXT, padded=padded)
    open_part(tmp_path / "a", tmp_path / "opened", part=as_part(from_file), key=KEY, context=CONTEXT, padded=padded)
    assert (tmp_path / "opened").read_bytes() == data
    opened = open_part_bytes(tmp_path / "b", part=as_part(from_bytes), key=KEY, context=CONTEXT, padded=padded)
    assert opened == data
    assert from_file.size == (tmp_path / "a").stat().st_size == from_bytes.size
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_sizes_within_a_class_are_equal_whatever_the_content(tmp_path: Path) -> None:
    contents = [b"", b"x", b"y" * 1000, secrets.token_bytes(MIB - 8)]
    sizes = {seal_part(c, tmp_path / "part", key=KEY, context=CONTEXT, padded=True).size for c in contents}
    assert len(sizes) == 1


@pytest.mark.parametrize(
    ("length", "wanted"),
    [(0, MIB), (MIB - 8, MIB), (MIB - 7, 2 * MIB), (2 * MIB - 8, 2 * MIB), (2 * MIB - 7, 4 * MIB), (9 * MIB, 16 * MIB)],
)
def test_classes_are_powers_of_two_from_one_mebibyte(length: int, wanted: int) -> None:
    assert padded_bytes(length) == wanted


CHANGES = {
    "flipped first byte": lambda b: bytes([b[0] ^ 1]) + b[1:],
    "flipped commitment": lambda b: b[:30] + bytes([b[30] ^ 1]) + b[31:],
    "flipped in the middle": lambda b: b[:20000] + bytes([b[20000] ^ 0x80]) + b[20001:],
    "flipped last byte": lambda b: b[:-1] + bytes([b[-1] ^ 1]),
    "truncated by a byte": lambda b: b[:-1],
    "truncated at a chunk": lambda b: b[: 56 + 16400],
    "truncated to the header": lambda b: b[:56],
    "emptied": lambda b: b"",
    "extended": lambda b: b + b"\0",
    "chunks swapped": lambda b: b[:56] + b[56 + 16400 : 56 + 32800] + b[56 : 56 + 16400] + b[56 + 32800 :],
}


@pytest.mark.parametrize("padded", [False, True], ids=["plain", "padded"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_part_is_refused_by_its_body_alone(tmp_path: Path, change: object, padded: bool) -> None:
    sealed = tmp_path / "part"
    seal_part(MARKER * 2000, sealed, key=KEY, context=CONTEXT, padded=padded)
    sealed.write_bytes(change(sealed.read_bytes()))  # type: ignore[operator]  # a table of cases
    with pytest.raises(VerificationError, match="part-00000") as refusal:
        open_part(sealed, tmp_path / "opened", part=as_it_lies(sealed), key=KEY, context=CONTEXT, padded=padded)
    assert refusal.value.code == "part_changed"
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


def test_a_resealed_part_is_not_the_one_that_the_manifest_names(tmp_path: Path) -> None:
    body = seal_part(b"original", tmp_path / "part", key=KEY, context=CONTEXT, padded=False)
    seal_part(b"replaced", tmp_path / "part", key=KEY, context=CONTEXT, padded=False)
    with pytest.raises(VerificationError, match="not the one that the manifest names"):
        open_part(tmp_path / "part", tmp_path / "opened", part=as_part(body), key=KEY, context=CONTEXT, padded=False)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    "claim",
    [
        {"domain_id": "sha256:" + "e" * 64},
        {"dataset": "other"},
        {"version": 2},
        {"path": "part-00001"},
        {"index": 1},
        {"count": 3},
    ],
    ids=lambda claim: next(iter(claim)),
)
def test_a_part_moved_to_another_place_is_refused(tmp_path: Path, claim: dict[str, object]) -> None:
    body = seal_part(b"data", tmp_path / "part", key=KEY, context=CONTEXT, padded=False)
    elsewhere = part_context(**(PLACE | claim))  # type: ignore[arg-type]  # a table of cases
    with pytest.raises(VerificationError, match="not in its place"):
        open_part_bytes(tmp_path / "part", part=as_part(body), key=KEY, context=elsewhere, padded=False)


def test_a_part_does_not_open_with_another_key(tmp_path: Path) -> None:
    body = seal_part(b"data", tmp_path / "part", key=KEY, context=CONTEXT, padded=False)
    with pytest.raises(VerificationError, match="another key"):
        open_part_bytes(tmp_path / "part", part=as_part(body), key=bytes(32), context=CONTEXT, padded=False)


def test_a_missing_part_is_refused(tmp_path: Path) -> None:
    part = Part(path="part-00000", size=1, digest=DOMAIN, sealed_version=1)
    with pytest.raises(VerificationError, match="part-00000 is missing") as refusal:
        open_part_bytes(tmp_path / "part", part=part, key=KEY, context=CONTEXT, padded=False)
    assert refusal.value.code == "part_missing"


MALFORMED = {
    "length beyond the data": (MIB).to_bytes(8, "big") + bytes(MIB - 8),
    "length beyond everything": b"\xff" * 8 + bytes(MIB - 8),
    "zeros that are not zeros": (3).to_bytes(8, "big") + b"abc" + b"hidden" + bytes(MIB - 17),
    "a larger class than needed": (3).to_bytes(8, "big") + b"abc" + bytes(2 * MIB - 11),
    "no class": (3).to_bytes(8, "big") + b"abc",
    "shorter than a length": b"abc",
    "nothing": b"",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_padding_is_refused(tmp_path: Path, body: bytes) -> None:
    encryptor = Cobblestone256Encryptor(KEY, CONTEXT)
    sealed = tmp_path / "part"
    sealed.write_bytes(encryptor.update(body) + encryptor.finalize())
    with pytest.raises(VerificationError, match="malformed padding"):
        open_part(sealed, tmp_path / "opened", part=as_it_lies(sealed), key=KEY, context=CONTEXT, padded=True)
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


@pytest.mark.parametrize("flipped", [56 + 100, 56 + 16400 * 3 + 5, 56 + 16400 * 130])
def test_buffers_of_a_failed_opening_are_wiped(tmp_path: Path, flipped: int) -> None:
    sealed = tmp_path / "part"
    seal_part(MARKER * (4 * MIB // len(MARKER)), sealed, key=KEY, context=CONTEXT, padded=False)
    data = bytearray(sealed.read_bytes())
    data[flipped] ^= 1
    sealed.write_bytes(data)
    with pytest.raises(VerificationError) as refusal:
        open_part_bytes(sealed, part=as_it_lies(sealed), key=KEY, context=CONTEXT, padded=False)
    error: BaseException | None = refusal.value
    buffers: list[bytes] = []
    while error is not None:
        traceback = error.__traceback__
        while traceback is not None:
            values = traceback.tb_frame.f_locals.values()
            buffers += [bytes(v) for v in values if isinstance(v, bytearray | memoryview)]
            traceback = traceback.tb_next
        error = error.__cause__
    assert any(len(buffer) > MIB for buffer in buffers)
    assert not any(MARKER[:16] in buffer for buffer in buffers)


def test_an_unreadable_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        seal_part(tmp_path / "none", tmp_path / "part", key=KEY, context=CONTEXT, padded=False)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        seal_part(tmp_path, tmp_path / "part", key=KEY, context=CONTEXT, padded=False)
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_changes_its_length_is_refused(tmp_path: Path) -> None:
    # A file of sysfs says that it has 4096 bytes and has fewer: to a reader it shrinks while it is read.
    with pytest.raises(ConfigurationError, match="changed its length"):
        seal_part(Path("/sys/devices/system/cpu/online"), tmp_path / "part", key=KEY, context=CONTEXT, padded=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_appears_whole_and_private_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with appearing(target) as writer:
        writer.write(b"data")
        assert not target.exists()
    assert target.read_bytes() == b"data"
    assert target.stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyboardInterrupt), appearing(tmp_path / "other"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [target]
