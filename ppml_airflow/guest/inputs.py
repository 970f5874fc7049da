"""The inputs of a job: found by manifest, verified part by part, and how the job's process will open them.

Storage is untrusted. Every part is compared with its manifest before the lease, so that a flipped or missing one is
named in full; when it is read it has to decrypt in its place as well, so that a later change is noticed too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.sealing.datasets import (
    ROW_BODIES,
    aad_of,
    open_table_parts,
    read_files,
    verify_parts,
)
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.sealing.streams import STREAM_BODIES, explain_broken
from ppml_airflow.sealing.versions import dataset_folder
from ppml_airflow.units import Digest
from ppml_airflow.workloads.job import FileKey, TableInput

_PADDED_ROWS = ("padded-parquet", "padded-frames")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedInput:
    """One input, whole when it was looked at. The parts of a table are opened by `file_keys`."""

    manifest: Manifest
    folder: Path
    parts: tuple[Path, ...]
    """Of a table or stream: the sealed parts themselves, or for padded ones what `unpad` writes in private memory."""

    @property
    def is_table(self) -> bool:
        """Whether it holds rows, as a table or a stream; else it holds files."""
        return self.manifest.body in ROW_BODIES

    def table(self) -> TableInput:
        """The input as the job sees it: by the name of its dataset."""
        return TableInput(
            view=self.manifest.dataset,
            columns=self.manifest.columns,
            parts=self.parts,
            sealed_bytes=sum(part.size for part in self.manifest.parts),
            is_stream=self.manifest.body in STREAM_BODIES,
        )

    def unpad(self, *, data_key: bytes) -> None:
        """Free padded parts of a table of their padding; what is written is still encrypted.

        Raises:
            VerificationError: a part is missing, changed, out of place, or under another key.
        """
        if self.manifest.body not in _PADDED_ROWS:
            return
        scratch = self.parts[0].parent
        for _ in open_table_parts(self.manifest, folder=self.folder, data_key=data_key, scratch=scratch):
            pass

    def read_files(self, *, data_key: bytes) -> Iterator[tuple[str, bytes]]:
        """Name and content of each file, in memory only.

        Raises:
            VerificationError: not files, or a part is missing, changed, out of place, or under another key.
        """
        return read_files(self.manifest, folder=self.folder, data_key=data_key)

    def file_keys(self, *, data_key: bytes) -> Mapping[Path, FileKey]:
        """What opens each part of a table."""
        return {
            path: FileKey(data_key=data_key, aad=aad_of(self.manifest, part=part))
            for path, part in zip(self.parts, self.manifest.parts, strict=True)
        }


def verify_input(manifest: Manifest, *, digest: Digest, storage: Path, scratch: Path) -> VerifiedInput:
    """Find an input in storage and verify every part.

    Args:
        manifest: verified.
        digest: of the manifest.
        storage: untrusted.
        scratch: a private folder, for parts that are padded.

    Raises:
        ConfigurationError: the storage has no folder of this version.
        VerificationError: a part is missing or is not the one that the manifest names.
    """
    folder = dataset_folder(storage, dataset=manifest.dataset, version=manifest.version, digest=digest)
    if not folder.is_dir():
        raise ConfigurationError(
            f"dataset {manifest.dataset} version {manifest.version} is not in {storage}",
            code="input_missing",
            hint="is this the storage that the owner's agent seals to?",
        )
    try:
        parts = verify_parts(manifest, folder=folder)
    except VerificationError as error:
        told = explain_broken(manifest, folder=folder) if manifest.body == "frames" else ""
        raise VerificationError(error.message, code=error.code, hint=told) from error
    if manifest.body in _PADDED_ROWS:
        unpadded = scratch / manifest.dataset
        unpadded.mkdir(mode=0o700, parents=True)
        parts = tuple(unpadded / part.path for part in manifest.parts)
    return VerifiedInput(manifest=manifest, folder=folder, parts=parts)
