"""The owner's files: what is read as what, and every bad file refused by name, column and row, never by a value."""

from __future__ import annotations

import datetime as dt
import gzip
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.sealing.columns import columns_of, require_columns
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.sealing.sources import open_source

SECRET = "Smith-4711"
NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)


def csv(tmp_path: Path, text: str | bytes, *, name: str = "visits.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(path: Path, *, expected: tuple[Column, ...] = ()) -> pa.Table:
    source = open_source(path, expected=expected)
    return pa.Table.from_batches(source.batches(), schema=source.schema)


def refusal(path: Path, *, expected: tuple[Column, ...] = ()) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(path, expected=expected)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert SECRET not in message
    return message


# ---------------------------------------------------------------- CSV: types


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["1", "-2", ""], pa.int64()),
        (["1", "2.5", ""], pa.float64()),
        (["1", "1e3"], pa.float64()),
        ([" 1", "2 "], pa.int64()),
        (["007", "012"], pa.int64()),
        (["true", "FALSE"], pa.bool_()),
        (["2026-01-31", "2026-02-01"], pa.date32()),
        (["2026-01-31", "2026-02-01 10:00"], pa.timestamp("us")),
        (["2026-01-31T10:00:00Z", "2026-01-31T10:00:00+02:00"], pa.timestamp("us", "UTC")),
        (["1", "NA", "N/A", "nan", "null", "3"], pa.int64()),
        (["a", "b"], pa.string()),
        (["a", "1", "b", "2"], pa.string()),
        (["1", "a"], pa.string()),
        (["", ""], pa.string()),
        (["0x10", "0x20"], pa.string()),
        (["99999999999999999999", "1"], pa.string()),
        (["12345678901234567", "0.5"], pa.string()),
    ],
)
def test_types_follow_all_values(tmp_path: Path, values: list[str], wanted: pa.DataType) -> None:
    table = read(csv(tmp_path, "id,x\n" + "".join(f"r,{value}\n" for value in values)))
    assert table.schema.field("x").type == wanted
    assert table.num_rows == len(values)


def test_a_late_float_makes_a_column_of_floats(tmp_path: Path) -> None:
    text = "id,x\n" + "".join(f"{i},{i}\n" for i in range(200_000)) + "200000,0.5\n"
    table = read(csv(tmp_path, text))
    assert table.schema.types == [pa.int64(), pa.float64()]
    assert table["x"].to_pylist()[-1] == 0.5


def test_null_markers_are_words_in_a_column_of_text(tmp_path: Path) -> None:
    table = read(csv(tmp_path, "country,x\nNA,1\nDE,2\n,3\n"))
    assert table["country"].to_pylist() == ["NA", "DE", None]


def test_quotes_commas_and_newlines_are_data(tmp_path: Path) -> None:
    table = read(csv(tmp_path, 'a,"b, c"\r\n"x\ny","say ""hi"""\r\n'))
    assert table.to_pylist() == [{"a": "x\ny", "b, c": 'say "hi"'}]


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_file_may_end_in_a_value_of_several_lines(tmp_path: Path, end: str) -> None:
    assert read(csv(tmp_path, f'a,b\n1,"x\ny\n"{end}')).to_pylist() == [{"a": 1, "b": "x\ny\n"}]


def test_a_byte_order_mark_and_blanks_around_names_are_not_part_of_them(tmp_path: Path) -> None:
    assert read(csv(tmp_path, b"\xef\xbb\xbfa , b\n1,2\n")).schema.names == ["a", "b"]


def test_gzip_is_read(tmp_path: Path) -> None:
    assert read(csv(tmp_path, gzip.compress(b"a,b\n1,2\n"), name="visits.CSV.gz")).to_pylist() == [{"a": 1, "b": 2}]


def test_a_header_alone_is_a_table_without_rows(tmp_path: Path) -> None:
    table = read(csv(tmp_path, "a,b\n"))
    assert (table.schema.types, table.num_rows) == ([pa.string(), pa.string()], 0)
    typed = read(csv(tmp_path, "a,b\n"), expected=(Column(name="a", type="int64"),))
    assert typed.schema.types == [pa.int64(), pa.string()]


def test_a_file_of_several_blocks_is_read_whole(tmp_path: Path) -> None:
    text = "id,text\n" + "".join(f"{i},{'x' * 1000}\n" for i in range(40_000))
    table = read(csv(tmp_path, text))
    assert table["id"].to_pylist() == list(range(40_000))


# ---------------------------------------------------------------- CSV: mistakes


@pytest.mark.parametrize("row", [2, 3, 40, 102])
def test_a_word_among_numbers_is_a_mistake(tmp_path: Path, row: int) -> None:
    values = [str(i) for i in range(101)]
    values[row - 2] = SECRET
    message = refusal(csv(tmp_path, "id,amount\n" + "".join(f"x,{value}\n" for value in values)))
    assert f"column amount, row {row}: a value is not a whole number" in message


def test_a_late_word_among_numbers_is_a_mistake(tmp_path: Path) -> None:
    text = "id,amount\n" + "".join(f"{i},{i}.5,\n"[:-2] + "\n" for i in range(300_000)) + f"9,{SECRET}\n"
    assert "column amount, row 300002: a value is not a number" in refusal(csv(tmp_path, text))


@pytest.mark.parametrize(
    ("good", "bad", "wanted"),
    [
        ("2026-01-31", "2026-02-30", "a date"),
        ("2026-01-31T10:00:00", "2026-01-31T25:00:00", "a timestamp"),
        ("true", "maybe", "true or false"),
        ("1", "99999999999999999999999", "a whole number"),
    ],
)
def test_a_misfit_among_others_is_a_mistake(tmp_path: Path, good: str, bad: str, wanted: str) -> None:
    message = refusal(csv(tmp_path, "id,x\n" + f"r,{good}\n" * 3 + f"r,{bad}\n"))
    assert f"column x, row 5: a value is not {wanted}" in message
    assert bad not in message


def test_a_column_declared_as_text_may_mix(tmp_path: Path) -> None:
    path = csv(tmp_path, "id,ticket\n1,12\n2,13\n3,A14\n")
    assert read(path, expected=(Column(name="ticket", type="string"),))["ticket"].to_pylist() == ["12", "13", "A14"]


def test_an_expected_type_is_read_and_demanded(tmp_path: Path) -> None:
    expected = (Column(name="amount", type="double"),)
    assert read(csv(tmp_path, "id,amount\n1,2\n"), expected=expected).schema.types[1] == pa.float64()
    message = refusal(csv(tmp_path, f"id,amount\n1,2\n2,{SECRET}\n"), expected=expected)
    assert "column amount, row 3: a value is not a number" in message
    narrow = (Column(name="amount", type="int16"),)
    assert "row 3: a value is not of int16" in refusal(csv(tmp_path, "id,amount\n1,2\n2,70000\n"), expected=narrow)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"a,b\n1,2\n3,4,{SECRET}\n", "row 3: goes on after column b (3 of 2 values)"),
        (f"a,b\n1,2\n{SECRET}\n", "row 3: ends before column b (1 of 2 values)"),
        (f"a,b\n1,2\n\n3,4\n{SECRET}\n", "row 4: ends before column"),
        ("a,b\n" + "1,2\n" * 3_000_000 + f"{SECRET}\n", "row 3000002: ends before column"),
        ("a,b,a\n1,2,3\n", "column a: its name is used twice"),
        ("a,b,A\n1,2,3\n", "column A: its name differs from a only by case"),
        ("a,,b\n1,2,3\n", "column 2: its name is empty"),
        ("a, ,b\n1,2,3\n", "column 2: its name is empty"),
        ('a,"b\nc"\n1,2\n', "column 2: its name holds unprintable characters"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        (f"a;b\n1;{SECRET}\n", "is not separated by commas"),
        (f'a,b\n"{SECRET},1\n2,3\n', "row 2: ends before column"),
        (f'a,b\n1,"{SECRET}\n2,3\n', "a quote in the last column is not closed"),
        (f'a,b\n1,2\n1,"{SECRET}\n2,3', "a quote in the last column is not closed"),
        (f'a,b\n1,"{SECRET}\n' + "2,3\n" * 6_000_000, "a quote is not closed"),
        (b"a,b\n1,x\n2,\xe9" + SECRET.encode() + b"\n", "column b, row 3: is not UTF-8"),
        (b"a,\xe9\n1,x\n", "column 2, row 1: is not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "is not UTF-8 but UTF-16"),
        (b"a,b\n1," + b"x" * 20_000_000 + b"\n", "a row is longer than 8 MiB"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) and value.isprintable() else "",
)
def test_a_bad_csv_file_is_refused(tmp_path: Path, text: str | bytes, wanted: str) -> None:
    assert wanted in refusal(csv(tmp_path, text))


@pytest.mark.parametrize("first", ["1980-01-01", "4711", "3.5", "+49 30 123"])
def test_a_file_without_a_header_does_not_publish_its_first_row(tmp_path: Path, first: str) -> None:
    message = refusal(csv(tmp_path, f"{SECRET},{first}\nJones,{first}\n"))
    assert "column 2, row 1: looks like a value" in message
    assert first not in message


def test_a_damaged_gzip_file_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b"a,b\n" + b"1,2\n" * 100_000)
    assert "cannot be read" in refusal(csv(tmp_path, whole[:-30], name="visits.csv.gz"))
    assert "visits.csv.gz" in refusal(csv(tmp_path, b"a,b\n1,2\n", name="visits.csv.gz"))


def test_a_file_that_changes_between_the_passes_is_refused(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,b\n1,2\n")
    source = open_source(path)
    path.write_text(f"a,b\n1,{SECRET}\n")
    with pytest.raises(ConfigurationError, match="column b, row 2: a value is not a whole number"):
        list(source.batches())
    path.write_text("a,c\n1,2\n")
    with pytest.raises(ConfigurationError, match="its columns are others"):
        list(source.batches())


# ---------------------------------------------------------------- Parquet


def parquet(tmp_path: Path, table: pa.Table, **options: object) -> Path:
    path = tmp_path / "visits.parquet"
    pq.write_table(table, path, **options)
    return path


@pytest.mark.parametrize(
    ("values", "stored", "sealed"),
    [
        ([1, None], pa.uint8(), pa.int16()),
        ([1, None], pa.uint32(), pa.int64()),
        ([1, 2**63 - 1], pa.uint64(), pa.int64()),
        ([1.5, None], pa.float16(), pa.float32()),
        ([None, None], pa.null(), pa.string()),
        (["x", None], pa.large_string(), pa.string()),
        (["x", "y"], pa.dictionary(pa.int32(), pa.string()), pa.string()),
        ([b"abcd"], pa.binary(4), pa.binary()),
        ([NOON], pa.timestamp("ns"), pa.timestamp("us")),
        ([NOON], pa.timestamp("ms", "Europe/Berlin"), pa.timestamp("us", "UTC")),
        ([Decimal("1.50")], pa.decimal128(10, 2), pa.decimal128(10, 2)),
        ([[1, 2], None], pa.list_(pa.uint16()), pa.list_(pa.int32())),
        ([{"a": 1}], pa.struct([("a", pa.uint8())]), pa.struct([("a", pa.int16())])),
        ([[("k", 1)]], pa.map_(pa.string(), pa.uint8()), pa.map_(pa.string(), pa.int16())),
    ],
    ids=str,
)
def test_types_become_what_spark_reads(
    tmp_path: Path, values: list[object], stored: pa.DataType, sealed: pa.DataType
) -> None:
    table = read(parquet(tmp_path, pa.table({"x": pa.array(values, stored)})))
    assert table.schema.field("x").type == sealed
    assert table["x"].null_count == sum(value is None for value in values)


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([dt.time(10)], pa.time64("us")),
        ([dt.timedelta(1)], pa.duration("us")),
        ([Decimal(1)], pa.decimal256(50, 0)),
        ([[dt.time(10)]], pa.list_(pa.time32("s"))),
    ],
    ids=str,
)
def test_a_type_that_spark_cannot_read_is_refused(tmp_path: Path, values: list[object], stored: pa.DataType) -> None:
    message = refusal(parquet(tmp_path, pa.table({"id": [1], "x": pa.array(values, stored)})))
    assert "column x: type" in message
    assert "cannot be sealed" in message


def test_a_value_that_its_sealed_type_cannot_hold_is_refused(tmp_path: Path) -> None:
    values = pa.array([1] * 70_000 + [2**63], pa.uint64())
    message = refusal(parquet(tmp_path, pa.table({"x": values})))
    assert "column x, row 70001: a value of type uint64 does not fit int64" in message
    assert str(2**63) not in message
    nanoseconds = pa.array([1000, 1001], pa.timestamp("ns"))
    assert "column x, row 2" in refusal(parquet(tmp_path, pa.table({"x": nanoseconds})))


def test_bad_names_are_refused_in_parquet_too(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert "used twice" in refusal(parquet(tmp_path, twice))
    assert "only by case" in refusal(parquet(tmp_path, pa.table({"a": [1], "A": [2]})))
    assert "has no columns" in refusal(parquet(tmp_path, pa.table({})))


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path, pa.table({"x": list(range(100_000))}), compression="zstd")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "cannot be read as Parquet" in refusal(path)
    path.write_bytes(data[:5000] + bytes(20_000) + data[25_000:])
    assert "cannot be read as Parquet" in refusal(path)
    path.write_bytes(b"")
    assert "cannot be read as Parquet" in refusal(path)


# ---------------------------------------------------------------- both


@pytest.mark.parametrize("name", ["visits.xlsx", "visits", "visits.json", "visits.tsv"])
def test_a_file_of_another_type_is_refused(tmp_path: Path, name: str) -> None:
    assert "of no known type" in refusal(csv(tmp_path, "a,b\n1,2\n", name=name))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "is not a file" in refusal(tmp_path / "folder.csv")


def test_a_missing_column_or_another_type_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path, pa.table({"id": [1], "amount": ["1"], "added": [1]}))
    assert "column plan: it is missing" in refusal(path, expected=(Column(name="plan", type="string"),))
    message = refusal(path, expected=(Column(name="amount", type="int64"),))
    assert "column amount: its type is string, wanted int64" in message
    schema = open_source(path, expected=(Column(name="id", type="int64"),)).schema
    require_columns(schema, expected=columns_of(schema), path=path)
    assert "column plan: it is missing" in refusal(
        csv(tmp_path, "id\n1\n"), expected=(Column(name="plan", type="string"),)
    )


def test_an_expected_type_that_no_csv_column_has_is_refused(tmp_path: Path) -> None:
    expected = (Column(name="a", type="list<item: int64>"),)
    assert "column a: its type is int64, wanted list" in refusal(csv(tmp_path, "a,b\n1,2\n"), expected=expected)
