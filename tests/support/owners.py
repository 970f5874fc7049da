"""A domain with one owner and everybody he certified: real keys, real signatures, in memory."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from ppml_airflow.domain.documents import Certificate, Domain, ParamValue, Role, Run
from ppml_airflow.sealing.wrapping import SealingKey
from ppml_airflow.signing import Envelope, PublicKey, SigningKey
from ppml_airflow.units import Trust, format_instant


class Owners:
    """The root key, the broker's, one producer's, one recipient's, and a key per dataset; all certified."""

    def __init__(self, *datasets: str, trust: Trust = "simulated") -> None:
        self.root = SigningKey.generate()
        self.domain = Domain(name="test", roots=(self.root.public,), threshold=1, trust=trust)
        self.broker = SigningKey.generate()
        self.producer = SigningKey.generate()
        self.recipient = SealingKey.generate()
        self.dataset_keys = {dataset: SealingKey.generate() for dataset in datasets}
        self.certificates: list[Envelope] = []
        self.broker_certificate = self.certify("broker", key=self.broker.public)
        self.producer_certificate = self.certify(
            "producer", subject="owner", key=self.producer.public, datasets=datasets
        )
        self.recipient_certificate = self.certify(
            "recipient", subject="analyst", key=self.recipient.public, datasets=datasets
        )
        self.dataset_certificates: Mapping[str, Certificate] = {
            name: self.certify(
                "dataset", subject=name, key=key.public, datasets=(name,), kek_id=f"kek-{name}-{secrets.token_hex(4)}"
            )
            for name, key in self.dataset_keys.items()
        }

    def certify(
        self,
        role: Role,
        *,
        key: PublicKey,
        subject: str = "broker",
        datasets: tuple[str, ...] = (),
        kek_id: str = "",
        expires_in: timedelta = timedelta(days=365),
    ) -> Certificate:
        """Sign one more certificate."""
        certificate = Certificate(
            domain_id=self.domain.domain_id,
            role=role,
            subject=subject,
            key=key,
            datasets=datasets,
            kek_id=kek_id,
            not_after=format_instant(datetime.now(UTC) + expires_in),
            serial=secrets.token_hex(16),
        )
        self.certificates.append(self.root.sign(certificate))
        return certificate

    def run(
        self, *, pipeline: str = "nightly", domain_id: str | None = None, params: Mapping[str, ParamValue] | None = None
    ) -> Run:
        """A new run, not signed yet."""
        now = format_instant(datetime.now(UTC))
        return Run(
            run_id=secrets.token_hex(16),
            domain_id=domain_id or self.domain.domain_id,
            approval="sha256:" + "0" * 64,
            pipeline=pipeline,
            slot=now,
            params=params or {},
            epoch=0,
            opened=now,
            claimed={"dag_id": pipeline, "run_id": "manual"},
        )
