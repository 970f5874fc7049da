"""A complete signed run made in memory: owners, broker, simulated platform and enclaves, with real keys.

Plays everybody, as the protocol asks. Tests then change what they want before `close` (a faithless broker, who signs
whatever he is given) or edit the finished passport (everybody else, who has no key).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from ppml_airflow import canonical, merkle
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.attestation.report_data import nonce_for, public_jwk, report_data
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.domain.documents import (
    Approval,
    AttemptRecord,
    Binding,
    DatasetVersion,
    Denial,
    Disclosure,
    Input,
    IntegerParam,
    Lease,
    LeaseOutput,
    Limits,
    Output,
    Pins,
    Receipt,
    Release,
    Run,
    RunClosed,
    Slots,
    Step,
)
from ppml_airflow.domain.jobs import build_job
from ppml_airflow.domain.slots import slot_of
from ppml_airflow.provenance.log import Checkpoint, LogEntry, LogKind, prove
from ppml_airflow.provenance.passport import (
    EvidenceRecord,
    PassportContents,
    compose_contents,
    compose_passport,
)
from ppml_airflow.provenance.trust_bundle import TrustBundle
from ppml_airflow.sealing.manifest import Column, Manifest, Part, Wrap
from ppml_airflow.sealing.wrapping import SealingKey
from ppml_airflow.signing import Envelope, SigningKey
from ppml_airflow.units import Digest, format_instant
from tests.support.memory_tree import reader_of
from tests.support.owners import Owners
from tests.support.policies import MEASUREMENT, standard_policy

ZERO = "sha256:" + "0" * 64


def make_step(name: str, *, inputs: tuple[Input, ...], outputs: tuple[Output, ...], gated: bool = False) -> Step:
    """A step with everything that the verifier looks at."""
    return Step(
        name=name,
        kind="fixed",
        image="spark",
        workload="spark-sql",
        code={"query.sql": canonical.digest_bytes(b"select 1")},
        argv=("--limit", "{limit}"),
        params={"limit": IntegerParam(minimum=1, maximum=100, default=10)},
        environment={},
        inputs=inputs,
        outputs=outputs,
        log_recipients=("owner",),
        disclosed=(Disclosure(name="rows", minimum=0, maximum=1000),),
        gates=("before", "after") if gated else (),
        policy="standard",
        members=1,
        replacements=0,
        attempts=3,
        limits=Limits(wall_s=600, memory_mib=1024, cores=2),
    )


AGGREGATE = make_step(
    "aggregate",
    inputs=(Input(dataset="visits", version="this-run"), Input(dataset="plans", version="head")),
    outputs=(Output(dataset="report", body="table", recipients=("analyst",), files=1),),
    gated=True,
)
SUMMARISE = make_step(
    "summarise",
    inputs=(Input(dataset="report", version="this-run"),),
    outputs=(Output(dataset="summary", body="table", recipients=("analyst",), files=1),),
)


@dataclass(kw_only=True)
class SimulatedAttempt:
    """An attempt as the broker keeps it; tests may replace its parts before `close`."""

    role: str
    evidence: EvidenceRecord
    key: SigningKey
    lease: Envelope | None = None
    receipt: Envelope | None = None
    outcome: str = "open"


@dataclass(kw_only=True)
class SimulatedRun:
    """One run of a pipeline; by default of two steps, `aggregate` with a gate and then `summarise`."""

    platform: SimulatedPlatform
    owners: Owners
    steps: tuple[Step, ...] = (AGGREGATE, SUMMARISE)
    edges: tuple[tuple[str, str], ...] = (("aggregate", "summarise"),)
    opened_at: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1))
    entries: list[LogEntry] = field(default_factory=list)
    """What the broker's log held before the run."""
    earlier_heads: tuple[int, ...] = ()
    """Where runs before it were closed."""

    def __post_init__(self) -> None:
        self.now = self.opened_at
        self.run_id = secrets.token_hex(16)
        self.attempts: list[SimulatedAttempt] = []
        self.denials: list[Denial] = []
        self.releases: list[Release] = []
        self.pins: dict[str, Envelope] = {}
        self.pin_times: dict[str, str] = {}
        self.manifests: dict[Digest, Envelope] = {}
        self.manifest_times: dict[Digest, str] = {}
        self.heads: dict[str, DatasetVersion] = {}
        self.log_certificate = self.owners.certify("log", subject="owner", key=SealingKey.generate().public)
        self.policies = [self.owners.root.sign(self.make_policy())]
        self.approval = Approval(
            domain_id=self.owners.domain.domain_id,
            pipeline="nightly",
            replaces=None,
            steps=self.steps,
            edges=self.edges,
            slots=Slots(period="day", zone="Europe/Berlin", window_hours=24, backfill=1),
            runs_per_slot=1,
            valid_from=format_instant(self.opened_at - timedelta(days=1)),
            valid_until=format_instant(self.opened_at + timedelta(days=30)),
        )
        self.approval_envelope = self.owners.root.sign(self.approval)
        self.run = Run(
            run_id=self.run_id,
            domain_id=self.owners.domain.domain_id,
            approval=self.approval_envelope.digest,
            pipeline="nightly",
            slot=slot_of(self.opened_at, slots=self.approval.slots),
            params={"limit": 10},
            epoch=0,
            opened=format_instant(self.opened_at),
            claimed={"dag_id": "nightly_analytics", "run_id": "manual"},
        )
        self.run_envelope = self.owners.broker.sign(self.run)
        text = self.platform.collateral(self.opened_at - timedelta(days=1)).decode()
        self.collateral_digest = canonical.digest_bytes(text.encode())
        self.collateral = {self.collateral_digest: text}

    def make_policy(self, **changes: object) -> Policy:
        """The owners' policy; `changes` replace its fields."""
        return standard_policy(self.owners.domain, platform=self.platform, **changes)

    # ------------------------------------------------------------ the broker's and the enclaves' part, in order

    def tick(self, seconds: int = 7) -> str:
        """Let time pass; the new instant."""
        self.now += timedelta(seconds=seconds)
        return format_instant(self.now)

    def make_manifest(self, dataset: str, *, version: int = 1, **changes: object) -> Manifest:
        """A manifest that the owner's agent would publish."""
        manifest = Manifest(
            domain_id=self.owners.domain.domain_id,
            dataset=dataset,
            version=version,
            prev=None,
            body="parquet",
            parts=(Part(path="part-00000", size=1000, digest=ZERO, sealed_version=version),),
            columns=(Column(name="plan", type="string"),),
            wraps=(self._wrap(dataset),),
            producer=self.owners.producer_certificate.serial,
            run_id=None,
            lease_id=None,
        )
        return msgspec.structs.replace(manifest, **changes)

    def publish(self, manifest: Manifest, *, key: SigningKey | None = None) -> Envelope:
        """Sign and commit an owner's manifest."""
        return self.commit_manifest((key or self.owners.producer).sign(manifest))

    def commit_manifest(self, envelope: Envelope) -> Envelope:
        """Move the head of a dataset."""
        manifest = canonical.decode(envelope.payload, into=Manifest)
        self.manifests[envelope.digest] = envelope
        self.manifest_times[envelope.digest] = self.tick()
        self.heads[manifest.dataset] = DatasetVersion(
            dataset=manifest.dataset, version=manifest.version, manifest=envelope.digest
        )
        return envelope

    def pin(self, step: str) -> Pins:
        """Sign the pins of a step from the heads."""
        approved = self.approval.step(step)
        assert approved is not None
        pins = Pins(run_id=self.run_id, step=step, inputs=tuple(self.heads[one.dataset] for one in approved.inputs))
        self.pins[step] = self.owners.broker.sign(pins)
        self.pin_times[step] = self.tick()
        return pins

    def attest(
        self, step: str, *, role: str = "job", key: SigningKey | None = None, **options: object
    ) -> SimulatedAttempt:
        """Make an enclave, have it quoted and judged; add the attempt.

        Args:
            step: its name; it must be pinned.
            role: `preflight` or `job`.
            key: K.
            options: `measurement`, `is_debug`, `binding` (fields to replace), `report_data`.
        """
        key = key or SigningKey.generate(scheme="p256")
        job = build_job(
            approval=self.approval,
            approval_digest=self.approval_envelope.digest,
            run=self.run,
            pins=canonical.decode(self.pins[step].payload, into=Pins),
            step_name=step,
        )
        binding = Binding(
            v=1,
            role="preflight" if role == "preflight" else "job",
            domain_id=self.owners.domain.domain_id,
            job_digest=canonical.digest(job),
            signing_key=key.public,
            sealing_key=SealingKey.generate().public,
            set_id="",
            index=0,
        )
        changes = options.get("binding", {})
        assert isinstance(changes, Mapping)
        binding = msgspec.structs.replace(binding, **changes)
        salt = secrets.token_bytes(32)
        nonce = nonce_for(salt=salt, binding_digest=canonical.digest(binding))
        covered = options.get("report_data", report_data(nonce=nonce, tee_pubkey=public_jwk(key.public)))
        measurement = options.get("measurement", MEASUREMENT)
        assert isinstance(covered, bytes)
        assert isinstance(measurement, bytes)
        number = (
            0
            if role == "preflight"
            else 1 + sum(one.role == "job" and one.evidence.step == step for one in self.attempts)
        )
        record = EvidenceRecord(
            step=step,
            role="preflight" if role == "preflight" else "job",
            attempt=number,
            challenged=format_instant(self.now),
            time=self.tick(),
            tee="sgx",
            quote=self.platform.quote_sgx(
                measurement=measurement, report_data=covered, is_debug=bool(options.get("is_debug"))
            ),
            collateral=self.collateral_digest,
            nonce=nonce,
            salt=salt,
            binding=binding,
            policy=self.policies[-1].digest,
        )
        attempt = SimulatedAttempt(role=role, evidence=record, key=key)
        if role == "preflight":
            attempt.outcome = "granted"
        self.attempts.append(attempt)
        return attempt

    def make_lease(self, attempt: SimulatedAttempt, /, **changes: object) -> Lease:
        """The lease that the broker would sign for this attempt."""
        record = attempt.evidence
        step = self.approval.step(record.step)
        assert step is not None
        lease = Lease(
            lease_id=secrets.token_hex(16),
            binding=canonical.digest(record.binding),
            job=record.binding.job_digest,
            run_id=self.run_id,
            step=step.name,
            attempt=record.attempt,
            epoch=0,
            issued=record.time,
            expires=format_instant(self.now + timedelta(minutes=15)),
            inputs=canonical.decode(self.pins[step.name].payload, into=Pins).inputs,
            outputs=tuple(
                LeaseOutput(
                    dataset=output.dataset,
                    version=1,
                    prev=None,
                    dataset_certificate=None
                    if step.kind == "adhoc"
                    else self.owners.dataset_certificates[output.dataset].serial,
                    recipient_certificates=(self.owners.recipient_certificate.serial,),
                )
                for output in step.outputs
            ),
            log_certificates=(self.log_certificate.serial,),
        )
        return msgspec.structs.replace(lease, **changes)

    def lease(self, attempt: SimulatedAttempt, /, **changes: object) -> Lease:
        """Lease; fences the attempt before."""
        lease = self.make_lease(attempt, **changes)
        attempt.lease = self.owners.broker.sign(lease)
        return lease

    def make_output(self, lease: Lease, *, index: int = 0, **changes: object) -> Manifest:
        """The manifest of an output of a lease."""
        reserved = lease.outputs[index]
        wraps = (
            *((self._wrap(reserved.dataset),) if reserved.dataset_certificate else ()),
            *(Wrap(to="recipient", serial=serial, wrapped=b"w" * 64) for serial in reserved.recipient_certificates),
        )
        made = self.make_manifest(
            reserved.dataset,
            version=reserved.version,
            body="padded-parquet",
            wraps=wraps,
            producer=None,
            run_id=self.run_id,
            lease_id=lease.lease_id,
        )
        return msgspec.structs.replace(made, **changes)

    def make_receipt(self, lease: Lease, *, manifests: tuple[Envelope, ...] = (), **changes: object) -> Receipt:
        """The receipt of a lease."""
        made = [canonical.decode(envelope.payload, into=Manifest) for envelope in manifests]
        receipt = Receipt(
            lease_id=lease.lease_id,
            attempt=lease.attempt,
            binding=lease.binding,
            job=lease.job,
            run_id=lease.run_id,
            step=lease.step,
            inputs=lease.inputs,
            outputs=tuple(
                DatasetVersion(dataset=one.dataset, version=one.version, manifest=canonical.digest(one)) for one in made
            ),
            members=(),
            outcome="ok",
            disclosed={"rows": 12},
            log=ZERO,
        )
        return msgspec.structs.replace(receipt, **changes)

    def commit(
        self, attempt: SimulatedAttempt, /, *, lease: Lease, key: SigningKey | None = None, **changes: object
    ) -> Receipt:
        """Sign outputs and receipt with K, and commit them."""
        key = key or attempt.key
        manifests = tuple(key.sign(self.make_output(lease, index=index)) for index in range(len(lease.outputs)))
        receipt = self.make_receipt(lease, manifests=manifests, **changes)
        attempt.receipt, attempt.outcome = key.sign(receipt), "committed"
        for envelope in manifests:
            self.commit_manifest(envelope)
        self.tick()
        return receipt

    def fail(self, attempt: SimulatedAttempt, *, lease: Lease, outcome: str = "job_failed") -> None:
        """A receipt that says why nothing was made."""
        receipt = self.make_receipt(lease, outcome=outcome, disclosed={})
        attempt.receipt, attempt.outcome = attempt.key.sign(receipt), outcome
        self.tick()

    def deny(self, step: str, *, code: str = "gate_missing") -> None:
        """The broker refused a request."""
        self.denials.append(Denial(step=step, time=self.tick(), code=code))

    def release(self, dataset: str) -> None:
        """The recipient got a release key."""
        self.releases.append(
            Release(dataset=dataset, recipient=self.owners.recipient_certificate.serial, time=self.tick())
        )

    def run_step(self, step: str) -> SimulatedAttempt:
        """Pin, pass the gate where there is one, lease, commit."""
        approved = self.approval.step(step)
        assert approved is not None
        if step not in self.pins:
            self.pin(step)
        if "before" in approved.gates:
            self.attest(step, role="preflight")
        attempt = self.attest(step)
        self.commit(attempt, lease=self.lease(attempt))
        return attempt

    # ------------------------------------------------------------ the end

    def records(self) -> tuple[AttemptRecord, ...]:
        """The attempts as RunClosed lists them."""
        return tuple(
            AttemptRecord(
                index=0,
                step=one.evidence.step,
                role=one.evidence.role,
                attempt=one.evidence.attempt,
                time=one.evidence.time,
                evidence=canonical.digest(one.evidence),
                lease=one.lease.digest if one.lease else None,
                receipt=one.receipt.digest if one.receipt else None,
                outcome=one.outcome,
            )
            for one in self.attempts
        )

    def log(self) -> list[LogEntry]:
        """The whole log, from its first entry on."""
        entries = list(self.entries)

        def append(kind: LogKind, time: str, body: Digest) -> None:
            entries.append(LogEntry(index=len(entries), time=time, kind=kind, run_id=self.run_id, body=body))

        append("run", self.run.opened, self.run_envelope.digest)
        events: list[tuple[str, LogKind, Digest]] = [
            (self.pin_times[step], "pins", envelope.digest) for step, envelope in self.pins.items()
        ]
        for digest, envelope in self.manifests.items():
            if canonical.decode(envelope.payload, into=Manifest).run_id == self.run_id:
                events.append((self.manifest_times[digest], "manifest", digest))
        for record in self.records():
            events.append((record.time, "evidence", record.evidence))
            if record.lease:
                events.append((record.time, "lease", record.lease))
            if record.receipt:
                events.append((record.time, "receipt", record.receipt))
        events += [(denial.time, "denial", canonical.digest(denial)) for denial in self.denials]
        events += [(release.time, "release", canonical.digest(release)) for release in self.releases]
        for time, kind, body in sorted(events, key=lambda event: event[0]):
            append(kind, time, body)
        return entries

    def checkpoint(self, *, size: int) -> Checkpoint:
        """The head of the log when it had so many entries."""
        root = merkle.prove_root(size, read=reader_of(self.log()))
        return Checkpoint(log_size=size, log_root="sha256:" + root.hex())

    def contents(self) -> PassportContents:
        """All that the broker has of the run."""
        log = self.log()
        entries = [entry for entry in log if entry.run_id == self.run_id]
        return compose_contents(
            domain=self.owners.domain,
            certificates=self.owners.certificates,
            policies=self.policies,
            approval=self.approval_envelope,
            run=self.run_envelope,
            pins=self.pins.values(),
            manifests=self.manifests.values(),
            evidence=[one.evidence for one in self.attempts],
            collateral=self.collateral,
            leases=[one.lease for one in self.attempts if one.lease],
            receipts=[one.receipt for one in self.attempts if one.receipt],
            log_entries=entries,
            log_proof=prove(entries, size=len(log), earlier=self.earlier_heads, read=reader_of(log)),
        )

    def closed(self, enclosed: PassportContents, /, **changes: object) -> RunClosed:
        """RunClosed over these contents."""
        size = len(self.log())
        closed = RunClosed(
            run=self.run_envelope.digest,
            run_id=self.run_id,
            closed=format_instant(self.now + timedelta(seconds=60)),
            attempts=self.records(),
            denials=tuple(self.denials),
            releases=tuple(self.releases),
            log_size=size,
            log_root=self.checkpoint(size=size).log_root,
            contents=canonical.digest(enclosed),
        )
        return msgspec.structs.replace(closed, **changes)

    def passport(self, **changes: object) -> bytes:
        """Close the run; `changes` replace fields of RunClosed."""
        contents = self.contents()
        return compose_passport(contents, closed=self.owners.broker.sign(self.closed(contents, **changes)))

    def trust(self, **changes: object) -> TrustBundle:
        """What somebody who verifies would hold."""
        bundle = TrustBundle(
            domain=self.owners.domain, tee_roots=(self.platform.root_der,), checkpoints=(), revocations=()
        )
        return msgspec.structs.replace(bundle, **changes)

    def _wrap(self, dataset: str) -> Wrap:
        return Wrap(to="dataset", serial=self.owners.dataset_certificates[dataset].serial, wrapped=b"w" * 1120)


DATASETS = ("visits", "plans", "report", "summary")


def make_platform(folder: Path) -> SimulatedPlatform:
    """A simulated platform in a folder that does not exist yet."""
    return SimulatedPlatform.create(folder, now=datetime.now(UTC) - timedelta(days=2))


def start_run(platform: SimulatedPlatform, *, owners: Owners | None = None) -> SimulatedRun:
    """A run that is open, its inputs published and its log begun by others."""
    run = SimulatedRun(platform=platform, owners=owners or Owners(*DATASETS))
    before = format_instant(run.opened_at - timedelta(hours=2))
    run.entries = [
        LogEntry(index=index, time=before, kind="certificate", run_id=None, body=envelope.digest)
        for index, envelope in enumerate(run.owners.certificates)
    ]
    run.earlier_heads = (3, len(run.entries))
    run.publish(run.make_manifest("visits", run_id=run.run_id))
    run.publish(run.make_manifest("plans"))
    return run


def complete_run(platform: SimulatedPlatform, *, owners: Owners | None = None) -> SimulatedRun:
    """A night with a denial, a failed attempt, both steps committed and the result released."""
    run = start_run(platform, owners=owners)
    run.deny("aggregate")
    run.pin("aggregate")
    run.attest("aggregate", role="preflight")
    first = run.attest("aggregate")
    run.fail(first, lease=run.lease(first))
    second = run.attest("aggregate")
    run.commit(second, lease=run.lease(second))
    run.run_step("summarise")
    run.release("summary")
    return run
