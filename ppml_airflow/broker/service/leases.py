"""Grants and leases: the decision that keys hang on, in one transaction, which also writes a denial.

What may be leased is decided by `broker.decisions`; this module fetches the state that it needs and writes the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.broker import store
from ppml_airflow.broker.decisions.leases import decide_grant, require_fresh, require_lease_allowed
from ppml_airflow.broker.decisions.sets import require_role
from ppml_airflow.broker.service.acceptance import accept
from ppml_airflow.broker.service.attempts import (
    end_attempts,
    record_denial,
    require_lease_not_revoked,
    write_attempt,
)
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.cases import Case, committed_receipt, find_job, require_unused
from ppml_airflow.broker.service.enclave_sessions import require_session
from ppml_airflow.broker.service.evidence import VerifiedAhead, remember_collateral, verify_ahead
from ppml_airflow.broker.service.issuing import issue, new_lease
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.broker.service.sessions import challenge_of, load_session, spend
from ppml_airflow.broker.service.sets import ask_as_member, verify_others_ahead
from ppml_airflow.errors import MalformedInputError, PolicyDeniedError, PpmlError, UnavailableError, VerificationError
from ppml_airflow.protocol.messages import Attest, LeaseAnswer
from ppml_airflow.provenance.passport import EvidenceRecord
from ppml_airflow.units import format_instant


def ask_lease(broker: Broker, *, session_id: str, request: Attest) -> LeaseAnswer:
    """Judge a session's evidence: a Grant for a preflight, a Lease for a job, the receipt for a committed step.

    The nonce is spent whatever the answer is, and a denial is recorded; the same session asked again gets the same
    bytes.

    Raises:
        VerificationError: the evidence is not authentic, not fresh or not of this job.
        PolicyDeniedError: a rule says no.
        MalformedInputError: what was handed in as a quote or a key is none.
        UnavailableError: an output is being written by another run, or a set is not complete; the nonce stays unspent.
    """
    denied: PpmlError
    others = verify_others_ahead(broker, request=request)
    ahead = verify_ahead(broker, session_id=session_id, request=request)
    with broker.decision() as ledger:
        session = load_session(ledger, session_id=session_id)
        if session.answer is not None:
            _require_repeated(session, request=request, ledger=ledger)
            repeated = canonical.decode(session.answer, into=LeaseAnswer)
            if repeated.lease is not None:
                require_lease_not_revoked(ledger, lease=repeated.lease.digest)
            return repeated
        where: tuple[str, str] | None = None
        try:
            where = find_job(ledger, request.binding.job_digest)
            with ledger.log.savepoint():
                answer = _judge(
                    broker, ledger, session=session, request=request, where=where, ahead=ahead, others=others
                )
            remember_collateral(ledger, ahead=ahead)
            if isinstance(answer, LeaseAnswer):
                spend(ledger, session_id=session_id, answer=answer)
                return answer
            denied = answer  # who waits is written down, and the nonce stays unspent
        except (VerificationError, PolicyDeniedError, MalformedInputError) as error:
            remember_collateral(ledger, ahead=ahead)
            spend(ledger, session_id=session_id, answer=None)
            record_denial(ledger, where=where, error=error)
            denied = error
    raise denied


def _judge(
    broker: Broker,
    ledger: Ledger,
    *,
    session: sa.Row[Any],
    request: Attest,
    where: tuple[str, str],
    ahead: VerifiedAhead | None,
    others: Mapping[str, VerifiedAhead],
) -> LeaseAnswer | UnavailableError:
    # 1 to 4 the evidence: fresh, of the broker's own job, in its turn, authentic and accepted
    case, record = accept(broker, ledger, session=session, request=request, where=where, ahead=ahead)
    # 5 preflight: a grant, no key. job: the gate, attempts, runs, outputs; then the lease
    # member: the same, when the whole set is there
    if request.binding.role == "preflight":
        return _grant(case, record)
    require_role(request.binding, step=case.step)
    committed = committed_receipt(case)
    if committed is not None:
        return LeaseAnswer(granted_until=None, lease=None, sealed_keys=None, receipt=ledger.envelope(committed))
    require_unused(case)
    require_session(case)
    if request.binding.role == "member":
        return ask_as_member(broker, case, record, ahead=others)
    require_lease_allowed(
        case.step,
        approval=case.approval,
        approval_digest=case.run.approval,
        run=case.run,
        state=case.state,
        now=ledger.now,
    )
    lease = new_lease(case)
    end_attempts(ledger, case.attempts, outcome="fenced")
    return issue(broker, case, record, lease=lease)


def _require_repeated(session: sa.Row[Any], *, request: Attest, ledger: Ledger) -> None:
    """The same guest asks again: same binding, signed by K; the answer's bytes were kept."""
    unspent = replace(challenge_of(session), spent=False)
    require_fresh(unspent, binding=request.binding, signature=request.signature, now=ledger.now)


def _grant(case: Case, record: EvidenceRecord) -> LeaseAnswer:
    ledger, connection = case.ledger, case.ledger.connection
    grant = decide_grant(
        approval=case.approval, approval_digest=case.run.approval, run=case.run, state=case.state, now=ledger.now
    )
    place, expires = {"run_id": case.run.run_id, "step": case.step.name}, format_instant(grant.expires)
    values = {"policy": grant.policy, "approval": grant.approval, "epoch": grant.epoch, "expires": expires}
    store.delete(connection, store.granted, **place)
    store.insert(connection, store.granted, **place, **values)
    write_attempt(ledger, record, run_id=case.run.run_id, outcome="granted")
    return LeaseAnswer(granted_until=expires, lease=None, sealed_keys=None, receipt=None)
