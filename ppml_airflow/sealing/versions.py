"""A new version of a sealed dataset on disk: a folder of parts and their signed manifest, which appears by one rename.

`storage/<dataset>/<version>-<digest of the manifest>/` holds `part-00000`, ... and `manifest.json`, the envelope in
canonical JSON. A folder under its own name is complete; an unfinished one has a name that begins with a dot and is
removed when sealing fails.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ppml_airflow import canonical
from ppml_airflow.errors import VerificationError
from ppml_airflow.sealing.body import part_context, seal_part
from ppml_airflow.sealing.manifest import Body, Column, Manifest, Part, Wrap
from ppml_airflow.signing import Envelope, SigningKey
from ppml_airflow.units import Digest, HexId, Name, RelativePath

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """Which version is sealed: its place after `prev`, and the run that it is for (null for no run)."""

    domain_id: Digest
    dataset: Name
    version: int
    prev: Digest | None
    run_id: HexId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Producer:
    """An owner's agent that seals: the serial of its certificate and its signing key."""

    serial: HexId
    key: SigningKey = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enclave:
    """An enclave that seals: its lease and its attested key K."""

    lease_id: HexId
    key: SigningKey = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedVersion:
    """A version of a dataset as it lies in storage."""

    manifest: Manifest
    envelope: Envelope
    folder: Path

    @property
    def digest(self) -> Digest:
        """The digest of the manifest, by which other documents call this version."""
        return self.envelope.digest


def part_path(index: int) -> RelativePath:
    """The path of a part: a number, so that it says nothing of the data."""
    return f"part-{index:05d}"


def dataset_folder(storage: Path, *, dataset: Name, version: int, digest: Digest) -> Path:
    """Where a version lies, by the digest of its manifest."""
    return storage / dataset / f"{version:06d}-{digest.removeprefix('sha256:')[:16]}"


def load_envelope(folder: Path) -> Envelope:
    """Read the manifest's envelope from a version's folder. It is untrusted until `verify_manifest`.

    Raises:
        VerificationError: there is none.
        MalformedInputError: it is not an envelope.
    """
    try:
        data = (folder / MANIFEST_FILE).read_bytes()
    except OSError as error:
        raise VerificationError(f"manifest of {folder.name} is missing", code="part_missing") from error
    return canonical.decode(data, into=Envelope)


def unfinished_prefix(run_id: HexId | None) -> str:
    """How the names of unfinished folders of a run begin."""
    return f".unfinished-{run_id or 'no-run'}-"


@contextmanager
def unfinished_folder(storage: Path, *, new: NewVersion) -> Iterator[Path]:
    """A folder to seal into, gone at the end unless `finish_version` has given it its name.

    Its name tells the run, so that whoever was killed while sealing knows at the next start what to remove.
    """
    folder = storage / new.dataset / f"{unfinished_prefix(new.run_id)}{secrets.token_hex(8)}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def finish_version(
    folder: Path,
    *,
    new: NewVersion,
    body: Body,
    parts: Sequence[Part],
    columns: Sequence[Column],
    wraps: Sequence[Wrap],
    maker: Producer | Enclave,
) -> SealedVersion:
    """Sign the manifest of what lies in an unfinished folder, and let the folder appear under its name."""
    manifest = Manifest(
        domain_id=new.domain_id,
        dataset=new.dataset,
        version=new.version,
        prev=new.prev,
        body=body,
        parts=tuple(parts),
        columns=tuple(columns),
        wraps=tuple(wraps),
        producer=maker.serial if isinstance(maker, Producer) else None,
        run_id=new.run_id,
        lease_id=maker.lease_id if isinstance(maker, Enclave) else None,
    )
    envelope = maker.key.sign(manifest)
    (folder / MANIFEST_FILE).write_bytes(canonical.encode(envelope))
    for file in folder.iterdir():
        file.chmod(0o644)  # ciphertext and signatures: whoever may enter the storage may read them
        _sync(file)
    storage = folder.parent.parent
    final = dataset_folder(storage, dataset=new.dataset, version=new.version, digest=envelope.digest)
    folder.rename(final)
    _sync(final.parent)
    return SealedVersion(manifest=manifest, envelope=envelope, folder=final)


def seal_bodies(
    sources: Sequence[Path | bytes], folder: Path, *, new: NewVersion, data_key: bytes, padded: bool
) -> tuple[Part, ...]:
    """Seal files, or bytes, as the numbered parts of a new version."""
    parts = []
    for index, source in enumerate(sources):
        path = part_path(index)
        context = part_context(
            domain_id=new.domain_id,
            dataset=new.dataset,
            version=new.version,
            path=path,
            index=index,
            count=len(sources),
        )
        sealed = seal_part(source, folder / path, key=data_key, context=context, padded=padded)
        parts.append(Part(path=path, size=sealed.size, digest=sealed.digest, sealed_version=new.version))
    return tuple(parts)


def describe_part(file: Path, *, version: int) -> Part:
    """What a manifest says of a sealed file that lies there."""
    with file.open("rb") as reader:
        digest = hashlib.file_digest(reader, "sha256").hexdigest()
        size = os.fstat(reader.fileno()).st_size
    return Part(path=file.name, size=size, digest=f"sha256:{digest}", sealed_version=version)


def _sync(path: Path) -> None:
    """Write through to the disk: a manifest must never be published before what it names is there to stay."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
