"""What holds for every request that evidence comes with, before it is asked what for: fresh, of this job, accepted."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.attestation.report_data import public_jwk
from ppml_airflow.broker.decisions.approvals import require_in_force
from ppml_airflow.broker.decisions.leases import require_fresh, require_job, require_turn
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.cases import Case, load_case
from ppml_airflow.broker.service.evidence import VerifiedAhead, appraise_case
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.broker.service.sessions import challenge_of
from ppml_airflow.domain.documents import Binding
from ppml_airflow.errors import VerificationError
from ppml_airflow.protocol.messages import Attest
from ppml_airflow.provenance.passport import EvidenceRecord


def require_attested(session: sa.Row[Any], *, binding: Binding, signature: bytes, now: datetime) -> None:
    """This session's nonce is unspent and opens to B; B's key K signed the request and is the attested key.

    Raises:
        VerificationError: any of it does not hold.
    """
    require_fresh(challenge_of(session), binding=binding, signature=signature, now=now)
    if session.quote is None or session.tee_pubkey != canonical.encode(public_jwk(binding.signing_key)):
        raise VerificationError("evidence is missing, or attests another key than K", code="other_key")


def accept(
    broker: Broker,
    ledger: Ledger,
    *,
    session: sa.Row[Any],
    request: Attest,
    where: tuple[str, str],
    ahead: VerifiedAhead | None,
) -> tuple[Case, EvidenceRecord]:
    """Judge a session's evidence for the run and step that it is about.

    Raises:
        VerificationError: the evidence is not authentic, not fresh or not of this job.
        PolicyDeniedError: a rule says no.
        UnavailableError: the session changed since its quote was verified.
    """
    binding = request.binding
    # 1 fresh: this session's nonce, which opens to B; B's key K signed the request and is the attested key
    require_attested(session, binding=binding, signature=request.signature, now=ledger.now)
    # 2 the job that the broker itself computes is the one that B names
    case = load_case(ledger, session=session, request=request, where=where)
    require_job(binding, job=case.job)
    # 3 the approval in force covers it, and it is its turn
    in_force = ledger.approval_in_force(case.approval.pipeline)
    require_in_force(case.approval, digest=case.run.approval, in_force=in_force, now=ledger.now)
    require_turn(case.step, approval=case.approval, run=case.run, state=case.state, now=ledger.now)
    ledger.require_not_revoked(("approval", case.run.approval))
    for pinned in case.job.inputs:
        ledger.require_sound_manifest(pinned.manifest, dataset=pinned.dataset)
    # 4 the quote is authentic, covers nonce and K, and the policy in force accepts it
    return case, appraise_case(broker, case, ahead=ahead)
