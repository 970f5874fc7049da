from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from ppml_airflow.errors import PolicyDeniedError, VerificationError
from ppml_airflow.sealing import logs
from ppml_airflow.sealing.logs import LogOrigin, log_folder, open_log, seal_log
from ppml_airflow.sealing.wrapping import SealingKey
from ppml_airflow.units import MIB
from tests.support.sealing_keys import HeldKey

KEY = SealingKey.generate()
SERIAL = "ab" * 16
ORIGIN = LogOrigin(domain_id="sha256:" + "0" * 64, run_id="01" * 16, step="aggregate", attempt=1, lease_id="02" * 16)


def seal(folder: Path, text: bytes = b"the row of Smith\n", origin: LogOrigin = ORIGIN) -> str:
    log = folder / "job.log"
    log.write_bytes(text)
    return seal_log(log, storage=folder, origin=origin, recipients=(HeldKey(serial=SERIAL, key=KEY.public),))


def folder_of(storage: Path) -> Path:
    return log_folder(storage, run_id=ORIGIN.run_id, step=ORIGIN.step, attempt=ORIGIN.attempt)


def test_a_log_opens_for_its_reader(tmp_path: Path) -> None:
    digest = seal(tmp_path)
    assert open_log(folder_of(tmp_path), key=KEY, serial=SERIAL, expected=digest) == b"the row of Smith\n"
    (tmp_path / "job.log").unlink()
    assert not any(b"Smith" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_an_attempt_that_wrote_no_log_has_an_empty_one(tmp_path: Path) -> None:
    digest = seal_log(
        tmp_path / "absent", storage=tmp_path, origin=ORIGIN, recipients=(HeldKey(serial=SERIAL, key=KEY.public),)
    )
    assert open_log(folder_of(tmp_path), key=KEY, serial=SERIAL, expected=digest) == b""


def test_the_size_of_a_log_does_not_speak(tmp_path: Path) -> None:
    sizes = set()
    for text in (b"", b"x", os.urandom(1000), b"y" * (MIB - 8)):
        seal(tmp_path, text)
        sizes.add((folder_of(tmp_path) / "log").stat().st_size)
    assert len(sizes) == 1


def test_of_a_long_log_the_end_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_LOG_BYTES", 4)
    digest = seal(tmp_path, b"begin, end\n")
    assert open_log(folder_of(tmp_path), key=KEY, serial=SERIAL, expected=digest) == b"end\n"


@pytest.mark.parametrize("name", ["log", "log.json"])
def test_a_changed_log_is_refused(tmp_path: Path, name: str) -> None:
    digest = seal(tmp_path)
    file = folder_of(tmp_path) / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(VerificationError):
        open_log(folder_of(tmp_path), key=KEY, serial=SERIAL, expected=digest)


def test_a_missing_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="missing"):
        open_log(tmp_path, key=KEY, serial=SERIAL, expected="sha256:" + "0" * 64)


def test_the_log_of_another_attempt_is_refused(tmp_path: Path) -> None:
    seal(tmp_path)
    (tmp_path / "other").mkdir()
    other = seal(tmp_path / "other", origin=msgspec.structs.replace(ORIGIN, attempt=2))
    with pytest.raises(VerificationError, match="not the one that the receipt names"):
        open_log(folder_of(tmp_path), key=KEY, serial=SERIAL, expected=other)


def test_a_log_does_not_open_for_somebody_else(tmp_path: Path) -> None:
    digest = seal(tmp_path)
    with pytest.raises(PolicyDeniedError, match="not sealed to"):
        open_log(folder_of(tmp_path), key=KEY, serial="cd" * 16, expected=digest)
    with pytest.raises(VerificationError):
        open_log(folder_of(tmp_path), key=SealingKey.generate(), serial=SERIAL, expected=digest)
