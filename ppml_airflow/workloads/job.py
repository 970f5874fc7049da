"""What a workload gets from the guest, and what it gives back. Values only.

A `Workload` runs one job in two phases: `prepare` before the lease, with no secret anywhere and errors in full;
`run` after it, answered by one word of the closed vocabulary and never by an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Protocol

from ppml_airflow.domain.documents import Limits
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.sealing.tables import file_key
from ppml_airflow.workloads.cluster import Cluster
from ppml_airflow.workloads.vocabulary import Outcome

TypedValue = int | str | bool | Decimal | date
"""The value of a parameter as jobs see it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableInput:
    """A granted input: the name that the job calls it by, its columns, its parts in order.

    Parts are encrypted Parquet, or, of a stream, segments of record frames.
    """

    view: str
    columns: tuple[Column, ...]
    parts: tuple[Path, ...]
    is_stream: bool = False
    sealed_bytes: int = 0
    """Size of the sealed parts, of which padded ones are laid out after the lease only; 0 if nobody said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesInput:
    """A granted folder of files, such as a model. Names and contents are sealed until the lease."""

    dataset: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOutput:
    """An output and the number of its parts, which is fixed before the lease: encrypted Parquet, or frames."""

    dataset: str
    files: int
    is_stream: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesOutput:
    """An output that is a folder of files, and their number, which is fixed before the lease."""

    dataset: str
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadJob:
    """One job, as its approval spells it out."""

    code: Path
    """Folder with the private copy of the job's code."""
    argv: tuple[str, ...]
    """The program (a file below `code`) and its arguments."""
    params: Mapping[str, TypedValue]
    environment: Mapping[str, str]
    inputs: tuple[TableInput, ...]
    outputs: tuple[TableOutput, ...]
    limits: Limits
    members: int = 1
    """How many enclaves do it together; 1 = no set."""
    index: int = 0
    """Which of them this one is; the first, 0, writes the outputs."""
    files: tuple[FilesInput, ...] = ()
    folders: tuple[FilesOutput, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileKey:
    """What opens or writes one encrypted Parquet file or segment: its dataset's data key (32 bytes) and its AAD.

    Job processes are told `key`, the file's own, and never the data key.
    """

    data_key: bytes = field(repr=False)
    aad: bytes

    @property
    def key(self) -> bytes:
        """The key of this file (32 bytes)."""
        return file_key(self.data_key, aad=self.aad)


def require_tables(job: WorkloadJob, *, engine: str) -> None:
    """Refuse streams where an engine reads and writes tables only.

    Raises:
        ConfigurationError: code `unfit_input`; names the stream.
    """
    streams = [table.view for table in job.inputs if table.is_stream]
    streams += [output.dataset for output in job.outputs if output.is_stream]
    if streams:
        raise ConfigurationError(
            f"{streams[0]} is a stream; {engine} reads and writes tables",
            code="unfit_input",
            hint="seal it from a .csv or .parquet file, or let a Flink step read it",
        )


def _grant_no_files(dataset: str) -> Iterator[tuple[str, bytes]]:
    raise PolicyDeniedError(f"folder {dataset} is not granted", code="not_granted")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobKeys:
    """What the lease released, as a job's process may ask for it."""

    read: Mapping[Path, FileKey]
    """One for each part of each `TableInput`, by the path given there."""
    write: Callable[[str, str], FileKey]
    """Of (output dataset, relative path such as `part-00000`)."""
    open_files: Callable[[str], Iterator[tuple[str, bytes]]] = _grant_no_files
    """Name and content of each file of a `FilesInput`, one by one, each authentic and in memory only."""
    cluster: Cluster | None = field(default=None, repr=False)
    """The way to the other members of a set; None without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """How a job ended. Outputs are there only if the outcome is `ok`."""

    outcome: Outcome
    outputs: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """Parts of each `TableOutput`, in order, named by their final relative paths."""
    files: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict, repr=False)
    """Name and content of the files of each `FilesOutput`."""
    disclosed: Mapping[str, int] = field(default_factory=dict)
    """Counts that the job wants to disclose; the guest lets out those that the approval lists."""

    def __bool__(self) -> bool:
        raise TypeError("a JobResult is neither true nor false: compare its outcome")


class Workload(Protocol):
    """A way to run jobs: an entry of `registry.WORKLOADS`."""

    def prepare(self) -> Mapping[str, tuple[Column, ...]]:
        """Check everything that can be checked without a secret; return the columns of each table that is an output.

        Raises:
            ConfigurationError: the job's code, names or limits are wrong; says what and where.
        """
        ...

    def run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        """Run the prepared job once. `on_progress` gets the per cent of input that has been opened."""
        ...

    def cancel(self) -> None:
        """Make a `run` in another thread end with `cancelled`."""
        ...

    def close(self) -> None:
        """Kill what still runs. May be called twice."""
        ...
