"""Encrypted Parquet opens with its own key and AAD, and is refused when changed, moved or plain."""

from __future__ import annotations

import secrets
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.sealing.tables import (
    file_key,
    parquet_aad,
    read_sealed_batches,
    read_sealed_parquet,
    read_sealed_schema,
    write_sealed_parquet,
)

KEY = secrets.token_bytes(32)
DOMAIN = "sha256:" + "d" * 64
AAD = parquet_aad(domain_id=DOMAIN, dataset="claims", version=1, path="part-00000")
TABLE = pa.table({"name": [f"person {i}" for i in range(3000)], "amount": list(range(3000))})


def sealed(tmp_path: Path, *, table: pa.Table = TABLE) -> Path:
    path = tmp_path / "part-00000"
    rows = write_sealed_parquet(table.to_batches(), path, schema=table.schema, data_key=KEY, aad=AAD)
    assert rows == table.num_rows
    return path


def test_a_sealed_table_comes_back(tmp_path: Path) -> None:
    path = sealed(tmp_path)
    assert read_sealed_parquet(path, data_key=KEY, aad=AAD) == TABLE
    assert pa.Table.from_batches(read_sealed_batches(path, data_key=KEY, aad=AAD)) == TABLE
    assert read_sealed_schema(path, data_key=KEY, aad=AAD) == TABLE.schema


def test_a_table_without_rows_comes_back(tmp_path: Path) -> None:
    empty = TABLE.slice(0, 0)
    assert read_sealed_parquet(sealed(tmp_path, table=empty), data_key=KEY, aad=AAD) == empty


def test_names_and_values_are_not_in_the_file(tmp_path: Path) -> None:
    data = sealed(tmp_path).read_bytes()
    assert data[:4] == data[-4:] == b"PARE"
    assert not any(word in data for word in (b"amount", b"person", b"claims", b"sha256:"))


def test_the_file_key_follows_data_key_and_aad() -> None:
    other = parquet_aad(domain_id=DOMAIN, dataset="claims", version=1, path="part-00001")
    keys = {file_key(KEY, aad=AAD), file_key(KEY, aad=other), file_key(bytes(32), aad=AAD)}
    assert {len(key) for key in keys} == {32}
    assert len(keys) == 3


def test_the_file_key_is_hkdf_of_the_data_key() -> None:
    # The value that the guest, the JVM's factory and any other reader must agree on.
    assert file_key(bytes(range(32)), aad=b"{}").hex() == (
        "1ad19a4c4cf6a01a80091143157d3c17d65476d8c8fd069063cf2a2678c58b11"
    )


@pytest.mark.parametrize(
    "claim",
    [{"domain_id": "sha256:" + "e" * 64}, {"dataset": "other"}, {"version": 2}, {"path": "part-00001"}],
    ids=lambda claim: next(iter(claim)),
)
def test_a_file_moved_to_another_place_is_refused(tmp_path: Path, claim: dict[str, object]) -> None:
    place = {"domain_id": DOMAIN, "dataset": "claims", "version": 1, "path": "part-00000"} | claim
    with pytest.raises(VerificationError, match="part-00000 is not whole, not of this dataset"):
        read_sealed_parquet(sealed(tmp_path), data_key=KEY, aad=parquet_aad(**place))  # type: ignore[arg-type]  # a table of cases


def test_the_aad_is_checked_even_where_the_key_is_right(tmp_path: Path) -> None:
    path = tmp_path / "part"
    properties = pe.create_encryption_properties(file_key(KEY, aad=AAD), aad_prefix=b"another", store_aad_prefix=False)
    pq.write_table(TABLE, path, encryption_properties=properties)
    with pytest.raises(VerificationError):
        read_sealed_parquet(path, data_key=KEY, aad=AAD)


def test_plain_parquet_swapped_in_is_refused(tmp_path: Path) -> None:
    path = sealed(tmp_path)
    pq.write_table(TABLE, path)
    with pytest.raises(VerificationError, match="part-00000 is not encrypted Parquet"):
        read_sealed_parquet(path, data_key=KEY, aad=AAD)
    # Even with the magic of an encrypted file at its front.
    path.write_bytes(b"PARE" + path.read_bytes()[4:])
    with pytest.raises(VerificationError):
        read_sealed_parquet(path, data_key=KEY, aad=AAD)


def test_parquet_with_a_plain_footer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "part"
    properties = pe.create_encryption_properties(file_key(KEY, aad=AAD), aad_prefix=AAD, plaintext_footer=True)
    pq.write_table(TABLE, path, encryption_properties=properties)
    with pytest.raises(VerificationError, match="not encrypted"):
        read_sealed_parquet(path, data_key=KEY, aad=AAD)


def test_no_flipped_byte_changes_what_is_read(tmp_path: Path) -> None:
    few = TABLE.slice(0, 20)
    path = sealed(tmp_path, table=few)
    whole = path.read_bytes()
    unnoticed = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            assert read_sealed_parquet(path, data_key=KEY, aad=AAD) == few
            unnoticed += 1
        except VerificationError:
            pass
    # Thrift's end marks (0x00, three in the clear metadata) have unused bits; the manifest's digest covers these too.
    assert unnoticed <= 3


@pytest.mark.parametrize("length", [0, 3, 4, 100, -1])
def test_a_truncated_or_extended_file_is_refused(tmp_path: Path, length: int) -> None:
    path = sealed(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    with pytest.raises(VerificationError):
        read_sealed_parquet(path, data_key=KEY, aad=AAD)
    path.write_bytes(whole + b"\0")
    with pytest.raises(VerificationError):
        list(read_sealed_batches(path, data_key=KEY, aad=AAD))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="part-00000 is missing") as refusal:
        read_sealed_parquet(tmp_path / "part-00000", data_key=KEY, aad=AAD)
    assert refusal.value.code == "part_missing"


def test_small_batches_share_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "part"
    batches = TABLE.to_batches(max_chunksize=10)
    write_sealed_parquet(batches, path, schema=TABLE.schema, data_key=KEY, aad=AAD)
    properties = pe.create_decryption_properties(file_key(KEY, aad=AAD), aad_prefix=AAD)
    assert pq.read_metadata(path, decryption_properties=properties).num_row_groups == 1


def test_a_failure_while_writing_leaves_no_file(tmp_path: Path) -> None:
    def batches() -> object:
        yield from TABLE.to_batches()
        raise ConfigurationError("source ended badly")

    with pytest.raises(ConfigurationError):
        write_sealed_parquet(batches(), tmp_path / "part", schema=TABLE.schema, data_key=KEY, aad=AAD)  # type: ignore[arg-type]  # a generator
    assert list(tmp_path.iterdir()) == []
