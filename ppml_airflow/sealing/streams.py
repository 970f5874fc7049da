"""Sealed streams: a dataset whose parts are segments of record frames, in order, partition by partition.

An owner's stream is a file of records (`.jsonl`, one JSON object a line), or a folder of such files: its files, in the
order of their names, are the segments of one partition; if it has folders instead, each is a partition. The manifest
tells columns, sizes and digests; how many records there are lies inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.sealing.columns import columns_of, require_columns
from ppml_airflow.sealing.frames import (
    SegmentKey,
    SegmentWriter,
    StreamOrder,
    open_segment,
    read_headers,
    require_place,
    segment_aad,
    segment_key,
)
from ppml_airflow.sealing.manifest import Column, Manifest, Part
from ppml_airflow.sealing.records import (
    BATCH_RECORDS,
    decode_records,
    encode_records,
    infer_records_schema,
    read_records,
    stream_schema,
)
from ppml_airflow.sealing.versions import (
    NewVersion,
    Producer,
    SealedVersion,
    describe_part,
    finish_version,
    part_path,
    unfinished_folder,
)
from ppml_airflow.sealing.wrapping import DatasetKey, new_key, wrap_for_dataset

SUFFIX = ".jsonl"
SEGMENT_RECORDS = 100_000
"""At most so many records in a segment of what an owner seals."""

STREAM_BODIES = ("frames", "padded-frames")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSource:
    """A stream to seal: its schema, and the files of each partition in order."""

    path: Path
    schema: pa.Schema
    partitions: tuple[tuple[Path, ...], ...]
    watch: Callable[[int], None] = lambda read_bytes: None
    """Told how many bytes have been read."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in chain.from_iterable(self.partitions))


def is_stream(path: Path) -> bool:
    """Whether a source is a stream: a `.jsonl` file, or a folder of nothing else."""
    if not path.is_dir():
        return path.suffix == SUFFIX
    files = [file for file in path.rglob("*") if not file.is_dir()]
    return bool(files) and all(file.suffix == SUFFIX for file in files)


def open_stream_source(path: Path, *, expected: Sequence[Column] = ()) -> StreamSource:
    """Look at a stream and say what will be sealed. Every file is read once.

    Raises:
        ConfigurationError: no such stream, or a record in it that cannot be sealed.
    """
    if not path.exists():
        raise ConfigurationError(f"stream {path} does not exist")
    partitions = _partitions(path)
    files = list(chain.from_iterable(partitions))
    filled = [file for file in files if file.stat().st_size]
    if not filled:
        raise ConfigurationError(f"stream {path} holds no record")
    schema = infer_records_schema(filled[0])
    for file in filled[1:]:
        found = infer_records_schema(file)
        if not found.equals(schema):
            raise ConfigurationError(f"file {file} has other columns than {filled[0].name}")
    require_columns(schema, expected=expected, path=path)
    return StreamSource(path=path, schema=schema, partitions=partitions)


def seal_stream(
    source: StreamSource,
    *,
    storage: Path,
    new: NewVersion,
    dataset_key: DatasetKey,
    producer: Producer,
    segment_records: int = SEGMENT_RECORDS,
) -> SealedVersion:
    """Seal an owner's stream as record frames under a new data key.

    Raises:
        ConfigurationError: the source cannot be sealed; nothing is left in storage.
    """
    data_key = new_key()
    wrap = wrap_for_dataset(
        data_key, dataset_key=dataset_key, domain_id=new.domain_id, dataset=new.dataset, version=new.version
    )
    with unfinished_folder(storage, new=new) as folder:
        parts = write_segments(source, folder, new=new, data_key=data_key, segment_records=segment_records)
        return finish_version(
            folder,
            new=new,
            body="frames",
            parts=parts,
            columns=columns_of(source.schema),
            wraps=[wrap],
            maker=producer,
        )


def write_segments(
    source: StreamSource, folder: Path, *, new: NewVersion, data_key: bytes, segment_records: int
) -> list[Part]:
    """Write a stream's records into the numbered segments of a new version.

    Raises:
        ConfigurationError: a file cannot be read, or changed its columns meanwhile.
    """
    parts: list[Part] = []
    read_bytes = 0
    for partition, files in enumerate(source.partitions):
        sequence = 0
        for number, file in enumerate(files):
            records = encode_records(read_records(file, schema=source.schema))
            for portion, is_end in _portions(records, size=segment_records):
                path = part_path(len(parts))
                aad = segment_aad(domain_id=new.domain_id, dataset=new.dataset, version=new.version, path=path)
                with (folder / path).open("xb") as target:
                    writer = SegmentWriter(
                        target, key=segment_key(data_key, aad=aad), partition=partition, sequence=sequence
                    )
                    writer.write_all(portion)
                    if is_end and number == len(files) - 1:
                        writer.write([], is_last=True)
                sequence = writer.sequence
                parts.append(describe_part(folder / path, version=new.version))
            read_bytes += file.stat().st_size
            source.watch(read_bytes)
    return parts


def stream_aad(manifest: Manifest, *, part: Part) -> bytes:
    """The AAD of a stream's segment: of the version under which it was sealed."""
    return segment_aad(
        domain_id=manifest.domain_id, dataset=manifest.dataset, version=part.sealed_version, path=part.path
    )


def read_stream(files: Iterable[Path], *, manifest: Manifest, data_key: bytes) -> Iterator[pa.RecordBatch]:
    """Read the rows of a stream's segments, freed of padding, in order; the first batch is empty.

    Raises:
        VerificationError: a frame is missing, repeated, swapped, cut or changed; names segment, partition, sequence.
    """
    yield pa.RecordBatch.from_pylist([], schema=stream_schema(manifest.columns, name=manifest.dataset))
    records = chain.from_iterable(open_stream(files, manifest=manifest, data_key=data_key))
    while gathered := list(islice(records, BATCH_RECORDS)):
        yield from decode_records(gathered, columns=manifest.columns, name=manifest.dataset).to_batches()


def open_stream(files: Iterable[Path], *, manifest: Manifest, data_key: bytes) -> Iterator[list[bytes]]:
    """Open a stream's segments, freed of padding, into lists of records, in order.

    Raises:
        VerificationError: a frame is missing, repeated, swapped, cut or changed; names segment, partition, sequence.
    """
    order = StreamOrder()
    for part, file in zip(manifest.parts, files, strict=True):
        key = segment_key(data_key, aad=stream_aad(manifest, part=part))
        for _, records in open_segment(file, key=key, order=order):
            yield records
    order.require_end()


def _partitions(path: Path) -> tuple[tuple[Path, ...], ...]:
    if path.is_file():
        return ((path,),)
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir())
    files = sorted(entry for entry in path.iterdir() if not entry.is_dir())
    if folders and files:
        raise ConfigurationError(
            f"stream {path} has files and folders side by side", hint="one folder for each partition, or none"
        )
    partitions = tuple(tuple(sorted(folder.iterdir())) for folder in folders) if folders else (tuple(files),)
    for file in chain.from_iterable(partitions):
        if file.suffix != SUFFIX or not file.is_file():
            raise ConfigurationError(f"{file} is not a {SUFFIX} file of stream {path}")
    if not all(partitions):
        raise ConfigurationError(f"stream {path} has a partition without files")
    return partitions


def _portions(records: Iterator[bytes], *, size: int) -> Iterator[tuple[list[bytes], bool]]:
    """Cut records into portions of a segment each, and say which is the last; there is always one."""
    portion = list(islice(records, size))
    while True:
        following = list(islice(records, size))
        yield portion, not following
        if not following:
            return
        portion = following


def explain_broken(manifest: Manifest, *, folder: Path) -> str:
    """Which frame of a stream is missing, repeated, cut or misplaced, as far as headers tell without a key; else ''."""
    order = StreamOrder()
    try:
        for part in manifest.parts:
            place = SegmentKey(key=b"", aad=stream_aad(manifest, part=part)).place
            for frame in read_headers(folder / part.path):
                require_place(frame, place=place, segment=part.path)
                order.follow(frame, segment=part.path)
        order.require_end()
    except VerificationError as error:
        return error.message
    return ""
