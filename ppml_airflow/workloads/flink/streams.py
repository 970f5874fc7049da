"""The streams of one Flink job: which keys its processes get, what they read, and what becomes of what they wrote.

Whatever a job reads and writes is record frames in the private directory:

    inputs/VIEW/part-00000    a link to a sealed segment of a stream, or to a part of a table
    inputs/VIEW/rows-00000    the rows of that part of a table, written as frames after the lease
    output/DATASET/part-00000 what each subtask wrote

Frames that stay inside are sealed under a key made here, so that whatever they lie on holds no plaintext. An output is
collected when the job is done: into the fixed number of encrypted Parquet parts or of segments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.sealing.frames import FRAME_RECORDS, SegmentKey, SegmentWriter, StreamOrder, open_segment
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.sealing.records import arrow_type, decode_records, encode_records, stream_schema
from ppml_airflow.sealing.tables import read_sealed_batches, write_sealed_parquet
from ppml_airflow.sealing.wrapping import new_key
from ppml_airflow.workloads.flink.settings import EventTime
from ppml_airflow.workloads.guest_socket import GuestSocket, part_name
from ppml_airflow.workloads.job import FileKey, JobKeys, TableInput, TableOutput, WorkloadJob
from ppml_airflow.workloads.process import write_private

_BATCH_RECORDS = 100 * FRAME_RECORDS
_SEGMENT = re.compile(r"part-\d{5}")


class Segment(NamedTuple):
    """What one subtask wrote into an output, sealed under the key of frames that stay inside."""

    dataset: str
    name: str
    content: bytes


class JobStreams:
    """What the processes of one job read and write. They are told paths below the private directory they work in."""

    def __init__(self, private: Path, *, job: WorkloadJob) -> None:
        self.key = new_key()
        """Of frames that stay inside (32 bytes); the members of a set share the leader's."""
        self._private = private
        self._job = job

    def views(self, *, times: Mapping[str, EventTime]) -> list[dict[str, Any]]:
        """The inputs as Java is told of them; nothing in it is secret.

        Raises:
            ConfigurationError: a column has a type that no stream has, or there is no such event time.
        """
        return [self._view(table, time=times.get(table.view)) for table in self._job.inputs]

    def folder(self, output: TableOutput) -> str:
        """Where the job writes an output, as it is told."""
        return str(self._folder(output).relative_to(self._private))

    def written(self) -> list[Segment]:
        """What the job's subtasks wrote here, still sealed."""
        return [
            Segment(dataset=output.dataset, name=path.name, content=path.read_bytes())
            for output in self._job.outputs
            for path in self._written(output)
        ]

    def take(self, segment: Segment) -> None:
        """Lay a segment that another member's subtask wrote beside those that were written here.

        Raises:
            VerificationError: there is no such output, or the subtask's segment is there already.
        """
        output = next((output for output in self._job.outputs if output.dataset == segment.dataset), None)
        if output is None or not _SEGMENT.fullmatch(segment.name):
            raise VerificationError(f"{segment.dataset} has no segment {segment.name}", code="output_mismatch")
        folder = self._folder(output)
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            write_private(folder / segment.name, segment.content)
        except FileExistsError as error:
            raise VerificationError(f"segment {segment.name} was written twice", code="output_mismatch") from error

    def write_rows(self, keys: JobKeys) -> None:
        """Write the rows of tables as frames.

        Raises:
            VerificationError: a part of a table is not what was sealed.
        """
        for table in self._job.inputs:
            if not table.is_stream:
                for index, (part, path) in enumerate(zip(table.parts, self._segments(table), strict=True)):
                    self._write_part(part, path, partition=index, key=keys.read[part])

    def inside_key(self, path: Path) -> FileKey | None:
        """The key of frames that stay inside: rows of tables, and what subtasks write. None for any other path."""
        rows = {path for table in self._job.inputs if not table.is_stream for path in self._segments(table)}
        if path not in rows and path.parent not in {self._folder(output) for output in self._job.outputs}:
            return None
        return FileKey(data_key=self.key, aad=f"ppml/v1/inside {path.relative_to(self._private)}".encode())

    def collect(self, output: TableOutput, *, columns: Sequence[Column], keys: JobKeys) -> tuple[Path, ...]:
        """Gather what the job wrote into the parts of an output, as many as were fixed before the lease.

        Raises:
            VerificationError: nothing was written, not all of it, or other columns than declared.
        """
        written = self._written(output)
        if not written:
            raise VerificationError(f"output {output.dataset} was not written", code="output_mismatch")
        target = self._private / "output" / f"{output.dataset}.sealed"
        target.mkdir(mode=0o700)
        collect = _collect_stream if output.is_stream else _collect_table
        return collect(self._records(written), output=output, target=target, columns=columns, keys=keys)

    def _folder(self, output: TableOutput) -> Path:
        return self._private / "output" / output.dataset

    def _written(self, output: TableOutput) -> list[Path]:
        return sorted(self._folder(output).glob("part-*"))

    def _segments(self, table: TableInput) -> list[Path]:
        name = part_name if table.is_stream else "rows-{:05d}".format
        return [self._private / "inputs" / table.view / name(index) for index in range(len(table.parts))]

    def _view(self, table: TableInput, *, time: EventTime | None) -> dict[str, Any]:
        columns = {column.name: column.type.removesuffix(" not null") for column in table.columns}
        for name, kind in columns.items():
            if arrow_type(kind) is None:
                raise ConfigurationError(
                    f"column {name} of {table.view} has type {kind}, which a stream cannot hold", code="unfit_input"
                )
        view: dict[str, Any] = {
            "name": table.view,
            "columns": [{"name": name, "type": kind} for name, kind in columns.items()],
            "segments": [str(path.relative_to(self._private)) for path in self._segments(table)],
        }
        if time is None:
            return view
        if not columns.get(time.column, "").startswith("timestamp"):
            raise ConfigurationError(
                f"event time {time.column} is no timestamp of {table.view}, which has columns {columns}",
                code="no_event_time",
            )
        return {**view, "event_time": time.column, "delay_s": time.delay_s}

    def _write_part(self, part: Path, path: Path, *, partition: int, key: FileKey) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with path.open("xb") as target:
            writer = SegmentWriter(target, key=self._segment_key(path), partition=partition)
            writer.write_all(encode_records(read_sealed_batches(part, data_key=key.data_key, aad=key.aad)))
            writer.write([], is_last=True)

    def _segment_key(self, path: Path) -> SegmentKey:
        key = self.inside_key(path)
        if key is None:
            raise ConfigurationError(f"{path.name} is no segment of this job")
        return SegmentKey(key=key.key, aad=key.aad)

    def _records(self, segments: Sequence[Path]) -> Iterator[bytes]:
        order = StreamOrder()
        for segment in segments:
            for _, records in open_segment(segment, key=self._segment_key(segment), order=order):
                yield from records
        order.require_end()


class StreamSocket(GuestSocket):
    """The guest's socket of a Flink job: keys of sealed segments, and of frames that stay inside."""

    def __init__(self, private: Path, *, job: WorkloadJob, streams: JobStreams) -> None:
        self._streams = streams
        super().__init__(private, job=job)

    def arm(self, keys: JobKeys, *, on_progress: Callable[[int], None]) -> None:
        """Give out keys from now on."""
        self._streams.write_rows(keys)
        super().arm(keys, on_progress=on_progress)

    def _read_key(self, path: Path) -> FileKey | None:
        return super()._read_key(self._private / path) or self._write_key(path)

    def _write_key(self, path: Path) -> FileKey | None:
        return None if self._keys is None else self._streams.inside_key(self._private / path)


def _collect_stream(
    records: Iterator[bytes], *, output: TableOutput, target: Path, columns: Sequence[Column], keys: JobKeys
) -> tuple[Path, ...]:
    """One partition and one segment for each file of the output; batches of records go to them in turn."""
    paths = tuple(target / part_name(index) for index in range(output.files))
    shares: list[list[bytes]] = [[] for _ in paths]
    for turn, batch in enumerate(_batches(records)):
        decode_records(batch, columns=columns, name=output.dataset)
        shares[turn % output.files] += batch
    for index, (path, share) in enumerate(zip(paths, shares, strict=True)):
        key = keys.write(output.dataset, path.name)
        with path.open("xb") as file:
            writer = SegmentWriter(file, key=SegmentKey(key=key.key, aad=key.aad), partition=index)
            writer.write_all(share)
            writer.write([], is_last=True)
    return paths


def _collect_table(
    records: Iterator[bytes], *, output: TableOutput, target: Path, columns: Sequence[Column], keys: JobKeys
) -> tuple[Path, ...]:
    schema = stream_schema(columns, name=output.dataset)
    decoded = (decode_records(batch, columns=columns, name=output.dataset) for batch in _batches(records))
    table = pa.Table.from_batches(chain.from_iterable(part.to_batches() for part in decoded), schema=schema)
    paths = []
    for index in range(output.files):
        path = target / part_name(index)
        key = keys.write(output.dataset, path.name)
        start, end = (table.num_rows * position // output.files for position in (index, index + 1))
        rows = table.slice(start, end - start).to_batches()
        write_sealed_parquet(rows, path, schema=schema, data_key=key.data_key, aad=key.aad)
        paths.append(path)
    return tuple(paths)


def _batches(records: Iterator[bytes]) -> Iterator[list[bytes]]:
    while batch := list(islice(records, _BATCH_RECORDS)):
        yield batch
