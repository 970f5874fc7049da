"""Sealed datasets from end to end: seal a table or files as a new version, verify a version, open it.

To open a version, in this order, each step refusing what the one before let through:
1. `verify_manifest`: made by a producer certified for this dataset, or by the enclave of a lease, in this domain.
2. `open_data_key` or `open_released_key`: the key was wrapped for this holder, dataset and version.
3. `open_table`, `open_files`: every part is there, is the one that the manifest names, and opens in its place only.

Which version is the newest is the broker's word (its head); `require_successor` compares a new one with it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from ppml_airflow import canonical
from ppml_airflow.errors import ConfigurationError, MalformedInputError, PolicyDeniedError, VerificationError
from ppml_airflow.sealing.body import open_part, open_part_bytes, part_context
from ppml_airflow.sealing.columns import columns_of
from ppml_airflow.sealing.manifest import Directory, Manifest, Part, Wrap
from ppml_airflow.sealing.sources import TableSource
from ppml_airflow.sealing.streams import STREAM_BODIES, read_stream, stream_aad
from ppml_airflow.sealing.tables import parquet_aad, read_sealed_batches, write_sealed_parquet
from ppml_airflow.sealing.versions import (
    NewVersion,
    Producer,
    SealedVersion,
    describe_part,
    finish_version,
    part_path,
    seal_bodies,
    unfinished_folder,
)
from ppml_airflow.sealing.wrapping import (
    DatasetKey,
    SealingKey,
    new_key,
    unwrap_for_dataset,
    unwrap_for_recipient,
    wrap_for_dataset,
)
from ppml_airflow.signing import Envelope, PublicKey, verify_envelope
from ppml_airflow.units import MIB, Digest, HexId, Name

PART_BYTES = 256 * MIB
"""How much of a table, in memory, goes into one part of what an owner seals."""

TABLE_BODIES = ("parquet", "padded-parquet")
ROW_BODIES = (*TABLE_BODIES, *STREAM_BODIES)
FILE_BODIES = ("files", "padded-files")

# ---------------------------------------------------------------- seal


def seal_table(
    source: TableSource,
    *,
    storage: Path,
    new: NewVersion,
    dataset_key: DatasetKey,
    producer: Producer,
    part_bytes: int = PART_BYTES,
) -> SealedVersion:
    """Seal an owner's table as encrypted Parquet under a new data key.

    Raises:
        ConfigurationError: the source cannot be sealed; nothing is left in storage.
    """
    data_key = new_key()
    parts: list[Part] = []
    with unfinished_folder(storage, new=new) as folder:
        for portion in _portions(source.batches(), part_bytes=part_bytes):
            path = part_path(len(parts))
            aad = parquet_aad(domain_id=new.domain_id, dataset=new.dataset, version=new.version, path=path)
            write_sealed_parquet(portion, folder / path, schema=source.schema, data_key=data_key, aad=aad)
            parts.append(describe_part(folder / path, version=new.version))
        return finish_version(
            folder,
            new=new,
            body="parquet",
            parts=parts,
            columns=columns_of(source.schema),
            wraps=[_wrap(data_key, new=new, dataset_key=dataset_key)],
            maker=producer,
        )


def seal_files(
    files: Mapping[str, Path], *, storage: Path, new: NewVersion, dataset_key: DatasetKey, producer: Producer
) -> SealedVersion:
    """Seal an owner's files. Their names (relative paths, the mapping's keys) lie inside the first sealed part.

    Raises:
        ConfigurationError: no files, a bad name, or one that cannot be read; nothing is left in storage.
    """
    data_key = new_key()
    with unfinished_folder(storage, new=new) as folder:
        sources: list[Path | bytes] = [encode_directory(files), *files.values()]
        parts = seal_bodies(sources, folder, new=new, data_key=data_key, padded=False)
        return finish_version(
            folder,
            new=new,
            body="files",
            parts=parts,
            columns=(),
            wraps=[_wrap(data_key, new=new, dataset_key=dataset_key)],
            maker=producer,
        )


def encode_directory(files: Iterable[str]) -> bytes:
    """The first part of a dataset of files: the names of the others, in order.

    Raises:
        ConfigurationError: no files, or a name that is not a plain relative path.
    """
    names = list(files)
    if not names:
        raise ConfigurationError("there are no files to seal")
    try:
        return canonical.encode(canonical.convert({"files": names}, into=Directory))
    except MalformedInputError as error:
        raise ConfigurationError(f"files cannot be sealed under these names: {error.message}") from error


# ---------------------------------------------------------------- verify


def verify_manifest(
    envelope: Envelope,
    *,
    domain_id: Digest,
    dataset: Name,
    producers: Mapping[HexId, PublicKey],
    leases: Mapping[HexId, PublicKey],
) -> Manifest:
    """Verify that a manifest is of this dataset and made by whom it names.

    Args:
        envelope: untrusted.
        domain_id: the domain that the dataset belongs to.
        dataset: the dataset that is wanted (attack: another dataset's genuine manifest).
        producers: keys certified for this dataset, by serial of their certificates.
        leases: attested keys K of enclaves, by id of the leases whose outputs may be of this dataset.

    Raises:
        VerificationError: another domain or dataset, or not signed by the certified or attested key that it names.
        MalformedInputError: not a manifest.
    """
    claimed = canonical.decode(envelope.payload, into=Manifest)
    signer = producers.get(claimed.producer) if claimed.producer else leases.get(claimed.lease_id or "")
    if signer is None:
        maker = f"producer {claimed.producer}" if claimed.producer else f"lease {claimed.lease_id}"
        raise VerificationError(f"manifest of {dataset} names {maker}, which may not make it", code="not_certified")
    manifest = verify_envelope(envelope, into=Manifest, keys=(signer,))
    if manifest.domain_id != domain_id:
        raise VerificationError(
            f"manifest of {dataset} belongs to domain {manifest.domain_id}, wanted {domain_id}", code="other_domain"
        )
    if manifest.dataset != dataset:
        raise VerificationError(f"manifest is of dataset {manifest.dataset}, wanted {dataset}", code="other_dataset")
    return manifest


def require_successor(manifest: Manifest, *, head_version: int, head_digest: Digest | None) -> None:
    """Require that a manifest comes right after the head of its dataset (0 and None while there is none).

    Raises:
        VerificationError: an older or repeated version, a gap, or a version on top of another head.
    """
    if (manifest.version, manifest.prev) != (head_version + 1, head_digest):
        raise VerificationError(
            f"manifest of {manifest.dataset} is version {manifest.version} after {manifest.prev}, "
            f"wanted version {head_version + 1} after {head_digest}",
            code="not_next",
        )


def verify_parts(manifest: Manifest, *, folder: Path) -> tuple[Path, ...]:
    """Verify that every part lies there, whole, and return their paths in order. Other files there are ignored.

    Raises:
        VerificationError: a part is missing or is not the one that the manifest names.
    """
    for part in manifest.parts:
        file = folder / part.path
        if file.is_symlink() or not file.is_file():
            raise VerificationError(f"part {part.path} of {manifest.dataset} is missing", code="part_missing")
        if file.stat().st_size != part.size or describe_part(file, version=1).digest != part.digest:
            raise VerificationError(
                f"part {part.path} of {manifest.dataset} is not the one that the manifest names", code="part_changed"
            )
    return tuple(folder / part.path for part in manifest.parts)


# ---------------------------------------------------------------- open


def dataset_wrap(manifest: Manifest) -> Wrap:
    """The data key as it is wrapped to the dataset's own key.

    Raises:
        VerificationError: there is none.
    """
    wrap = next((wrap for wrap in manifest.wraps if wrap.to == "dataset"), None)
    if wrap is None:
        raise VerificationError(f"manifest of {manifest.dataset} has no key for its dataset", code="wrong_wrap")
    return wrap


def open_data_key(manifest: Manifest, *, key: SealingKey, kek_id: str) -> bytes:
    """Unwrap the data key of a version with the private half of its dataset's key.

    Raises:
        VerificationError: the key was wrapped for another dataset, version or domain, or is absent.
    """
    return unwrap_for_dataset(
        dataset_wrap(manifest),
        key=key,
        domain_id=manifest.domain_id,
        dataset=manifest.dataset,
        version=manifest.version,
        kek_id=kek_id,
    )


def open_released_key(manifest: Manifest, *, key: SealingKey, serial: HexId, release_key: bytes) -> bytes:
    """Unwrap the data key of an output with a recipient's private key and the release key.

    Raises:
        PolicyDeniedError: the output is not sealed to this recipient.
        VerificationError: the key was wrapped for another output or under another release key.
    """
    wrap = next((wrap for wrap in manifest.wraps if (wrap.to, wrap.serial) == ("recipient", serial)), None)
    if wrap is None:
        raise PolicyDeniedError(f"output {manifest.dataset} is not sealed to {serial}", code="not_a_recipient")
    return unwrap_for_recipient(
        wrap,
        key=key,
        release_key=release_key,
        domain_id=manifest.domain_id,
        dataset=manifest.dataset,
        version=manifest.version,
    )


def open_table(manifest: Manifest, *, folder: Path, data_key: bytes) -> Iterator[pa.RecordBatch]:
    """Read the rows of a sealed table or stream; no plaintext touches a disk. Without rows there is one empty batch.

    Raises:
        VerificationError: a part is missing, changed, out of place, or under another key.
    """
    with tempfile.TemporaryDirectory(prefix="ppml-") as scratch:
        files = open_table_parts(manifest, folder=folder, data_key=data_key, scratch=Path(scratch))
        if manifest.body in STREAM_BODIES:
            yield from read_stream(files, manifest=manifest, data_key=data_key)
            return
        for part, file in zip(manifest.parts, files, strict=True):
            yield from read_sealed_batches(file, data_key=data_key, aad=aad_of(manifest, part=part))


def open_table_parts(manifest: Manifest, *, folder: Path, data_key: bytes, scratch: Path) -> Iterator[Path]:
    """Verify the parts of a table or stream one by one: encrypted Parquet, or frames (`aad_of` tells their AAD).

    Padded parts are freed of their padding, into `scratch`; what is written there is still encrypted.

    Raises:
        VerificationError: no rows, or a part is missing, changed, out of place, or under another key.
    """
    if manifest.body not in ROW_BODIES:
        raise VerificationError(f"dataset {manifest.dataset} holds {manifest.body}, wanted a table", code="other_body")
    if manifest.body in ("parquet", "frames"):
        yield from verify_parts(manifest, folder=folder)
        return
    for part in manifest.parts:
        file = scratch / part.path
        context = _context(manifest, part=part)
        open_part(folder / part.path, file, part=part, key=data_key, context=context, padded=True)
        yield file


def aad_of(manifest: Manifest, *, part: Part) -> bytes:
    """The AAD of a table's or stream's part: of the version under which it was sealed."""
    if manifest.body in STREAM_BODIES:
        return stream_aad(manifest, part=part)
    return parquet_aad(
        domain_id=manifest.domain_id, dataset=manifest.dataset, version=part.sealed_version, path=part.path
    )


def open_files(manifest: Manifest, *, folder: Path, data_key: bytes, target: Path) -> tuple[Path, ...]:
    """Open a dataset of files into a new folder, which appears only when all of them are authentic.

    Raises:
        ConfigurationError: the target exists.
        VerificationError: not files, or a part is missing, changed, out of place, or under another key.
    """
    if target.exists():
        raise ConfigurationError(f"{target} exists already; it is not overwritten")
    padded = manifest.body == "padded-files"
    named = _named_parts(manifest, folder=folder, data_key=data_key)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name, part in named.items():
            file = unfinished / name
            file.parent.mkdir(parents=True, exist_ok=True)
            context = _context(manifest, part=part)
            open_part(folder / part.path, file, part=part, key=data_key, context=context, padded=padded)
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return tuple(target / name for name in named)


def read_files(manifest: Manifest, *, folder: Path, data_key: bytes) -> Iterator[tuple[str, bytes]]:
    """Read a dataset of files, name and content one by one; no plaintext touches a disk.

    Raises:
        VerificationError: not files, or a part is missing, changed, out of place, or under another key.
    """
    padded = manifest.body == "padded-files"
    for name, part in _named_parts(manifest, folder=folder, data_key=data_key).items():
        context = _context(manifest, part=part)
        yield name, open_part_bytes(folder / part.path, part=part, key=data_key, context=context, padded=padded)


# ---------------------------------------------------------------- inside


def _named_parts(manifest: Manifest, *, folder: Path, data_key: bytes) -> dict[str, Part]:
    """The part of each file, by the names that lie sealed in the first part."""
    if manifest.body not in FILE_BODIES:
        raise VerificationError(f"dataset {manifest.dataset} holds {manifest.body}, wanted files", code="other_body")
    first, *parts = manifest.parts
    names = open_part_bytes(
        folder / first.path,
        part=first,
        key=data_key,
        context=_context(manifest, part=first),
        padded=manifest.body == "padded-files",
    )
    directory = canonical.decode(names, into=Directory)
    if len(directory.files) != len(parts):
        raise VerificationError(f"dataset {manifest.dataset} has other files than it names", code="part_missing")
    return dict(zip(directory.files, parts, strict=True))


def _wrap(data_key: bytes, *, new: NewVersion, dataset_key: DatasetKey) -> Wrap:
    return wrap_for_dataset(
        data_key, dataset_key=dataset_key, domain_id=new.domain_id, dataset=new.dataset, version=new.version
    )


def _context(manifest: Manifest, *, part: Part) -> bytes:
    """A part's context: its position among the parts that were sealed with it."""
    sealed_together = [other for other in manifest.parts if other.sealed_version == part.sealed_version]
    return part_context(
        domain_id=manifest.domain_id,
        dataset=manifest.dataset,
        version=part.sealed_version,
        path=part.path,
        index=sealed_together.index(part),
        count=len(sealed_together),
    )


def _portions(batches: Iterable[pa.RecordBatch], *, part_bytes: int) -> Iterator[Iterator[pa.RecordBatch]]:
    """Cut batches into portions of about `part_bytes`: at least one, which may be empty."""
    remaining = iter(batches)
    batch = next(remaining, None)

    def portion() -> Iterator[pa.RecordBatch]:
        nonlocal batch
        size = 0
        while batch is not None and size < part_bytes:
            size += batch.nbytes
            yield batch
            batch = next(remaining, None)

    yield portion()
    while batch is not None:
        yield portion()
