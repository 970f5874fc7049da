"""Sealed tables: Parquet modular encryption with one explicit key per file.

Each file is uniformly encrypted (footer and columns, AES_GCM_V1) under `file_key`, and its AAD prefix, which is not
stored in it, names domain, dataset, version and path. So a file that was flipped, truncated, swapped with another,
taken from another version or replaced by plain Parquet is refused. Spark reads and writes the same files through the
crypto factory in `jvm/`. The key-tools of Parquet are not used: misconfigured they write plaintext, and they accept it.

Source: Parquet modular encryption, `apache/parquet-format` Encryption.md; RFC 5869 (HKDF).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ppml_airflow import canonical
from ppml_airflow.errors import VerificationError
from ppml_airflow.units import MIB, Digest, Name, RelativePath

_FILE_KEY_LABEL = b"ppml/v1/parquet-file"
_ENCRYPTED_MAGIC = b"PARE"
_ROW_GROUP_BYTES = 64 * MIB


def file_key(data_key: bytes, *, aad: bytes) -> bytes:
    """Derive the 32-byte key of one Parquet file from the data key of its dataset."""
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_FILE_KEY_LABEL + aad).derive(data_key)


def parquet_aad(*, domain_id: Digest, dataset: Name, version: int, path: RelativePath) -> bytes:
    """The AAD prefix of one Parquet file; `version` is the one under which it was sealed, `path` its final one."""
    return canonical.encode(
        {"label": "ppml/v1/parquet-part", "domain_id": domain_id, "dataset": dataset, "version": version, "path": path}
    )


def write_sealed_parquet(
    batches: Iterable[pa.RecordBatch], target: Path, *, schema: pa.Schema, data_key: bytes, aad: bytes
) -> int:
    """Write batches as one encrypted Parquet file and return the number of rows. On failure no file is left."""
    properties = pe.create_encryption_properties(file_key(data_key, aad=aad), aad_prefix=aad, store_aad_prefix=False)
    rows = 0
    try:
        with pq.ParquetWriter(target, schema, encryption_properties=properties) as writer:
            for group in _row_groups(batches, schema=schema):
                writer.write_table(group)
                rows += group.num_rows
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return rows


def read_sealed_parquet(path: Path, *, data_key: bytes, aad: bytes) -> pa.Table:
    """Read an encrypted Parquet file whole.

    Raises:
        VerificationError: missing, changed, swapped, plain, or sealed under another key.
    """
    with _opened(path, data_key=data_key, aad=aad) as file:
        return file.read()


def read_sealed_batches(path: Path, *, data_key: bytes, aad: bytes) -> Iterator[pa.RecordBatch]:
    """Read an encrypted Parquet file batch by batch.

    Raises:
        VerificationError: missing, changed, swapped, plain, or sealed under another key.
    """
    with _opened(path, data_key=data_key, aad=aad) as file:
        yield from file.iter_batches()


def read_sealed_schema(path: Path, *, data_key: bytes, aad: bytes) -> pa.Schema:
    """Read the schema of an encrypted Parquet file.

    Raises:
        VerificationError: missing, changed, swapped, plain, or sealed under another key.
    """
    with _opened(path, data_key=data_key, aad=aad) as file:
        return file.schema_arrow


@contextmanager
def _opened(path: Path, *, data_key: bytes, aad: bytes) -> Iterator[pq.ParquetFile]:
    properties = pe.create_decryption_properties(file_key(data_key, aad=aad), aad_prefix=aad)
    try:
        # The library does not look at the leading magic, and says little of a plain file.
        with path.open("rb") as file:
            if file.read(len(_ENCRYPTED_MAGIC)) != _ENCRYPTED_MAGIC:
                raise VerificationError(f"{path.name} is not encrypted Parquet", code="part_changed")
        with pq.ParquetFile(path, decryption_properties=properties) as opened:
            yield opened
    except FileNotFoundError as error:
        raise VerificationError(f"{path.name} is missing", code="part_missing") from error
    except (OSError, pa.ArrowException) as error:
        raise VerificationError(
            f"{path.name} is not whole, not of this dataset and version, or sealed under another key",
            code="part_changed",
        ) from error


def _row_groups(batches: Iterable[pa.RecordBatch], *, schema: pa.Schema) -> Iterator[pa.Table]:
    """Gather small batches, because the writer makes a row group of each table that it is given."""
    gathered: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        gathered.append(batch)
        size += batch.nbytes
        if size >= _ROW_GROUP_BYTES:
            yield pa.Table.from_batches(gathered, schema=schema)
            gathered, size = [], 0
    if gathered:
        yield pa.Table.from_batches(gathered, schema=schema)
