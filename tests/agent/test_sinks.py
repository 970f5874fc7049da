from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppml_airflow.agent.sinks import sweep, write_table
from ppml_airflow.errors import ConfigurationError, VerificationError

SCHEMA = pa.schema([("age", pa.int64()), ("name", pa.string())])


def batches(*ages: int) -> Iterator[pa.RecordBatch]:
    for age in ages:
        yield pa.record_batch([pa.array([age]), pa.array([f'n"{age}'])], schema=SCHEMA)


def broken(*ages: int) -> Iterator[pa.RecordBatch]:
    yield from batches(*ages)
    raise VerificationError("part 2 is not whole")


def test_table_is_written_as_parquet(tmp_path: Path) -> None:
    sink = tmp_path / "new" / "report.parquet"
    write_table(batches(1, 2), sink, schema=SCHEMA)
    assert pq.read_table(sink).to_pydict() == {"age": [1, 2], "name": ['n"1', 'n"2']}


def test_table_is_written_as_csv(tmp_path: Path) -> None:
    sink = tmp_path / "report.csv"
    write_table(batches(1), sink, schema=SCHEMA)
    assert sink.read_text() == '"age","name"\n1,"n""1"\n'


def test_table_without_rows_keeps_its_columns(tmp_path: Path) -> None:
    write_table((), tmp_path / "r.parquet", schema=SCHEMA)
    write_table((), tmp_path / "r.csv", schema=SCHEMA)
    assert pq.read_schema(tmp_path / "r.parquet").equals(SCHEMA)
    assert (tmp_path / "r.csv").read_text() == '"age","name"\n'


@pytest.mark.parametrize("name", ["r.parquet", "r.csv"])
def test_others_cannot_read_the_sink(tmp_path: Path, name: str) -> None:
    write_table(batches(1), tmp_path / name, schema=SCHEMA)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["r.parquet", "r.csv"])
def test_failed_delivery_leaves_the_previous_result_and_nothing_else(tmp_path: Path, name: str) -> None:
    sink = tmp_path / name
    write_table(batches(1), sink, schema=SCHEMA)
    before = sink.read_bytes()
    with pytest.raises(VerificationError):
        write_table(broken(7, 8), sink, schema=SCHEMA)
    assert sink.read_bytes() == before
    assert list(tmp_path.iterdir()) == [sink]


@pytest.mark.parametrize("column", [pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.binary()], ids=str)
def test_column_that_csv_cannot_hold_is_refused_by_name(tmp_path: Path, column: pa.DataType) -> None:
    with pytest.raises(ConfigurationError, match="column tags is"):
        write_table((), tmp_path / "r.csv", schema=pa.schema([("tags", column)]))
    assert list(tmp_path.iterdir()) == []


def test_sink_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.csv").mkdir()
    with pytest.raises(ConfigurationError) as raised:
        write_table(batches(1), tmp_path / "r.csv", schema=SCHEMA)
    assert raised.value.code == "sink_not_writable"
    assert [path.name for path in tmp_path.iterdir()] == ["r.csv"]


def test_sweep_removes_its_own_temporary_files_only(tmp_path: Path) -> None:
    sink = tmp_path / "r.csv"
    write_table(batches(1), sink, schema=SCHEMA)
    (tmp_path / ".r.csv.ppml-0011").write_bytes(b"plain")
    (tmp_path / ".other.csv.ppml-0011").write_bytes(b"another sink's")
    sweep(sink)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.csv.ppml-0011", "r.csv"]


def test_sweep_of_a_sink_whose_folder_is_not_there_does_nothing(tmp_path: Path) -> None:
    sweep(tmp_path / "none" / "r.csv")
