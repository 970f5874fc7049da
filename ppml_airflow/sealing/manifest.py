"""The manifest of a sealed dataset: which files, in which order, sealed to whom, made by whom.

A manifest says nothing of the data: paths are numbers, sizes of enclave outputs are padded to classes, row counts and
statistics lie inside the sealed parts.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from ppml_airflow.canonical import Document
from ppml_airflow.signing import SignedDocument
from ppml_airflow.units import Digest, HexId, Name, RelativePath


class Part(Document, frozen=True, kw_only=True):
    """One sealed file. `sealed_version` is the dataset version under which it was sealed (it is part of its AAD)."""

    path: RelativePath
    size: Annotated[int, Meta(ge=0)]
    digest: Digest
    sealed_version: Annotated[int, Meta(ge=1)]


class Column(Document, frozen=True, kw_only=True):
    """A column of a table: its name and its Arrow type, as `str(pyarrow.DataType)`."""

    name: str
    type: str


class Wrap(Document, frozen=True, kw_only=True):
    """The data key, wrapped. To a dataset: HPKE; to a recipient: AEAD(release key, HPKE(recipient key))."""

    to: Literal["dataset", "recipient"]
    serial: HexId
    wrapped: bytes


class Manifest(SignedDocument, frozen=True, kw_only=True):
    """One version of a sealed dataset, signed by a certified producer or by the enclave key K of a lease."""

    payload_type: ClassVar[str] = "application/vnd.ppml.manifest.v1+json"
    domain_id: Digest
    dataset: Name
    version: Annotated[int, Meta(ge=1)]
    prev: Digest | None
    body: Literal["parquet", "files", "padded-parquet", "padded-files"]
    """`parquet`: parts are encrypted Parquet; `files`: Cobblestone; `padded-`: inside a padded Cobblestone body."""
    parts: tuple[Part, ...]
    columns: tuple[Column, ...]
    """The schema of a table; empty for files."""
    wraps: tuple[Wrap, ...]
    producer: HexId | None
    """Serial of the producer's certificate, for what an owner's agent sealed."""
    run_id: HexId | None
    """The run for which it was sealed or computed; null for a dataset sealed for no run."""
    lease_id: HexId | None
    """The lease under which an enclave made it; then `producer` is null and K signs."""
