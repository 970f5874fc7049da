"""What a verified passport says, for people and programs. Only `verify_passport` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ppml_airflow.canonical import Document
from ppml_airflow.domain.documents import DatasetVersion, Denial, ParamValue, Release, RunClosed
from ppml_airflow.provenance.attempts import JudgedAttempt, RunDocuments
from ppml_airflow.provenance.completeness import StepOutcome
from ppml_airflow.provenance.log import Checkpoint
from ppml_airflow.provenance.revocations import RevokedReport
from ppml_airflow.units import Digest, HexId, Instant, Name, Trust


class AttemptReport(Document, frozen=True, kw_only=True):
    """One attempt whose evidence, lease and receipt were judged again."""

    role: Literal["preflight", "job", "member"]
    attempt: int
    index: int
    """Which member of a set; 0 without one."""
    time: Instant
    outcome: str
    tee: Literal["sgx", "tdx"]
    measurement: str
    tcb_status: str
    policy: str
    """Name and version."""


class StepReport(Document, frozen=True, kw_only=True):
    """One step of the approval."""

    step: Name
    outcome: StepOutcome
    image: Name
    attempts: tuple[AttemptReport, ...]
    inputs: tuple[DatasetVersion, ...]
    outputs: tuple[DatasetVersion, ...]
    disclosed: Mapping[Name, int]
    """Counts that left the enclave beside its outputs."""


class PassportReport(Document, frozen=True, kw_only=True):
    """A run, as its passport proves it. `claimed` labels are Airflow's word and proved by nothing."""

    trust: Trust
    domain: Name
    domain_id: Digest
    run_id: HexId
    pipeline: Name
    slot: Instant
    params: Mapping[Name, ParamValue]
    opened: Instant
    closed: Instant
    outcome: Literal["succeeded", "failed"]
    steps: tuple[StepReport, ...]
    denials: tuple[Denial, ...]
    releases: tuple[Release, ...]
    earlier_inputs: tuple[DatasetVersion, ...]
    """Inputs that enclaves made in earlier runs: how, those runs' passports show."""
    log: Checkpoint
    """Where the log stood at the end of the run: what a verifier may pin."""
    checkpoints_compared: int
    revocations_known: int
    """How many the trust bundle holds; the owners may have revoked more."""
    revoked: tuple[RevokedReport, ...]
    """What of the run stands on something revoked."""
    claimed: Mapping[str, str]


def make_report(
    judged: tuple[JudgedAttempt, ...],
    *,
    documents: RunDocuments,
    closed: RunClosed,
    outcomes: Mapping[str, StepOutcome],
    earlier: tuple[DatasetVersion, ...],
    compared: tuple[Checkpoint, ...],
    revocations_known: int,
    revoked: tuple[RevokedReport, ...],
) -> PassportReport:
    """Put the report together, once everything has held."""
    run = documents.run
    succeeded = all(outcome == "committed" for outcome in outcomes.values())
    by_step: dict[str, list[JudgedAttempt]] = {name: [] for name in outcomes}
    for one in judged:
        by_step[one.attempt.record.step].append(one)
    return PassportReport(
        trust=documents.domain.trust,
        domain=documents.domain.name,
        domain_id=documents.domain.domain_id,
        run_id=run.run_id,
        pipeline=run.pipeline,
        slot=run.slot,
        params=run.params,
        opened=run.opened,
        closed=closed.closed,
        outcome="succeeded" if succeeded else "failed",
        steps=tuple(
            _report_step(name, attempts, documents=documents, outcome=outcomes[name])
            for name, attempts in by_step.items()
        ),
        denials=closed.denials,
        releases=closed.releases,
        earlier_inputs=earlier,
        log=Checkpoint(log_size=closed.log_size, log_root=closed.log_root),
        checkpoints_compared=len(compared),
        revocations_known=revocations_known,
        revoked=revoked,
        claimed=run.claimed,
    )


def _report_step(
    name: str, attempts: list[JudgedAttempt], *, documents: RunDocuments, outcome: StepOutcome
) -> StepReport:
    pins = documents.pins.get(name)
    return StepReport(
        step=name,
        outcome=outcome,
        image=documents.step(name).image,
        attempts=tuple(_report_attempt(one, documents=documents) for one in attempts),
        inputs=pins.inputs if pins else (),
        outputs=tuple(made for one in attempts if one.receipt for made in one.receipt.outputs),
        disclosed={name: count for one in attempts if one.receipt for name, count in one.receipt.disclosed.items()},
    )


def _report_attempt(one: JudgedAttempt, *, documents: RunDocuments) -> AttemptReport:
    record, policy = one.attempt.record, documents.policies[one.attempt.evidence.policy]
    return AttemptReport(
        role=record.role,
        attempt=record.attempt,
        index=record.index,
        time=record.time,
        outcome=record.outcome,
        tee=one.evidence.tee,
        measurement=one.evidence.measurement,
        tcb_status=one.evidence.tcb_status,
        policy=f"{policy.name} {policy.version}",
    )
