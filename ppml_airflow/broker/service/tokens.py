"""The broker's tokens about accepted evidence, and the keys that sign them, which change every day.

A key lies in the store, its private half wrapped by the KMS, so that all instances sign with the same. It is published
until the last token that it signed has expired, and then forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import sqlalchemy as sa
from joserfc.jwk import ECKey

from ppml_airflow import canonical
from ppml_airflow.attestation.evidence import Evidence
from ppml_airflow.attestation.report_data import public_jwk
from ppml_airflow.attestation.verification import VerifiedEvidence, verify_evidence
from ppml_airflow.broker import store
from ppml_airflow.broker.decisions.ear import LIFETIME, ear_claims, sign_ear
from ppml_airflow.broker.decisions.revocations import subjects_of_evidence
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.issuing import RELEASE_KEK
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.broker.service.sessions import load_session
from ppml_airflow.domain.jobs import require_step
from ppml_airflow.errors import PolicyDeniedError
from ppml_airflow.protocol.messages import AskToken, Token
from ppml_airflow.provenance.passport import EvidenceRecord
from ppml_airflow.sealing import wrapping
from ppml_airflow.units import Digest, HexId, Name, format_instant, parse_instant

SIGNS_FOR = timedelta(hours=24)
_PUBLISHED_FOR = SIGNS_FOR + 2 * LIFETIME


def ask_token(broker: Broker, *, session_id: str, request: AskToken) -> Token:
    """A token about the evidence of an RCAR session, while the session lasts.

    Raises:
        VerificationError: there is no such session.
        PolicyDeniedError: its evidence has not been accepted, or what it stands on is revoked.
    """
    with broker.decision() as ledger:
        session = load_session(ledger, session_id=session_id)
        run_id, record = _accepted(ledger, binding=session.binding, nonce=session.nonce)
        kept = store.find(ledger.connection, store.collateral, digest=record.collateral)
        if session.answer is None or kept is None or parse_instant(session.expires) <= ledger.now:
            raise _not_accepted()
        evidence, at = Evidence(tee=record.tee, quote=record.quote), parse_instant(record.time)
        verified = verify_evidence(evidence, collateral=kept.content, roots=broker.roots, now=at)
        ledger.require_not_revoked(*subjects_of_evidence(verified))
        approval = ledger.approval(ledger.run(run_id).approval)
        return issue_token(
            broker,
            ledger,
            verified,
            audience=request.audience,
            nonce=record.nonce,
            key=public_jwk(record.binding.signing_key),
            policy=record.policy,
            image=require_step(approval, name=record.step).image,
        )


def issue_token(
    broker: Broker,
    ledger: Ledger,
    verified: VerifiedEvidence,
    *,
    audience: str,
    nonce: str,
    key: Mapping[str, str],
    policy: Digest,
    image: Name,
) -> Token:
    """Sign a token about evidence that the policy in force has accepted; the arguments are those of `ear_claims`."""
    claims = ear_claims(
        verified,
        issuer=broker.domain.domain_id,
        audience=audience,
        nonce=nonce,
        key=key,
        policy=policy,
        image=image,
        build=version("ppml-airflow"),
        now=ledger.now,
    )
    row = _current_key(broker, ledger)
    private = broker.kms.unwrap(row.wrapped, key_id=RELEASE_KEK, context=_context(broker, row.kid))
    return Token(token=sign_ear(claims, key=ECKey.import_key(canonical.decode(private, into=dict))))


def published_keys(broker: Broker) -> dict[str, Any]:
    """The JWKS (RFC 7517): the key that signs, and those whose tokens may still be good."""
    with broker.decision() as ledger:
        _current_key(broker, ledger)
        rows = store.find_all(ledger.connection, store.token_key, order="created")
        return {"keys": [canonical.decode(row.public, into=dict) for row in reversed(rows)]}


def _accepted(ledger: Ledger, *, binding: str, nonce: str) -> tuple[HexId, EvidenceRecord]:
    """The run and the evidence that a session's nonce was for."""
    for row in store.find_all(ledger.connection, store.attempt, order="id", binding=binding):
        record = canonical.decode(row.evidence, into=EvidenceRecord)
        if record.nonce == nonce:
            return row.run_id, record
    raise _not_accepted()


def _not_accepted() -> PolicyDeniedError:
    return PolicyDeniedError(
        "evidence of this session has not been accepted, so there is no token about it",
        code="not_accepted",
        hint="ask for the lease first, and for the token within the session",
    )


def _current_key(broker: Broker, ledger: Ledger) -> sa.Row[Any]:
    """The row of today's key; made when yesterday's is old. Keys whose tokens have all expired are forgotten."""
    connection, table = ledger.connection, store.token_key
    newest = None
    for row in store.find_all(connection, table, order="created"):
        age = ledger.now - parse_instant(row.created)
        if age >= _PUBLISHED_FOR:
            store.delete(connection, table, kid=row.kid)
        elif age < SIGNS_FOR:
            newest = row
    return newest if newest is not None else _make_key(broker, ledger)


def _make_key(broker: Broker, ledger: Ledger) -> sa.Row[Any]:
    key = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, auto_kid=True)
    kid, private = str(key.kid), canonical.encode(key.as_dict(private=True))
    store.insert(
        ledger.connection,
        store.token_key,
        kid=kid,
        created=format_instant(ledger.now),
        public=canonical.encode(key.as_dict(private=False)),
        wrapped=broker.kms.wrap(private, key_id=RELEASE_KEK, context=_context(broker, kid)),
    )
    (row,) = store.find_all(ledger.connection, store.token_key, order="kid", kid=kid)
    return row


def _context(broker: Broker, kid: str) -> Mapping[str, str]:
    return wrapping.token_key_context(domain_id=broker.domain.domain_id, kid=kid)
