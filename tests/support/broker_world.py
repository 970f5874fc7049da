"""A real broker over a real SQLite file, an owner who signs, and a guest that shows simulated quotes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import msgspec
from starlette.testclient import TestClient

from ppml_airflow import canonical
from ppml_airflow.attestation.collateral.source import OneCollateral
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.attestation.report_data import nonce_for, public_jwk, report_data
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.attestation.verification import verify_evidence
from ppml_airflow.broker.service.anchor import Anchor
from ppml_airflow.broker.service.api import create_app
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.callers import Caller, hash_token
from ppml_airflow.broker.service.issuing import RELEASE_KEK
from ppml_airflow.broker.service.owners import put_approval, put_certificate, put_policy
from ppml_airflow.broker.service.recovery import require_anchored
from ppml_airflow.broker.store import Store
from ppml_airflow.domain.documents import (
    Approval,
    Binding,
    Certificate,
    DatasetVersion,
    Job,
    Lease,
    LeaseKeys,
    Pins,
    Receipt,
    Run,
    Slots,
    Step,
)
from ppml_airflow.domain.jobs import build_job, signed_request, signed_within_session
from ppml_airflow.keys.keystore import KeystoreFile
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.protocol.messages import Attest, Commit, LeaseAnswer, OpenRun, StepStatus
from ppml_airflow.sealing import wrapping
from ppml_airflow.sealing.manifest import Manifest, Part
from ppml_airflow.signing import Envelope, SigningKey
from ppml_airflow.units import format_instant
from tests.support.owners import Owners
from tests.support.policies import MEASUREMENT, standard_policy
from tests.support.simulated_run import AGGREGATE, SUMMARISE

DATASETS = ("visits", "plans", "report", "summary", "survey", "working", "sleeping", "hungry")
PIPELINE = "nightly"
PART = canonical.digest_bytes(b"sealed")


def make_keystore(folder: Path) -> KeystoreFile:
    """A keystore as a broker begins with. Deriving its key takes a second: make one for many tests."""
    keystore = KeystoreFile.create(folder / "keystore.json", passphrase=b"correct horse")
    keystore.create_key(RELEASE_KEK)
    return keystore


@cache
def empty_database() -> bytes:
    """An SQLite store as the migrations make it, which take as long as a short test."""
    with tempfile.TemporaryDirectory() as folder:
        Store.file(Path(folder) / "broker.db").close()
        return (Path(folder) / "broker.db").read_bytes()


class LocalClient(BrokerClient):
    """The project's own client, speaking to the application in this process."""

    def __init__(self, app: TestClient) -> None:
        self.url = "local"
        self._http = app


@dataclass(kw_only=True)
class World:
    """One installation. The clock stands still until a test moves it."""

    folder: Path
    platform: SimulatedPlatform
    keystore: KeystoreFile
    steps: tuple[Step, ...] = (AGGREGATE, SUMMARISE)
    runs_per_slot: int = 1
    edges: tuple[tuple[str, str], ...] | None = None
    """One step after the other, if nothing else is said."""
    datasets: tuple[str, ...] = DATASETS
    database: str = ""
    """An SQLite file in the folder, if none is named."""
    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def __post_init__(self) -> None:
        self.owners = Owners(*self.datasets)
        self.log_key = wrapping.SealingKey.generate()
        self.owners.certify("log", subject="owner", key=self.log_key.public)
        for dataset, certificate in self.owners.dataset_certificates.items():
            self._store_dataset_key(dataset, certificate)
        self.collateral = self.platform.collateral(self.now)
        self.database = self.database or str(self.folder / "broker.db")
        if "://" not in self.database and not Path(self.database).exists():
            Path(self.database).write_bytes(empty_database())
        self.broker = Broker(
            domain=self.owners.domain,
            signing_key=self.owners.broker,
            store=Store.open(self.database),
            kms=self.keystore,
            dataset_keys=self.folder,
            roots=(self.platform.root,),
            collateral=OneCollateral(read=lambda: self.collateral),
            verify=verify_evidence,
            clock=lambda: self.now,
            anchor=Anchor(self.folder / "anchor", key=self.owners.broker),
        )
        self.callers = {hash_token("airflow"): Caller(name="airflow", pipelines=(PIPELINE,))}
        self.use(self.broker)
        require_anchored(self.broker)
        for envelope in self.owners.certificates:
            put_certificate(self.broker, envelope=envelope)
        put_policy(self.broker, envelope=self.owners.root.sign(self.policy()))
        self.approval_envelope = self.owners.root.sign(self.approval())
        put_approval(self.broker, envelope=self.approval_envelope)

    def use(self, broker: Broker) -> None:
        """Serve this broker from now on."""
        self.broker = broker
        self.app = create_app(broker, callers=lambda: self.callers)
        self.client = self.connect(token="airflow")

    def _store_dataset_key(self, dataset: str, certificate: Certificate) -> None:
        self.keystore.create_key(certificate.kek_id)
        context = wrapping.dataset_key_context(
            domain_id=self.owners.domain.domain_id, dataset=dataset, kek_id=certificate.kek_id
        )
        private = self.owners.dataset_keys[dataset].private_bytes()
        wrapped = self.keystore.wrap(private, key_id=certificate.kek_id, context=context)
        (self.folder / f"{certificate.serial}.wrapped").write_bytes(wrapped)

    def connect(self, *, token: str | None = None) -> BrokerClient:
        """A client with its own cookies: a guest, an agent, or Airflow with its token."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return LocalClient(TestClient(self.app, base_url="https://local", headers=headers))

    # ------------------------------------------------------------ the owner

    def policy(self, **changes: object) -> Policy:
        return standard_policy(self.owners.domain, platform=self.platform, **changes)

    def approval(self, **changes: object) -> Approval:
        default = (("aggregate", "summarise"),) if len(self.steps) > 1 else ()
        approval = Approval(
            domain_id=self.owners.domain.domain_id,
            pipeline=PIPELINE,
            replaces=None,
            steps=self.steps,
            edges=self.edges if self.edges is not None else default,
            slots=Slots(period="day", zone="Europe/Berlin", window_hours=24, backfill=1),
            runs_per_slot=self.runs_per_slot,
            valid_from=format_instant(self.now - timedelta(days=2)),
            valid_until=format_instant(self.now + timedelta(days=30)),
        )
        return msgspec.structs.replace(approval, **changes)

    # ------------------------------------------------------------ the owner's agent

    def manifest(self, dataset: str, *, run_id: str | None = None, **changes: object) -> Manifest:
        head = self.client.head(dataset)
        version = canonical.decode(head.payload, into=Manifest).version + 1 if head else 1
        wrap = wrapping.wrap_for_dataset(
            b"k" * 32,
            dataset_key=self.owners.dataset_certificates[dataset],
            domain_id=self.owners.domain.domain_id,
            dataset=dataset,
            version=version,
        )
        manifest = Manifest(
            domain_id=self.owners.domain.domain_id,
            dataset=dataset,
            version=version,
            prev=head.digest if head else None,
            body="parquet",
            parts=(Part(path="part-00000", size=4, digest=canonical.digest_bytes(b"data"), sealed_version=version),),
            columns=(),
            wraps=(wrap,),
            producer=self.owners.producer_certificate.serial,
            run_id=run_id,
            lease_id=None,
        )
        return msgspec.structs.replace(manifest, **changes)

    def publish(self, dataset: str, *, run_id: str | None = None) -> Envelope:
        envelope = self.owners.producer.sign(self.manifest(dataset, run_id=run_id))
        self.client.publish(envelope)
        return envelope

    # ------------------------------------------------------------ Airflow

    def open_run(self, name: str = "manual", **fields: object) -> str:
        request = OpenRun(pipeline=PIPELINE, slot=None, params={}, claimed={"dag_id": "nightly", "run_id": name})
        return self.client.open_run(msgspec.structs.replace(request, **fields)).run_id

    def ready_run(self, name: str = "manual") -> str:
        """A run whose first step has its inputs."""
        if self.client.head("plans") is None:
            self.publish("plans")
        run_id = self.open_run(name)
        self.publish("visits", run_id=run_id)
        return run_id

    def pass_gate(self, run_id: str, step: str = "aggregate") -> None:
        """What AttestationSensor(before=step) makes happen."""
        Guest(self, run_id=run_id, step=step, role="preflight").ask()

    def status(self, run_id: str, step: str = "aggregate") -> StepStatus:
        return self.client.status(run_id, step)


class Guest:
    """An enclave as the broker sees it: builds the job, attests, asks, commits. Tests may change any part of it."""

    def __init__(
        self,
        world: World,
        *,
        run_id: str,
        step: str = "aggregate",
        role: str = "job",
        measurement: bytes = MEASUREMENT,
        set_id: str = "",
        index: int = 0,
        session: Guest | None = None,
    ) -> None:
        self.world = world
        self.client = world.connect()
        self.measurement = measurement
        self.session = session
        self.key = SigningKey.generate(scheme="p256")
        self.sealing = wrapping.SealingKey.generate()
        self.job = self._job(run_id, step)
        self.binding = Binding(
            v=1,
            role=role,
            domain_id=world.owners.domain.domain_id,
            job_digest=canonical.digest(self.job),
            signing_key=self.key.public,
            sealing_key=self.sealing.public,
            set_id=set_id,
            index=index,
        )

    def _job(self, run_id: str, step: str) -> Job:
        bundle = self.world.client.bundle(run_id, step)
        return build_job(
            approval=canonical.decode(bundle.approval.payload, into=Approval),
            approval_digest=bundle.approval.digest,
            run=canonical.decode(bundle.run.payload, into=Run),
            pins=canonical.decode(bundle.pins.payload, into=Pins),
            step_name=step,
        )

    def change_job(self, **changes: object) -> None:
        """Attest another job than the approved one."""
        self.job = msgspec.structs.replace(self.job, **changes)
        self.binding = msgspec.structs.replace(self.binding, job_digest=canonical.digest(self.job))

    def auth(self) -> None:
        self.nonce, self.salt = self.client.auth(tee="sgx", binding=canonical.digest(self.binding))
        assert self.nonce == nonce_for(salt=self.salt, binding_digest=canonical.digest(self.binding))

    def quote(self, *, nonce: str | None = None, jwk: dict[str, str] | None = None) -> bytes:
        covered = report_data(nonce=nonce or self.nonce, tee_pubkey=jwk or public_jwk(self.key.public))
        return self.world.platform.quote_sgx(measurement=self.measurement, report_data=covered)

    def attest(self, *, quote: bytes | None = None) -> None:
        self.auth()
        self.client.attest(nonce=self.nonce, tee_pubkey=public_jwk(self.key.public), quote_bytes=quote or self.quote())

    def request(self, *, key: SigningKey | None = None) -> Attest:
        signed = signed_request(nonce=self.nonce, binding=canonical.digest(self.binding))
        within = None
        if self.session is not None:
            said = signed_within_session(
                nonce=self.nonce, binding=canonical.digest(self.binding), session_id=self.binding.set_id
            )
            within = self.session.key.sign_bytes(said)
        return Attest(binding=self.binding, signature=(key or self.key).sign_bytes(signed), session_signature=within)

    def ask(self) -> LeaseAnswer:
        """The whole way to a grant or a lease."""
        self.attest()
        self.answer = self.client.lease(self.request())
        return self.answer

    @property
    def lease(self) -> Lease:
        assert self.answer.lease is not None
        return canonical.decode(self.answer.lease.payload, into=Lease)

    @property
    def keys(self) -> LeaseKeys:
        assert self.answer.lease is not None
        assert self.answer.sealed_keys is not None
        info = wrapping.lease_info(self.answer.lease.digest)
        opened = wrapping.hpke_open(self.answer.sealed_keys, key=self.sealing, info=info)
        return canonical.decode(opened, into=LeaseKeys)

    # ------------------------------------------------------------ the end of the job

    def manifests(self, **changes: object) -> tuple[Envelope, ...]:
        return tuple(self.key.sign(self.output(index, **changes)) for index in range(len(self.lease.outputs)))

    def output(self, index: int, **changes: object) -> Manifest:
        reserved, owners = self.lease.outputs[index], self.world.owners
        domain_id, dataset_key = owners.domain.domain_id, owners.dataset_certificates[reserved.dataset]
        recipient = owners.recipient_certificate
        names = {"domain_id": domain_id, "dataset": reserved.dataset, "version": reserved.version}
        release_key = self.keys.release_keys[reserved.dataset]
        manifest = Manifest(
            domain_id=domain_id,
            dataset=reserved.dataset,
            version=reserved.version,
            prev=reserved.prev,
            body="padded-parquet",
            parts=(
                Part(path="part-00000", size=9, digest=canonical.digest_bytes(b"x"), sealed_version=reserved.version),
            ),
            columns=(),
            wraps=(
                *(
                    (wrapping.wrap_for_dataset(b"o" * 32, dataset_key=dataset_key, **names),)
                    if reserved.dataset_certificate
                    else ()
                ),
                wrapping.wrap_for_recipient(b"o" * 32, recipient=recipient, release_key=release_key, **names),
            ),
            producer=None,
            run_id=self.lease.run_id,
            lease_id=self.lease.lease_id,
        )
        return msgspec.structs.replace(manifest, **changes)

    def receipt(self, manifests: tuple[Envelope, ...], **changes: object) -> Receipt:
        lease = self.lease
        outputs = [canonical.decode(envelope.payload, into=Manifest) for envelope in manifests]
        receipt = Receipt(
            lease_id=lease.lease_id,
            attempt=lease.attempt,
            binding=lease.binding,
            job=lease.job,
            run_id=lease.run_id,
            step=lease.step,
            inputs=lease.inputs,
            outputs=tuple(
                DatasetVersion(dataset=output.dataset, version=output.version, manifest=envelope.digest)
                for output, envelope in zip(outputs, manifests, strict=True)
            ),
            members=(),
            outcome="ok",
            disclosed={"rows": 7},
            log=None,
        )
        return msgspec.structs.replace(receipt, **changes)

    def commit(self, **changes: object) -> StepStatus:
        manifests = self.manifests()
        return self.hand_in(self.receipt(manifests, **changes), manifests=manifests)

    def commitment(self) -> Commit:
        """What `commit` hands in, to be handed in again."""
        manifests = self.manifests()
        return Commit(receipt=self.key.sign(self.receipt(manifests)), manifests=manifests)

    def hand_in(self, receipt: Receipt, *, manifests: tuple[Envelope, ...]) -> StepStatus:
        return self.client.commit(Commit(receipt=self.key.sign(receipt), manifests=manifests))


def one_step(**changes: object) -> tuple[Step, ...]:
    """The first step alone, changed."""
    return (msgspec.structs.replace(AGGREGATE, **changes),)
