"""What an enclave seals: outputs that say nothing by their size and open only once they are released.

Parts are padded to classes, their number is fixed before the lease, and the data key made here is wrapped for the
output's dataset (a next step, if the lease allows any) and for each recipient under the lease's release key, which the
broker hands out only after the receipt is committed. The manifest is signed by the attested key K of the lease.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ppml_airflow.sealing.datasets import encode_directory
from ppml_airflow.sealing.frames import segment_aad
from ppml_airflow.sealing.manifest import Body, Column, Wrap
from ppml_airflow.sealing.tables import parquet_aad
from ppml_airflow.sealing.versions import (
    Enclave,
    NewVersion,
    SealedVersion,
    finish_version,
    seal_bodies,
    unfinished_folder,
)
from ppml_airflow.sealing.wrapping import DatasetKey, Recipient, new_key, wrap_for_dataset, wrap_for_recipient
from ppml_airflow.units import RelativePath


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSeal:
    """All that seals one output of a lease, made before the job runs. Its data key is random and made here."""

    storage: Path
    new: NewVersion
    """The version that the lease reserved."""
    dataset_key: DatasetKey | None
    """None for what no later step may read."""
    recipients: tuple[Recipient, ...]
    release_key: bytes = field(repr=False)
    enclave: Enclave
    is_stream: bool = False
    """Whether the job writes segments of record frames; else encrypted Parquet, or files."""
    data_key: bytes = field(default_factory=new_key, repr=False)

    def aad(self, path: RelativePath) -> bytes:
        """The AAD of what the job writes as the part of that path: an encrypted Parquet file, or a segment."""
        new, aad = self.new, segment_aad if self.is_stream else parquet_aad
        return aad(domain_id=new.domain_id, dataset=new.dataset, version=new.version, path=path)


def seal_table_output(parts: Sequence[Path], *, columns: Sequence[Column], seal: OutputSeal) -> SealedVersion:
    """Seal the encrypted Parquet parts, or the segments of a stream, that a job wrote.

    Args:
        parts: in order; part i was written under `file_key(seal.data_key, aad=seal.aad(part_path(i)))`.
        columns: the schema, fixed before the lease.
        seal: of this output.
    """
    return _seal(parts, body="padded-frames" if seal.is_stream else "padded-parquet", columns=columns, seal=seal)


def seal_files_output(files: Mapping[str, Path | bytes], *, seal: OutputSeal) -> SealedVersion:
    """Seal files that a job made, by their names: one part each, after one with the names."""
    return _seal([encode_directory(files), *files.values()], body="padded-files", columns=(), seal=seal)


def _seal(sources: Sequence[Path | bytes], *, body: Body, columns: Sequence[Column], seal: OutputSeal) -> SealedVersion:
    with unfinished_folder(seal.storage, new=seal.new) as folder:
        parts = seal_bodies(sources, folder, new=seal.new, data_key=seal.data_key, padded=True)
        return finish_version(
            folder, new=seal.new, body=body, parts=parts, columns=columns, wraps=_wraps(seal), maker=seal.enclave
        )


def _wraps(seal: OutputSeal) -> list[Wrap]:
    new = seal.new
    wraps = []
    if seal.dataset_key is not None:
        wraps.append(
            wrap_for_dataset(
                seal.data_key,
                dataset_key=seal.dataset_key,
                domain_id=new.domain_id,
                dataset=new.dataset,
                version=new.version,
            )
        )
    wraps += [
        wrap_for_recipient(
            seal.data_key,
            recipient=recipient,
            release_key=seal.release_key,
            domain_id=new.domain_id,
            dataset=new.dataset,
            version=new.version,
        )
        for recipient in seal.recipients
    ]
    return wraps
