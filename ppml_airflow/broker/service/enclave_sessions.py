"""Sessions of long-lived enclaves: opened by evidence, renewed by fresh evidence, over once a renewal was missed.

Not to be confused with RCAR sessions (`sessions`), in each of which evidence is shown once. Nothing here releases a
key: a job within a session attests for itself, and its lease is decided like any other.

Protocol: rule 12.
"""

from __future__ import annotations

import secrets

from ppml_airflow import canonical
from ppml_airflow.attestation.report_data import public_jwk
from ppml_airflow.broker import store
from ppml_airflow.broker.decisions.approvals import require_in_force
from ppml_airflow.broker.decisions.enclave_sessions import (
    ENCLAVE_SESSION_LIFETIME,
    SessionRecord,
    require_open,
    require_scope,
    require_within,
)
from ppml_airflow.broker.service.acceptance import require_attested
from ppml_airflow.broker.service.attempts import record_denial
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.cases import Case
from ppml_airflow.broker.service.evidence import VerifiedAhead, appraise_quote, remember_collateral, verify_quote_ahead
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.broker.service.sessions import load_session, spend
from ppml_airflow.domain.documents import Approval, EnclaveSession
from ppml_airflow.domain.jobs import session_scope
from ppml_airflow.errors import MalformedInputError, PolicyDeniedError, PpmlError, VerificationError
from ppml_airflow.protocol.messages import AskSession
from ppml_airflow.signing import Envelope, PublicKey
from ppml_airflow.units import Digest, format_instant, parse_instant


def ask_session(broker: Broker, *, session_id: str, request: AskSession) -> Envelope:
    """Open the session of an enclave, or renew it, by the evidence of an RCAR session.

    Returns:
        A signed `EnclaveSession`. An answer that was lost is asked for by attesting again: that renews.

    Raises:
        VerificationError: the evidence is not authentic, not fresh or not of that step.
        PolicyDeniedError: a rule says no, or the session is over.
        MalformedInputError: what was handed in as a quote is none.
    """
    denied: PpmlError
    ahead = verify_quote_ahead(
        broker,
        session_id=session_id,
        binding=request.binding,
        signature=request.signature,
        require_known=lambda ledger: _approval(ledger, request.pipeline),
    )
    with broker.decision() as ledger:
        load_session(ledger, session_id=session_id)
        try:
            with ledger.log.savepoint():
                answer = _judge(broker, ledger, session_id=session_id, request=request, ahead=ahead)
            remember_collateral(ledger, ahead=ahead)
            spend(ledger, session_id=session_id, answer=None)
            return answer
        except (VerificationError, PolicyDeniedError, MalformedInputError) as error:
            remember_collateral(ledger, ahead=ahead)
            spend(ledger, session_id=session_id, answer=None)
            record_denial(ledger, where=None, error=error)
            denied = error
    raise denied


def require_session(case: Case) -> None:
    """A job that names its enclave's session is within it; one that names none needs none.

    Raises:
        VerificationError: no such session, of another step, or of another enclave.
        PolicyDeniedError: the session is over.
    """
    binding, ledger = case.request.binding, case.ledger
    if binding.role != "job" or not binding.set_id:
        return
    found = require_open(_find(ledger, session_id=binding.set_id), epoch=ledger.epoch, now=ledger.now)
    require_within(
        binding,
        record=found,
        approval=case.run.approval,
        step=case.step.name,
        nonce=case.session.nonce,
        signature=case.request.session_signature,
    )


def _judge(
    broker: Broker, ledger: Ledger, *, session_id: str, request: AskSession, ahead: VerifiedAhead | None
) -> Envelope:
    binding, session = request.binding, load_session(ledger, session_id=session_id)
    # 1 fresh, and K is the attested key
    require_attested(session, binding=binding, signature=request.signature, now=ledger.now)
    # 2 an approved step, under the approval in force
    digest, approval = _approval(ledger, request.pipeline)
    require_in_force(approval, digest=digest, in_force=digest, now=ledger.now)
    ledger.require_not_revoked(("approval", digest))
    scope = session_scope(approval=approval, approval_digest=digest, step_name=request.step)
    require_scope(binding, scope=scope)
    # 3 the quote is authentic, and the policy in force accepts it
    policy, _ = ledger.policy_in_force(scope.policy)
    appraise_quote(
        broker,
        ledger,
        session=session,
        tee_pubkey=public_jwk(binding.signing_key),
        policy=policy,
        image=scope.image,
        ahead=ahead,
    )
    # 4 a new session, or one that is not over yet
    expires = format_instant(ledger.now + ENCLAVE_SESSION_LIFETIME)
    found = _find(ledger, binding=canonical.digest(binding))
    if found is None:
        called = secrets.token_hex(16)
        store.insert(
            ledger.connection,
            store.enclave_session,
            session_id=called,
            binding=canonical.digest(binding),
            approval=digest,
            step=scope.step,
            signing_key=canonical.encode(binding.signing_key),
            epoch=ledger.epoch,
            expires=expires,
        )
    else:
        called = require_open(found, epoch=ledger.epoch, now=ledger.now).session_id
        store.update(ledger.connection, store.enclave_session, where={"session_id": called}, expires=expires)
    signed = broker.signing_key.sign(
        EnclaveSession(
            session_id=called,
            binding=canonical.digest(binding),
            scope=canonical.digest(scope),
            epoch=ledger.epoch,
            issued=ledger.time,
            expires=expires,
        )
    )
    ledger.put(signed, kind="session")
    return signed


def _approval(ledger: Ledger, pipeline: str) -> tuple[Digest, Approval]:
    digest = ledger.approval_in_force(pipeline)
    if digest is None:
        raise PolicyDeniedError(f"pipeline {pipeline} has no approval in force", code="not_approved")
    return digest, ledger.approval(digest)


def _find(ledger: Ledger, **wanted: str) -> SessionRecord | None:
    row = store.find(ledger.connection, store.enclave_session, **wanted)
    if row is None:
        return None
    return SessionRecord(
        session_id=row.session_id,
        approval=row.approval,
        step=row.step,
        signing_key=canonical.decode(row.signing_key, into=PublicKey),
        epoch=row.epoch,
        expires=parse_instant(row.expires),
    )
