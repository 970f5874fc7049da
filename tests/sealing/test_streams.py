"""A sealed stream: what was sealed is opened, and storage that drops, swaps or cuts segments is named before a key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.sealing.datasets import open_data_key, open_table, verify_parts
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.sealing.streams import explain_broken, is_stream, open_stream_source, seal_stream
from ppml_airflow.sealing.versions import NewVersion, Producer, SealedVersion
from ppml_airflow.sealing.wrapping import SealingKey
from ppml_airflow.signing import SigningKey
from tests.support.sealing_keys import HeldKey

DOMAIN = "sha256:" + "d" * 64
KEY = SealingKey.generate()
DATASET_KEY = HeldKey(serial="1" * 32, kek_id="kek-clicks", key=KEY.public)
PRODUCER = Producer(serial="2" * 32, key=SigningKey.generate())
ROWS = 700


def write_records(path: Path, records: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def clicks(partition: int, segment: int) -> list[dict[str, object]]:
    return [
        {"at": f"2026-01-01T00:00:{number % 60:02d}.5Z", "page": f"p{partition}", "n": segment * ROWS + number}
        for number in range(ROWS)
    ]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for partition in (0, 1):
        for segment in (0, 1, 2):
            write_records(tmp_path / "clicks" / str(partition) / f"{segment}.jsonl", clicks(partition, segment))
    return tmp_path / "clicks"


def sealed(source: Path, storage: Path, *, segment_records: int = 100_000) -> SealedVersion:
    new = NewVersion(domain_id=DOMAIN, dataset="clicks", version=1, prev=None, run_id=None)
    stream = open_stream_source(source)
    return seal_stream(
        stream,
        storage=storage,
        new=new,
        dataset_key=DATASET_KEY,
        producer=PRODUCER,
        segment_records=segment_records,
    )


def rows(version: SealedVersion) -> pa.Table:
    key = open_data_key(version.manifest, key=KEY, kek_id="kek-clicks")
    return pa.Table.from_batches(open_table(version.manifest, folder=version.folder, data_key=key))


def test_what_was_sealed_is_opened_in_order(tmp_path: Path, source: Path) -> None:
    version = sealed(source, tmp_path / "storage")
    assert version.manifest.body == "frames"
    assert version.manifest.columns == (
        Column(name="at", type="timestamp[us, tz=UTC]"),
        Column(name="page", type="string"),
        Column(name="n", type="int64"),
    )
    assert len(version.manifest.parts) == 6
    found = rows(version)
    assert found["n"].to_pylist() == [*range(3 * ROWS)] * 2
    assert found["page"].to_pylist() == ["p0"] * 3 * ROWS + ["p1"] * 3 * ROWS


def test_one_file_is_a_partition_in_segments(tmp_path: Path, source: Path) -> None:
    version = sealed(source / "0" / "0.jsonl", tmp_path / "storage", segment_records=300)
    assert len(version.manifest.parts) == 3
    assert rows(version)["n"].to_pylist() == [*range(ROWS)]


def test_every_type_that_a_record_holds_comes_back(tmp_path: Path) -> None:
    record = {"i": 1, "f": 1.5, "b": True, "s": "é\n", "t": "2026-01-02T03:04:05", "z": "2026-01-02T03:04:05.25Z"}
    write_records(tmp_path / "all.jsonl", [record, dict.fromkeys(record, None)])
    table = rows(sealed(tmp_path / "all.jsonl", tmp_path / "storage"))
    assert [str(field.type) for field in table.schema] == [
        "int64",
        "double",
        "bool",
        "string",
        "timestamp[us]",
        "timestamp[us, tz=UTC]",
    ]
    assert table.to_pylist()[0]["s"] == "é\n"
    assert table.to_pylist()[0]["z"].isoformat() == "2026-01-02T03:04:05.250000+00:00"
    assert table.to_pylist()[1] == dict.fromkeys(record, None)


Attack = Callable[[Path], None]


def _drop(folder: Path) -> None:
    (folder / "part-00001").unlink()


def _swap(folder: Path) -> None:
    first, second = folder / "part-00000", folder / "part-00001"
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)


def _cut_frame(folder: Path) -> None:
    path = folder / "part-00002"
    path.write_bytes(path.read_bytes()[:-10])


def _drop_frame(folder: Path) -> None:
    path = folder / "part-00001"
    size = 56 + int.from_bytes(path.read_bytes()[40:44], "big")
    path.write_bytes(path.read_bytes()[size:])


def _repeat_frame(folder: Path) -> None:
    path = folder / "part-00000"
    size = 56 + int.from_bytes(path.read_bytes()[40:44], "big")
    path.write_bytes(path.read_bytes()[:size] + path.read_bytes())


ATTACKS: dict[str, tuple[Attack, str, str]] = {
    "swapped segments": (_swap, "part-00000", "segment part-00000, partition 0: frame 3 was sealed for another"),
    "a cut segment": (_cut_frame, "part-00002", "segment part-00002, partition 0: frame 9 is cut off"),
    "a dropped frame": (_drop_frame, "part-00001", "segment part-00001, partition 0: frame 3 is missing, 4 stands"),
    "a repeated frame": (_repeat_frame, "part-00000", "partition 0: frame 0 stands where frame 1 belongs"),
}


@pytest.mark.parametrize(("attack", "part", "frame"), ATTACKS.values(), ids=ATTACKS)
def test_an_attack_on_storage_is_named_before_a_key_is_there(
    tmp_path: Path, source: Path, attack: Attack, part: str, frame: str
) -> None:
    version = sealed(source, tmp_path / "storage")
    attack(version.folder)
    with pytest.raises(VerificationError, match=f"part {part} of clicks is not the one"):
        verify_parts(version.manifest, folder=version.folder)
    assert frame in explain_broken(version.manifest, folder=version.folder)


def test_a_dropped_segment_is_named(tmp_path: Path, source: Path) -> None:
    version = sealed(source, tmp_path / "storage")
    _drop(version.folder)
    with pytest.raises(VerificationError, match="part part-00001 of clicks is missing"):
        verify_parts(version.manifest, folder=version.folder)
    assert explain_broken(version.manifest, folder=version.folder) == "segment part-00001 is missing"


def test_headers_of_a_whole_stream_are_in_order(tmp_path: Path, source: Path) -> None:
    version = sealed(source, tmp_path / "storage")
    assert explain_broken(version.manifest, folder=version.folder) == ""


REFUSED: dict[str, tuple[str, str]] = {
    "no json": ('{"a": 1}\nsecret\n', "Invalid value"),
    "a column of two types": ('{"a": 1}\n{"a": "secret"}\n', "changed from number to string"),
    "a list": ('{"a": ["secret"]}\n', "does not fit into a stream"),
    "nothing": ("", "holds no record"),
}


@pytest.mark.parametrize(("text", "told"), REFUSED.values(), ids=REFUSED)
def test_a_source_that_is_no_stream_is_refused_without_a_value(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        sealed(path, tmp_path / "storage")
    assert told in refused.value.message
    assert "secret" not in refused.value.message
    assert not list((tmp_path / "storage").rglob("*")) or not list((tmp_path / "storage").rglob("part-*"))


def test_segments_of_different_columns_are_refused(tmp_path: Path, source: Path) -> None:
    write_records(source / "1" / "2.jsonl", [{"other": 1}])
    with pytest.raises(ConfigurationError, match=r"2\.jsonl has other columns than 0\.jsonl"):
        open_stream_source(source)


def test_a_missing_column_is_refused(source: Path) -> None:
    with pytest.raises(ConfigurationError, match="column visitor: it is missing"):
        open_stream_source(source, expected=(Column(name="visitor", type="int64"),))


def test_files_beside_partitions_are_refused(source: Path) -> None:
    shutil.copy(source / "0" / "0.jsonl", source / "stray.jsonl")
    with pytest.raises(ConfigurationError, match="files and folders side by side"):
        open_stream_source(source)


def test_a_source_is_a_stream_by_its_name(tmp_path: Path, source: Path) -> None:
    assert is_stream(source)
    assert is_stream(source / "0" / "0.jsonl")
    assert not is_stream(tmp_path / "visits.csv")
    (source / "README").write_text("x")
    assert not is_stream(source)
