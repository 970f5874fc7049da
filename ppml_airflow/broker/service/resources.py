"""What stock clients of Trustee may have: resources that the broker's operator marked, and a token. Never a data key.

A stock client has no binding, so nothing says for which job it asks. Its evidence is judged by the owners' policies as
a guest's is, for the images that resources name: when it is handed in, and again whenever a resource is read.

Protocol: rule 11. Source: Trustee KBS protocol 0.4.0 (`attest`, `resource`).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.attestation.evidence import Evidence
from ppml_airflow.attestation.verification import VerifiedEvidence
from ppml_airflow.broker.decisions.jwe import encrypt_to, read_public_jwk
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.evidence import VerifiedAhead, appraise_quote, remember_collateral, verify_quote
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.broker.service.sessions import load_stock_session, spend
from ppml_airflow.broker.service.tokens import issue_token
from ppml_airflow.errors import MalformedInputError, PolicyDeniedError, PpmlError, UnavailableError, VerificationError
from ppml_airflow.protocol.messages import Token
from ppml_airflow.units import MIB, Digest, Name

MAX_RESOURCE_BYTES = MIB
UNKNOWN = "resource_unknown"


def accept_stock_client(broker: Broker, *, session_id: str) -> Token:
    """Judge the evidence of a stock client: it must be good enough for a marked resource, whichever.

    Returns:
        A token about it, for this broker's domain; asked again, the same. Here it opens nothing.

    Raises:
        VerificationError: the session has no evidence, has expired or was refused, or the evidence is not authentic.
        MalformedInputError: quote or key are none.
        PolicyDeniedError: no policy accepts it.
    """
    denied: PpmlError
    session, ahead = _verified(broker, session_id=session_id)
    with broker.decision() as ledger:
        if session.answer is not None:
            return canonical.decode(session.answer, into=Token)
        if session.spent:
            raise VerificationError("evidence of this session was refused", code="nonce_spent", hint="start with auth")
        remember_collateral(ledger, ahead=ahead)
        try:
            policy, image, verified = _accepted_by_any(broker, ledger, session=session, ahead=ahead)
            token = issue_token(
                broker,
                ledger,
                verified,
                audience=broker.domain.domain_id,
                nonce=session.nonce,
                key=_key_of(session),
                policy=policy,
                image=image,
            )
            spend(ledger, session_id=session_id, answer=token)
            return token
        except (VerificationError, PolicyDeniedError, MalformedInputError) as error:
            spend(ledger, session_id=session_id, answer=None)
            denied = error
    raise denied


def read_resource(broker: Broker, *, session_id: str, path: str) -> dict[str, str]:
    """A marked resource, encrypted to the attested key: a flattened JWE.

    Args:
        path: `repository/type/tag`.

    Raises:
        VerificationError: the session was not accepted, or has expired.
        PolicyDeniedError: no resource of that name is marked (`resource_unknown`), or its policy refuses the evidence.
        UnavailableError: its file cannot be read.
    """
    session, ahead = _verified(broker, session_id=session_id)
    if session.answer is None:
        raise VerificationError("session has not been attested", code="session_unknown", hint="start with auth")
    resource = broker.resources.get(path)
    if resource is None:
        raise PolicyDeniedError(f"resource {path[:100]!r} is not marked", code=UNKNOWN)
    with broker.decision() as ledger:
        _appraise(broker, ledger, session=session, ahead=ahead, policy=resource.policy, image=resource.image)
    try:
        content = resource.file.read_bytes()
    except OSError as error:
        raise UnavailableError(f"resource {path} cannot be read", code="resource_missing") from error
    if len(content) > MAX_RESOURCE_BYTES:
        raise UnavailableError(f"resource {path} has more than {MAX_RESOURCE_BYTES} bytes", code="resource_too_long")
    return encrypt_to(read_public_jwk(_key_of(session)), content=content)


def _verified(broker: Broker, *, session_id: str) -> tuple[sa.Row[Any], VerifiedAhead]:
    with broker.decision() as ledger:
        session, now = load_stock_session(ledger, session_id=session_id), ledger.now
    read_public_jwk(_key_of(session))
    return session, verify_quote(broker, Evidence(tee=session.tee, quote=session.quote), now=now)


def _key_of(session: sa.Row[Any]) -> dict[str, str]:
    return canonical.decode(session.tee_pubkey, into=dict[str, str])


def _accepted_by_any(
    broker: Broker, ledger: Ledger, *, session: sa.Row[Any], ahead: VerifiedAhead
) -> tuple[Digest, Name, VerifiedEvidence]:
    """The first policy and image, in order of their names, that accept."""
    refusal: PpmlError = PolicyDeniedError("no resource is marked", code=UNKNOWN)
    for policy, image in sorted({(one.policy, one.image) for one in broker.resources.values()}):
        try:
            return _appraise(broker, ledger, session=session, ahead=ahead, policy=policy, image=image)
        except PolicyDeniedError as error:
            refusal = error
    raise refusal


def _appraise(
    broker: Broker, ledger: Ledger, *, session: sa.Row[Any], ahead: VerifiedAhead, policy: Name, image: Name
) -> tuple[Digest, Name, VerifiedEvidence]:
    in_force, digest = ledger.policy_in_force(policy)
    appraise_quote(
        broker, ledger, session=session, tee_pubkey=_key_of(session), policy=in_force, image=image, ahead=ahead
    )
    if not isinstance(ahead.outcome, VerifiedEvidence):
        raise ahead.outcome
    return digest, image, ahead.outcome
