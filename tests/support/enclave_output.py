"""What an enclave leaves in storage and the broker releases: a genuine sealed output, its lease, its binding."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Binding, Lease, LeaseOutput
from ppml_airflow.protocol.messages import ReleaseAnswer, ReleaseRequest
from ppml_airflow.sealing.columns import columns_of
from ppml_airflow.sealing.outputs import OutputSeal, seal_files_output, seal_table_output
from ppml_airflow.sealing.tables import write_sealed_parquet
from ppml_airflow.sealing.versions import Enclave, NewVersion, SealedVersion, part_path
from ppml_airflow.sealing.wrapping import hpke_seal, new_key, release_info
from ppml_airflow.signing import SigningKey
from ppml_airflow.units import format_instant
from tests.support.owners import Owners

ZERO = "sha256:" + "0" * 64


@dataclass(kw_only=True)
class EnclaveOutput:
    """One output of one lease. Tests change a part of it before they seal or answer."""

    owners: Owners
    run_id: str
    storage: Path
    dataset: str = "report"
    version: int = 1
    prev: str | None = None
    key: SigningKey = field(default_factory=lambda: SigningKey.generate(scheme="p256"))
    release_key: bytes = field(default_factory=new_key)
    lease_id: str = field(default_factory=lambda: secrets.token_hex(16))

    def __post_init__(self) -> None:
        self.recipient = self.owners.recipient_certificate

    @property
    def binding(self) -> Binding:
        return Binding(
            v=1,
            role="job",
            domain_id=self.owners.domain.domain_id,
            job_digest=ZERO,
            signing_key=self.key.public,
            sealing_key=self.recipient.key,
            set_id="",
            index=0,
        )

    @property
    def lease(self) -> Lease:
        now = datetime.now(UTC)
        return Lease(
            lease_id=self.lease_id,
            binding=canonical.digest(self.binding),
            job=ZERO,
            run_id=self.run_id,
            step="aggregate",
            attempt=1,
            epoch=0,
            issued=format_instant(now),
            expires=format_instant(now + timedelta(hours=1)),
            inputs=(),
            outputs=(
                LeaseOutput(
                    dataset=self.dataset,
                    version=self.version,
                    prev=self.prev,
                    dataset_certificate=self.owners.dataset_certificates[self.dataset].serial,
                    recipient_certificates=(self.recipient.serial,),
                ),
            ),
            log_certificates=(),
        )

    def seal(self, *tables: pa.Table) -> SealedVersion:
        """Seal each table as a part."""
        seal = self.output_seal()
        with tempfile.TemporaryDirectory() as private:
            parts = []
            for index, table in enumerate(tables):
                parts.append(Path(private) / part_path(index))
                write_sealed_parquet(
                    table.to_batches(),
                    parts[-1],
                    schema=table.schema,
                    data_key=seal.data_key,
                    aad=seal.aad(part_path(index)),
                )
            self.sealed = seal_table_output(parts, columns=columns_of(tables[0].schema), seal=seal)
        return self.sealed

    def seal_files(self, files: Mapping[str, bytes]) -> SealedVersion:
        """Seal a folder of files."""
        self.sealed = seal_files_output(files, seal=self.output_seal())
        return self.sealed

    def output_seal(self) -> OutputSeal:
        """What seals this output, with a new data key."""
        return OutputSeal(
            storage=self.storage,
            new=NewVersion(
                domain_id=self.owners.domain.domain_id,
                dataset=self.dataset,
                version=self.version,
                prev=self.prev,
                run_id=self.run_id,
            ),
            dataset_key=self.owners.dataset_certificates[self.dataset],
            recipients=(self.recipient,),
            release_key=self.release_key,
            enclave=Enclave(lease_id=self.lease_id, key=self.key),
        )

    def answer(self, request: ReleaseRequest) -> ReleaseAnswer:
        """What the broker answers to RELEASE."""
        info = release_info(run_id=request.run_id, dataset=request.dataset, serial=request.recipient)
        return ReleaseAnswer(
            sealed_release_key=hpke_seal(self.release_key, to=self.recipient.key, info=info),
            manifest=self.sealed.envelope,
            lease=self.owners.broker.sign(self.lease),
            binding=self.binding,
        )
