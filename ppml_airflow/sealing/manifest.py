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


Body = Literal["parquet", "files", "frames", "padded-parquet", "padded-files", "padded-frames"]
"""`parquet`: parts are encrypted Parquet; `files`: Cobblestone, the first part is the `Directory`; `frames`: segments
of record frames; `padded-`: the same inside a padded Cobblestone body."""

FilePath = Annotated[
    str, Meta(pattern=r"^(?!.*(^|/)\.{1,2}(/|$))[^/\x00-\x1f\\]+(/[^/\x00-\x1f\\]+)*$(?!\n)", max_length=400)
]
"""The owner's name of a file: a relative path without `.` or `..` parts (attack: a file opened outside its folder)."""


class Directory(Document, frozen=True, kw_only=True):
    """The names of the files in a dataset of files, one for each part after the first. It lies sealed in the first."""

    files: tuple[FilePath, ...]

    def __post_init__(self) -> None:
        if len({name.casefold() for name in self.files}) != len(self.files):
            raise ValueError("two files have the same name, or differ only by case")


class Manifest(SignedDocument, frozen=True, kw_only=True):
    """One version of a sealed dataset, signed by a certified producer or by the enclave key K of a lease."""

    payload_type: ClassVar[str] = "application/vnd.ppml.manifest.v1+json"
    domain_id: Digest
    dataset: Name
    version: Annotated[int, Meta(ge=1)]
    prev: Digest | None
    body: Body
    parts: tuple[Part, ...]
    columns: tuple[Column, ...]
    """The schema of a table or stream; empty for files."""
    wraps: tuple[Wrap, ...]
    producer: HexId | None
    """Serial of the producer's certificate, for what an owner's agent sealed."""
    run_id: HexId | None
    """The run for which it was sealed or computed; null for a dataset sealed for no run."""
    lease_id: HexId | None
    """The lease under which an enclave made it; then `producer` is null and K signs."""

    def __post_init__(self) -> None:
        if (self.producer is None) == (self.lease_id is None):
            raise ValueError("manifest must name either a producer or a lease")
        if len({part.path for part in self.parts}) != len(self.parts):
            raise ValueError("manifest names a part twice")
        if len({(wrap.to, wrap.serial) for wrap in self.wraps}) != len(self.wraps):
            raise ValueError("manifest wraps the data key twice for one holder")
