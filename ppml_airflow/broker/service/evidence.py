"""The evidence of a session: verified ahead of the decision on its lease, appraised in it.

Verifying a quote takes longer than anything else in a decision. So it is done before, by the broker's verifier, while
other decisions go on; what came out, a refusal too, counts only inside the decision, in its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.attestation.appraisal import appraise, require_accepted
from ppml_airflow.attestation.collateral.memory import highest_of, names_of, raised_by
from ppml_airflow.attestation.collateral.statements import family_of
from ppml_airflow.attestation.evidence import Evidence
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.attestation.report_data import public_jwk, report_data
from ppml_airflow.attestation.verification import VerifiedEvidence
from ppml_airflow.broker.decisions.leases import require_fresh
from ppml_airflow.broker.decisions.revocations import subjects_of_evidence
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.cases import Case, find_job
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.broker.service.sessions import challenge_of, challenged_at, load_session
from ppml_airflow.domain.documents import Binding
from ppml_airflow.errors import MalformedInputError, PolicyDeniedError, UnavailableError, VerificationError
from ppml_airflow.protocol.messages import Attest
from ppml_airflow.provenance.passport import EvidenceRecord
from ppml_airflow.units import Name, format_instant


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedAhead:
    """What a session's quote came out as."""

    quote: bytes
    collateral: bytes
    outcome: VerifiedEvidence | VerificationError | MalformedInputError


def verify_ahead(broker: Broker, *, session_id: str, request: Attest) -> VerifiedAhead | None:
    """Verify the quote of a session that asks for a lease; see `verify_quote_ahead`."""
    return verify_quote_ahead(
        broker,
        session_id=session_id,
        binding=request.binding,
        signature=request.signature,
        require_known=lambda ledger: find_job(ledger, request.binding.job_digest),
    )


def verify_quote_ahead(
    broker: Broker,
    *,
    session_id: str,
    binding: Binding,
    signature: bytes,
    require_known: Callable[[Ledger], object],
) -> VerifiedAhead | None:
    """Verify the quote of a session, if the request is one on which a decision could hang.

    Nothing is decided, spent or recorded here. None: the decision will find out why, without asking for the quote.

    Args:
        broker: who decides.
        session_id: of the RCAR session.
        binding: what the quote is said to cover.
        signature: by its K.
        require_known: raises if the binding is about nothing that there is.

    Raises:
        UnavailableError: there is no collateral for the quote, or the verifier was lost.
    """
    with broker.decision() as ledger:
        try:
            session = load_session(ledger, session_id=session_id)
            require_fresh(challenge_of(session), binding=binding, signature=signature, now=ledger.now)
            require_known(ledger)
        except (VerificationError, PolicyDeniedError, MalformedInputError):
            return None
        if session.quote is None:
            return None
        evidence, now = Evidence(tee=session.tee, quote=session.quote), ledger.now
    return verify_quote(broker, evidence, now=now)


def verify_quote(broker: Broker, evidence: Evidence, *, now: datetime) -> VerifiedAhead:
    """Verify a quote outside of any decision; a refusal is an outcome too.

    Raises:
        UnavailableError: there is no collateral for the quote, or the verifier was lost.
    """
    outcome: VerifiedEvidence | VerificationError | MalformedInputError
    collateral = b""
    try:
        collateral = broker.collateral.load(evidence.quote)
        outcome = broker.verify(evidence, collateral=collateral, roots=broker.roots, now=now)
    except (VerificationError, MalformedInputError) as error:
        outcome = error
    return VerifiedAhead(quote=evidence.quote, collateral=collateral, outcome=outcome)


def remember_collateral(ledger: Ledger, *, ahead: VerifiedAhead | None) -> None:
    """Remember how new the collateral was by which a quote verified, accepted or not.

    A host whose platform is refused may not go back to the collateral that accepts it.
    """
    if ahead is not None and isinstance(ahead.outcome, VerifiedEvidence):
        names = _names(ahead.quote, verified=ahead.outcome)
        raised = raised_by(ahead.outcome.numbers, seen=ledger.seen_numbers(names), names=names)
        ledger.raise_numbers(raised)


def _names(quote: bytes, *, verified: VerifiedEvidence) -> tuple[str, str, str]:
    return names_of(family_of(quote), root=verified.root_key_id)


def appraise_case(broker: Broker, case: Case, *, ahead: VerifiedAhead | None) -> EvidenceRecord:
    """Appraise verified evidence by the policy in force; keep all that it takes to do so again offline.

    Raises:
        VerificationError: the quote is not authentic.
        MalformedInputError: it is no quote.
        PolicyDeniedError: the policy refuses it.
        UnavailableError: the session changed since its quote was verified.
    """
    session, ledger, role = case.session, case.ledger, case.request.binding.role
    if role == "session":
        raise PolicyDeniedError("a session has no lease; its jobs attest for themselves", code="role_unknown")
    ahead = appraise_quote(
        broker,
        ledger,
        session=session,
        tee_pubkey=public_jwk(case.request.binding.signing_key),
        policy=case.policy,
        image=case.step.image,
        ahead=ahead,
    )
    digest = canonical.digest_bytes(ahead.collateral)
    ledger.keep_collateral(ahead.collateral, digest=digest)
    return EvidenceRecord(
        step=case.step.name,
        role=role,
        attempt=0 if role == "preflight" else case.state.attempts + 1,
        challenged=format_instant(challenged_at(session)),
        time=ledger.time,
        tee=session.tee,
        quote=session.quote,
        collateral=digest,
        nonce=session.nonce,
        salt=session.salt,
        binding=case.request.binding,
        policy=case.policy_digest,
    )


def appraise_quote(
    broker: Broker,
    ledger: Ledger,
    *,
    session: sa.Row[Any],
    tee_pubkey: Mapping[str, str],
    policy: Policy,
    image: Name,
    ahead: VerifiedAhead | None,
) -> VerifiedAhead:
    """Appraise a session's quote, verified ahead, for an image and the key K (a JWK), by the policy in force.

    Raises:
        VerificationError: the quote is not authentic.
        MalformedInputError: it is no quote.
        PolicyDeniedError: the policy refuses it.
        UnavailableError: the session changed since its quote was verified.
    """
    if ahead is None or ahead.quote != session.quote:
        raise UnavailableError("session changed while it was judged", code="session_changed", hint="ask again")
    if not isinstance(ahead.outcome, VerifiedEvidence):
        raise ahead.outcome
    verified, names = ahead.outcome, _names(ahead.quote, verified=ahead.outcome)
    expected = report_data(nonce=session.nonce, tee_pubkey=tee_pubkey)
    require_accepted(
        appraise(
            verified,
            policy=policy,
            image=image,
            expected_report_data=expected,
            domain_trust=broker.domain.trust,
            challenged_at=challenged_at(session),
            seen=highest_of(ledger.seen_numbers(names), names=names),
            now=ledger.now,
        )
    )
    ledger.require_not_revoked(*subjects_of_evidence(verified))
    return ahead
