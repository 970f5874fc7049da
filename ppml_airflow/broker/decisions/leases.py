"""May this attested guest have a grant, or a lease? Pure: evidence, stored state and time are arguments.

Every condition is judged at every request: a grant is necessary for a lease, never sufficient.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from ppml_airflow import canonical
from ppml_airflow.attestation.report_data import nonce_for
from ppml_airflow.broker.decisions.approvals import APPROVE_HINT
from ppml_airflow.domain.adhoc import open_right
from ppml_airflow.domain.documents import Approval, Binding, Job, Lease, LeaseOutput, Role, Run, Step
from ppml_airflow.domain.jobs import earlier_steps, signed_request
from ppml_airflow.domain.sets import LEADER
from ppml_airflow.domain.slots import window_end
from ppml_airflow.domain.trust import Certificates
from ppml_airflow.errors import PolicyDeniedError, UnavailableError, VerificationError
from ppml_airflow.signing import verify_signature
from ppml_airflow.units import Digest, format_instant, parse_instant

LeaseState = Literal["current", "fenced", "cancelled", "expired", "closed", "revoked"]

GRANT_LIFETIME = timedelta(hours=6)
LEASE_MARGIN = timedelta(minutes=5)
HOLDER_LAPSE = timedelta(seconds=45)
"""Guests ask for their lease every 10 s; one silent for so long no longer keeps others from its outputs."""
RUN_LAPSE = timedelta(hours=24)
"""A run that has had no lease by then gets none: nobody keeps old params in store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What the broker handed out at auth, and to which binding."""

    nonce: str
    salt: bytes
    binding: Digest
    expires: datetime
    spent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A gate passed: a row at the broker, not a token."""

    policy: Digest
    approval: Digest
    epoch: int
    expires: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where a dataset stands, and the lease that has reserved its next version, if any."""

    version: int
    manifest: Digest | None
    reserved_by_other: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepState:
    """What the broker knows of the step and its run when it decides."""

    run_closed: bool
    run_counted: bool
    """Whether the run has had a lease."""
    epoch: int
    grant: Grant | None
    policy_in_force: Digest
    committed_steps: frozenset[str]
    attempts: int
    runs_in_slot: int
    """Runs of the slot, other than this one, that have had a lease."""
    heads: dict[str, Head]


def require_fresh(challenge: Challenge, *, binding: Binding, signature: bytes, now: datetime) -> None:
    """The request answers this very challenge: nonce unspent, opens to H(B), signed by B's key K.

    Raises:
        VerificationError: spent, expired, for another binding, or signed by another key.
    """
    if challenge.spent:
        raise VerificationError("nonce has been used already", code="nonce_spent", hint="attest again")
    if now >= challenge.expires:
        raise VerificationError("nonce has expired", code="nonce_expired", hint="attest again")
    found = canonical.digest(binding)
    if found != challenge.binding:
        raise VerificationError(f"binding {found} is not the one of this session", code="other_binding")
    if nonce_for(salt=challenge.salt, binding_digest=found) != challenge.nonce:
        raise VerificationError("nonce does not open to the binding", code="other_binding")
    request = signed_request(nonce=challenge.nonce, binding=found)
    verify_signature(signature, payload=request, key=binding.signing_key, subject="lease request")


def require_job(binding: Binding, *, job: Job) -> None:
    """The quote covers exactly the job that the approval, the run and its pins spell out.

    Raises:
        VerificationError: the evidence is for another job or domain.
    """
    if binding.domain_id != job.domain_id:
        raise VerificationError(f"evidence is for domain {binding.domain_id}", code="other_domain")
    if binding.job_digest != canonical.digest(job):
        raise VerificationError(f"evidence covers another job than {job.step}", code="other_job")


def require_turn(step: Step, *, approval: Approval, run: Run, state: StepState, now: datetime) -> None:
    """What holds for a preflight and a job alike: the run is open and it is this step's turn.

    Raises:
        PolicyDeniedError: run closed, lapsed or over, epoch passed, an earlier step not committed.
    """
    if state.run_closed:
        raise PolicyDeniedError(f"run {run.run_id} is closed", code="run_closed", hint="trigger a new run")
    if run.epoch != state.epoch:
        raise PolicyDeniedError(f"run {run.run_id} is of epoch {run.epoch}, now {state.epoch}", code="epoch_passed")
    if not state.run_counted and now >= parse_instant(run.opened) + RUN_LAPSE:
        raise PolicyDeniedError(f"run {run.run_id} has lapsed", code="run_lapsed", hint="trigger a new run")
    end = window_end(run.slot, slots=approval.slots)
    if now >= end:
        raise PolicyDeniedError(f"slot {run.slot} ended at {format_instant(end)}", code="window_over")
    for earlier in earlier_steps(approval, name=step.name):
        if earlier not in state.committed_steps:
            raise PolicyDeniedError(
                f"step {earlier} is not committed, and {step.name} comes after it", code="too_early"
            )


def decide_grant(*, approval: Approval, approval_digest: Digest, run: Run, state: StepState, now: datetime) -> Grant:
    """The grant of a preflight whose evidence has been accepted."""
    end = window_end(run.slot, slots=approval.slots)
    return Grant(
        policy=state.policy_in_force,
        approval=approval_digest,
        epoch=state.epoch,
        expires=min(now + GRANT_LIFETIME, end),
    )


def require_lease_allowed(
    step: Step, *, approval: Approval, approval_digest: Digest, run: Run, state: StepState, now: datetime
) -> None:
    """What holds for a job only: gate, attempts, runs per slot, outputs.

    Raises:
        PolicyDeniedError: gate not passed or void, attempts or runs used up.
        UnavailableError: another run holds the next version of an output (`output_busy`).
    """
    require_gate(step, approval_digest=approval_digest, state=state, now=now)
    if state.attempts >= step.attempts:
        raise PolicyDeniedError(
            f"step {step.name} has used its {step.attempts} attempts",
            code="attempts_used_up",
            hint="trigger a new run, or ask the owner to approve more attempts",
        )
    if state.runs_in_slot >= approval.runs_per_slot:
        raise PolicyDeniedError(
            f"slot {run.slot} of {approval.pipeline} has had its {approval.runs_per_slot} runs",
            code="runs_per_slot",
            hint="wait for the next slot, or ask the owner to approve more runs per slot",
        )
    for output in step.outputs:
        if state.heads[output.dataset].reserved_by_other:
            raise UnavailableError(
                f"output {output.dataset} is being written by another run", code="output_busy", hint="try again later"
            )


def require_gate(step: Step, *, approval_digest: Digest, state: StepState, now: datetime) -> None:
    """The gate before the step, if the approval lists one, has been passed and still counts.

    Raises:
        PolicyDeniedError: not passed, void or expired.
    """
    if "before" not in step.gates:
        return
    grant = state.grant
    if grant is None:
        raise PolicyDeniedError(
            f"gate before {step.name} has not been passed in this run",
            code="gate_missing",
            hint=f"let AttestationSensor(before={step.name}) run; a task state opens no gate",
        )
    if (grant.policy, grant.approval, grant.epoch) != (state.policy_in_force, approval_digest, state.epoch):
        raise PolicyDeniedError(
            f"gate before {step.name} was passed under another policy, approval or epoch",
            code="gate_void",
            hint=f"clear and re-run AttestationSensor(before={step.name})",
        )
    if now >= grant.expires:
        raise PolicyDeniedError(
            f"gate before {step.name} was open until {format_instant(grant.expires)}",
            code="gate_expired",
            hint=f"clear and re-run AttestationSensor(before={step.name})",
        )


def draw_up_lease(
    *,
    lease_id: str,
    binding: Binding,
    job: Job,
    step: Step,
    approval: Approval,
    run: Run,
    state: StepState,
    certificates: Certificates,
    now: datetime,
) -> Lease:
    """The lease itself: next attempt, next versions, certified keys only. Of a set, the leader alone has outputs.

    Raises:
        VerificationError: an output or log recipient has no certified key, or not for all that an adhoc step reads.
    """
    end = window_end(run.slot, slots=approval.slots)
    outputs = []
    writes = binding.role == "job" or binding.index == LEADER
    for output in step.outputs if writes else ():
        head = state.heads[output.dataset]
        outputs.append(
            LeaseOutput(
                dataset=output.dataset,
                version=head.version + 1,
                prev=head.manifest,
                dataset_certificate=_dataset_certificate(certificates, step=step, dataset=output.dataset, now=now),
                recipient_certificates=tuple(
                    recipient_certificate(certificates, subject=subject, step=step, dataset=output.dataset, now=now)
                    for subject in output.recipients
                ),
            )
        )
    return Lease(
        lease_id=lease_id,
        binding=canonical.digest(binding),
        job=canonical.digest(job),
        run_id=run.run_id,
        step=step.name,
        attempt=state.attempts + 1,
        epoch=state.epoch,
        issued=format_instant(now),
        expires=format_instant(min(now + timedelta(seconds=step.limits.wall_s) + LEASE_MARGIN, end)),
        inputs=job.inputs,
        outputs=tuple(outputs),
        log_certificates=tuple(
            _certified(certificates, role="log", subject=subject, datasets=open_right(step), now=now)
            for subject in step.log_recipients
        ),
    )


def _dataset_certificate(certificates: Certificates, *, step: Step, dataset: str, now: datetime) -> str | None:
    """None for an adhoc step: an answer that no enclave can open is laundered by no later step, of any pipeline."""
    if step.kind == "adhoc":
        return None
    return certificates.current(role="dataset", subject=dataset, now=now).serial


def recipient_certificate(certificates: Certificates, *, subject: str, step: Step, dataset: str, now: datetime) -> str:
    """The serial of a recipient's certificate for an output; if the step is adhoc, for all that it reads, too.

    Raises:
        VerificationError: no certificate, or it does not name the dataset, or lacks the open right.
    """
    wanted = open_right(step) | {dataset}
    return _certified(certificates, role="recipient", subject=subject, datasets=wanted, now=now)


def _certified(certificates: Certificates, *, role: Role, subject: str, datasets: frozenset[str], now: datetime) -> str:
    certificate = certificates.current(role=role, subject=subject, now=now)
    missing = sorted(datasets - set(certificate.datasets))
    if missing:
        raise VerificationError(
            f"{role} {subject} is not certified for {', '.join(missing)}", code="not_certified", hint=APPROVE_HINT
        )
    return certificate.serial


def lease_state(
    lease: Lease, *, current_attempt: int, outcome: str, closed: bool, epoch: int, now: datetime
) -> LeaseState:
    """Whether a guest may go on: `current`, `fenced`, `cancelled`, `expired`, `closed` or `revoked`."""
    if outcome == "cancelled":
        return "cancelled"
    if outcome == "revoked":
        return "revoked"
    if closed:
        return "closed"
    if lease.attempt != current_attempt or outcome not in ("open", "committed", "ended") or epoch != lease.epoch:
        return "fenced"
    if now >= parse_instant(lease.expires) and outcome == "open":
        return "expired"
    return "current"
