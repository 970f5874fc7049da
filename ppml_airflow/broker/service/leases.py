"""Grants and leases: the decision that keys hang on, in one transaction, which also writes a denial.

What may be leased is decided by `broker.decisions`; this module fetches the state that it needs and writes the answer.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.attestation.appraisal import appraise, require_accepted
from ppml_airflow.attestation.evidence import Evidence
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.attestation.report_data import public_jwk, report_data
from ppml_airflow.attestation.verification import verify_evidence
from ppml_airflow.broker import store
from ppml_airflow.broker.decisions.approvals import require_in_force
from ppml_airflow.broker.decisions.leases import (
    Challenge,
    Grant,
    Head,
    StepState,
    decide_grant,
    draw_up_lease,
    require_fresh,
    require_job,
    require_lease_allowed,
    require_turn,
)
from ppml_airflow.broker.service.attempts import end_open_attempts
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.domain.documents import Approval, Denial, Job, Lease, LeaseKeys, Run, Step
from ppml_airflow.domain.jobs import build_job, require_step
from ppml_airflow.domain.trust import Certificates
from ppml_airflow.errors import PolicyDeniedError, PpmlError, VerificationError
from ppml_airflow.protocol.messages import (
    Attest,
    LeaseAnswer,
)
from ppml_airflow.provenance.passport import EvidenceRecord
from ppml_airflow.sealing import wrapping
from ppml_airflow.units import Digest, parse_instant

RELEASE_KEK = "release-keys"
"""The key at the KMS under which release keys are wrapped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """All that a decision about a lease request looks at."""

    ledger: Ledger
    session: sa.Row[Any]
    request: Attest
    run: Run
    approval: Approval
    step: Step
    job: Job
    policy: Policy
    policy_digest: Digest
    certificates: Certificates
    state: StepState


def ask_lease(broker: Broker, *, session_id: str, request: Attest) -> LeaseAnswer:
    """Judge a session's evidence: a Grant for a preflight, a Lease for a job, the receipt for a committed step.

    The nonce is spent whatever the answer is; the same session asked again gets the same bytes.

    Raises:
        VerificationError: the evidence is not authentic, not fresh or not of this job.
        PolicyDeniedError: a rule says no; the denial is recorded.
        UnavailableError: an output is being written by another run; the nonce stays unspent.
    """
    denied: PpmlError
    with broker.decision() as ledger:
        session = _session(ledger, session_id)
        if session.answer is not None:
            _require_repeated(session, request=request, ledger=ledger)
            return canonical.decode(session.answer, into=LeaseAnswer)
        where: tuple[str, str] | None = None
        try:
            where = _job_of(ledger, request.binding.job_digest)
            with ledger.connection.begin_nested():
                answer = _judge(broker, ledger, session=session, request=request, where=where)
            _spend(ledger, session_id, answer=answer)
            return answer
        except (VerificationError, PolicyDeniedError) as error:
            _spend(ledger, session_id, answer=None)
            record_denial(ledger, where=where, error=error)
            denied = error
    raise denied


def _judge(
    broker: Broker, ledger: Ledger, *, session: sa.Row[Any], request: Attest, where: tuple[str, str]
) -> LeaseAnswer:
    binding = request.binding
    # 1 fresh: this session's nonce, which opens to B; B's key K signed the request and is the attested key
    require_fresh(_challenge(session), binding=binding, signature=request.signature, now=ledger.now)
    if session.quote is None or session.tee_pubkey != canonical.encode(public_jwk(binding.signing_key)):
        raise VerificationError("evidence is missing, or attests another key than K", code="other_key")
    # 2 the job that the broker itself computes is the one that B names
    case = _case(ledger, session=session, request=request, where=where, epoch=broker.epoch)
    require_job(binding, job=case.job)
    # 3 the approval in force covers it, and it is its turn
    in_force = ledger.approval_in_force(case.approval.pipeline)
    require_in_force(case.approval, digest=case.run.approval, in_force=in_force, now=ledger.now)
    require_turn(case.step, approval=case.approval, run=case.run, state=case.state, now=ledger.now)
    # 4 the quote is authentic, covers nonce and K, and the policy in force accepts it
    record = _appraise(broker, case)
    # 5 preflight: a grant, no key. job: the gate, attempts, runs, outputs; then the lease
    if binding.role == "preflight":
        return _grant(case, record)
    if binding.role != "job":
        raise PolicyDeniedError(f"role {binding.role} is not served here", code="role_unknown")
    committed = _committed_receipt(case)
    if committed is not None:
        return LeaseAnswer(granted_until=None, lease=None, sealed_keys=None, receipt=ledger.envelope(committed))
    _require_unused(case)
    require_lease_allowed(
        case.step,
        approval=case.approval,
        approval_digest=case.run.approval,
        run=case.run,
        state=case.state,
        now=ledger.now,
    )
    return _lease(broker, case, record)


def _case(ledger: Ledger, *, session: sa.Row[Any], request: Attest, where: tuple[str, str], epoch: int) -> _Case:
    run_id, step_name = where
    run = ledger.run(run_id)
    approval = ledger.approval(run.approval)
    step = require_step(approval, name=step_name)
    pins = ledger.pins(run_id, step_name)
    if pins is None:
        raise VerificationError(f"inputs of {step_name} are not pinned", code="inputs_missing")
    policy, policy_digest = ledger.policy_in_force(step.policy)
    return _Case(
        ledger=ledger,
        session=session,
        request=request,
        run=run,
        approval=approval,
        step=step,
        job=build_job(approval=approval, approval_digest=run.approval, run=run, pins=pins[1], step_name=step_name),
        policy=policy,
        policy_digest=policy_digest,
        certificates=ledger.certificates(),
        state=_state(ledger, run=run, step=step, policy=policy_digest, epoch=epoch),
    )


def _state(ledger: Ledger, *, run: Run, step: Step, policy: Digest, epoch: int) -> StepState:
    row = ledger.run_row(run.run_id)
    jobs = [attempt for attempt in ledger.attempts(run.run_id, step.name) if attempt.role == "job"]
    own = {attempt.lease_id for attempt in jobs}
    table = store.run
    others = sa.select(sa.func.count()).where(
        table.c.pipeline == run.pipeline,
        table.c.slot == run.slot,
        table.c.counted.is_(True),
        table.c.run_id != run.run_id,
    )
    heads = {}
    for output in step.outputs:
        head, holder = ledger.head(output.dataset), ledger.holder(output.dataset)
        heads[output.dataset] = Head(
            version=head.version if head else 0,
            manifest=head.manifest if head else None,
            reserved_by_other=holder is not None and holder not in own,
        )
    return StepState(
        run_closed=row.closed is not None,
        run_counted=row.counted,
        epoch=epoch,
        grant=_current_grant(ledger, run=run, step=step),
        policy_in_force=policy,
        committed_steps=ledger.committed_steps(run.run_id),
        attempts=len(jobs),
        runs_in_slot=ledger.connection.execute(others).scalar_one(),
        heads=heads,
    )


def _appraise(broker: Broker, case: _Case) -> EvidenceRecord:
    """Verify and appraise the quote; keep all that it takes to do so again offline."""
    session, ledger = case.session, case.ledger
    collateral = broker.collateral()
    evidence = Evidence(tee=session.tee, quote=session.quote)
    verified = verify_evidence(evidence, collateral=collateral, roots=broker.roots, now=ledger.now)
    expected = report_data(nonce=session.nonce, tee_pubkey=public_jwk(case.request.binding.signing_key))
    require_accepted(
        appraise(
            verified,
            policy=case.policy,
            image=case.step.image,
            expected_report_data=expected,
            domain_trust=broker.domain.trust,
            now=ledger.now,
        )
    )
    digest = canonical.digest_bytes(collateral)
    if (
        store.one(ledger.connection, sa.select(store.collateral.c.digest).where(store.collateral.c.digest == digest))
        is None
    ):
        ledger.connection.execute(sa.insert(store.collateral).values(digest=digest, content=collateral))
    is_job = case.request.binding.role == "job"
    return EvidenceRecord(
        step=case.step.name,
        role="job" if is_job else "preflight",
        attempt=case.state.attempts + 1 if is_job else 0,
        time=ledger.time,
        tee=session.tee,
        quote=session.quote,
        collateral=digest,
        nonce=session.nonce,
        salt=session.salt,
        binding=case.request.binding,
        policy=case.policy_digest,
    )


def _grant(case: _Case, record: EvidenceRecord) -> LeaseAnswer:
    ledger, table = case.ledger, store.granted
    grant = decide_grant(
        approval=case.approval, approval_digest=case.run.approval, run=case.run, state=case.state, now=ledger.now
    )
    from_units = {"run_id": case.run.run_id, "step": case.step.name}
    ledger.connection.execute(sa.delete(table).where(table.c.run_id == case.run.run_id, table.c.step == case.step.name))
    expires = grant.expires.strftime("%Y-%m-%dT%H:%M:%SZ")
    ledger.connection.execute(
        sa.insert(table).values(
            **from_units, policy=grant.policy, approval=grant.approval, epoch=grant.epoch, expires=expires
        )
    )
    _write_attempt(case, record, outcome="granted")
    return LeaseAnswer(granted_until=expires, lease=None, sealed_keys=None, receipt=None)


def _lease(broker: Broker, case: _Case, record: EvidenceRecord) -> LeaseAnswer:
    ledger = case.ledger
    lease = draw_up_lease(
        lease_id=secrets.token_hex(16),
        binding=case.request.binding,
        job=case.job,
        step=case.step,
        approval=case.approval,
        run=case.run,
        state=case.state,
        certificates=case.certificates,
        now=ledger.now,
    )
    keys = LeaseKeys(
        data_keys={pinned.dataset: _data_key(broker, case, pinned.manifest) for pinned in lease.inputs},
        release_keys={output.dataset: wrapping.new_key() for output in lease.outputs},
    )
    envelope = broker.signing_key.sign(lease)
    end_open_attempts(ledger, run_id=case.run.run_id, step=case.step.name, outcome="fenced")
    _reserve(broker, case, lease=lease, release_keys=dict(keys.release_keys))
    ledger.connection.execute(sa.update(store.run).where(store.run.c.run_id == case.run.run_id).values(counted=True))
    ledger.put(envelope, kind="lease", run_id=case.run.run_id)
    _write_attempt(case, record, outcome="open", lease=lease, lease_digest=envelope.digest)
    sealed = wrapping.hpke_seal(
        canonical.encode(keys), to=case.request.binding.sealing_key, info=wrapping.lease_info(envelope.digest)
    )
    return LeaseAnswer(granted_until=None, lease=envelope, sealed_keys=sealed, receipt=None)


def _data_key(broker: Broker, case: _Case, digest: Digest) -> bytes:
    """Unwrap an input's data key: from its committed manifest only, under that dataset's own key (confused deputy)."""
    _, manifest = case.ledger.committed_manifest(digest)
    wrap = next(wrap for wrap in manifest.wraps if wrap.to == "dataset")
    certificate = case.certificates.by_serial.get(wrap.serial)
    if certificate is None or certificate.role != "dataset" or certificate.subject != manifest.dataset:
        raise VerificationError(f"data key of {manifest.dataset} is wrapped to another dataset", code="wrong_wrap")
    context = wrapping.dataset_key_context(
        domain_id=broker.domain.domain_id, dataset=manifest.dataset, kek_id=certificate.kek_id
    )
    private = broker.kms.unwrap(broker.wrapped_dataset_key(wrap.serial), key_id=certificate.kek_id, context=context)
    return wrapping.unwrap_for_dataset(
        wrap,
        key=wrapping.SealingKey.from_private_bytes(private),
        domain_id=broker.domain.domain_id,
        dataset=manifest.dataset,
        version=manifest.version,
        kek_id=certificate.kek_id,
    )


def _reserve(broker: Broker, case: _Case, *, lease: Lease, release_keys: dict[str, bytes]) -> None:
    connection = case.ledger.connection
    for output in lease.outputs:
        table = store.reservation
        connection.execute(sa.delete(table).where(table.c.dataset == output.dataset))
        connection.execute(
            sa.insert(table).values(dataset=output.dataset, version=output.version, lease_id=lease.lease_id)
        )
        context = wrapping.release_key_context(
            domain_id=broker.domain.domain_id, lease_id=lease.lease_id, dataset=output.dataset
        )
        wrapped = broker.kms.wrap(release_keys[output.dataset], key_id=RELEASE_KEK, context=context)
        connection.execute(
            sa.insert(store.release_key).values(lease_id=lease.lease_id, dataset=output.dataset, wrapped=wrapped)
        )


def _write_attempt(
    case: _Case, record: EvidenceRecord, *, outcome: str, lease: Lease | None = None, lease_digest: Digest | None = None
) -> None:
    case.ledger.connection.execute(
        sa.insert(store.attempt).values(
            run_id=case.run.run_id,
            step=case.step.name,
            role=record.role,
            attempt=record.attempt,
            time=record.time,
            evidence=canonical.encode(record),
            outcome=outcome,
            binding=canonical.digest(record.binding),
            lease_id=lease.lease_id if lease else None,
            lease=lease_digest,
            expires=lease.expires if lease else None,
            signing_key=canonical.encode(case.request.binding.signing_key),
        )
    )
    case.ledger.log("evidence", body=canonical.digest(record), run_id=case.run.run_id)


def record_denial(ledger: Ledger, *, where: tuple[str, str] | None, error: PpmlError) -> None:
    """Write down what was refused, and why: the UI shows it, the passport lists it."""
    run_id, step = where if where else (None, None)
    attempts = ledger.attempts(run_id, step) if run_id else []
    row = {
        "run_id": run_id,
        "step": step,
        "time": ledger.time,
        "code": error.code,
        "reason": error.message,
        "hint": error.hint,
        "after_attempt": attempts[-1].id if attempts else 0,
    }
    ledger.connection.execute(sa.insert(store.denial).values(row))
    body = Denial(step=step or "unknown", time=ledger.time, code=error.code)
    ledger.log("denial", body=canonical.digest(body), run_id=run_id)


# ---------------------------------------------------------------- rows


def _session(ledger: Ledger, session_id: str) -> sa.Row[Any]:
    row = store.one(ledger.connection, sa.select(store.session).where(store.session.c.session_id == session_id))
    if row is None:
        raise VerificationError("session is unknown or has expired", code="session_unknown", hint="start with auth")
    return row


def _challenge(session: sa.Row[Any]) -> Challenge:
    return Challenge(
        nonce=session.nonce,
        salt=session.salt,
        binding=session.binding,
        expires=parse_instant(session.expires),
        spent=session.spent,
    )


def _require_repeated(session: sa.Row[Any], *, request: Attest, ledger: Ledger) -> None:
    """The same guest asks again: same binding, signed by K; the answer's bytes were kept."""
    challenge = _challenge(session)
    unspent = Challenge(
        nonce=challenge.nonce,
        salt=challenge.salt,
        binding=challenge.binding,
        expires=challenge.expires,
        spent=False,
    )
    require_fresh(unspent, binding=request.binding, signature=request.signature, now=ledger.now)


def _spend(ledger: Ledger, session_id: str, *, answer: LeaseAnswer | None) -> None:
    table = store.session
    stored = canonical.encode(answer) if answer is not None else None
    query = sa.update(table).where(table.c.session_id == session_id).values(spent=True, answer=stored)
    ledger.connection.execute(query)


def _job_of(ledger: Ledger, job_digest: Digest) -> tuple[str, str]:
    table = store.pins
    query = sa.select(table.c.run_id, table.c.step).where(table.c.job_digest == job_digest)
    row = store.one(ledger.connection, query)
    if row is None:
        raise VerificationError(
            "evidence covers a job that no open run has", code="other_job", hint="was code, argv or a param changed?"
        )
    return row.run_id, row.step


def _require_unused(case: _Case) -> None:
    """One lease per binding: a second session with the same keys gets none."""
    table, digest = store.attempt, canonical.digest(case.request.binding)
    query = sa.select(table.c.id).where(table.c.binding == digest, table.c.role == "job")
    if case.ledger.connection.execute(query).first() is not None:
        raise VerificationError("binding has had its lease already", code="binding_used", hint="start a new guest")


def _current_grant(ledger: Ledger, *, run: Run, step: Step) -> Grant | None:
    table = store.granted
    query = sa.select(table).where(table.c.run_id == run.run_id, table.c.step == step.name)
    row = store.one(ledger.connection, query)
    if row is None:
        return None
    return Grant(policy=row.policy, approval=row.approval, epoch=row.epoch, expires=parse_instant(row.expires))


def _committed_receipt(case: _Case) -> Digest | None:
    rows = case.ledger.attempts(case.run.run_id, case.step.name)
    return next((row.receipt for row in rows if row.outcome == "committed"), None)
