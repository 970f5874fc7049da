"""RCAR sessions: a challenge that commits to a binding, then evidence, which is only stored here.

Source: Trustee KBS protocol 0.4.0 (`auth`, `attest`); the binding and the salt travel in `extra-params`.
"""

from __future__ import annotations

import base64
import secrets
from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.attestation.evidence import MAX_QUOTE_BYTES, Tee
from ppml_airflow.attestation.report_data import SALT_BYTES, nonce_for
from ppml_airflow.broker import store
from ppml_airflow.broker.decisions.leases import Challenge
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.canonical import Document
from ppml_airflow.errors import ConfigurationError, MalformedInputError, VerificationError
from ppml_airflow.protocol.messages import KBS_VERSION, LeaseAnswer
from ppml_airflow.units import Digest, format_instant, parse_instant

SESSION_LIFETIME = timedelta(seconds=120)
_EXPIRED = sa.delete(store.session).where(store.session.c.expires < sa.bindparam("now"))


class _ExtraParams(Document, frozen=True, kw_only=True):
    binding: Digest


class _Auth(Document, frozen=True, kw_only=True, rename={"extra_params": "extra-params"}):
    version: str
    tee: Tee
    extra_params: _ExtraParams | str


class _RuntimeData(Document, frozen=True, kw_only=True, rename={"tee_pubkey": "tee-pubkey"}):
    nonce: str
    tee_pubkey: dict[str, str]


class _Primary(Document, frozen=True, kw_only=True):
    quote: str


class _TeeEvidence(Document, frozen=True, kw_only=True):
    primary_evidence: _Primary
    additional_evidence: str


class _Attest(
    Document,
    frozen=True,
    kw_only=True,
    rename={"init_data": "init-data", "runtime_data": "runtime-data", "tee_evidence": "tee-evidence"},
):
    init_data: None
    runtime_data: _RuntimeData
    tee_evidence: _TeeEvidence


def auth(broker: Broker, *, body: bytes) -> tuple[str, dict[str, Any]]:
    """Hand out a challenge that opens to the caller's binding.

    Returns:
        The session id (for the cookie `kbs-session-id`) and the answer.

    Raises:
        MalformedInputError: not an auth request.
        ConfigurationError: another protocol version, or no binding.
    """
    request = _decode(body, _Auth)
    if request.version != KBS_VERSION:
        raise ConfigurationError(f"KBS protocol is {request.version[:20]!r}, wanted {KBS_VERSION}", code="kbs_version")
    if isinstance(request.extra_params, str):
        raise ConfigurationError(
            "auth without a binding; this broker releases keys for attested jobs only", code="binding_missing"
        )
    salt = secrets.token_bytes(SALT_BYTES)
    nonce = nonce_for(salt=salt, binding_digest=request.extra_params.binding)
    session_id = secrets.token_urlsafe(24)
    with broker.decision() as ledger:
        ledger.connection.execute(_EXPIRED, {"now": ledger.time})
        store.insert(
            ledger.connection,
            store.session,
            session_id=session_id,
            nonce=nonce,
            salt=salt,
            binding=request.extra_params.binding,
            tee=request.tee,
            expires=format_instant(ledger.now + SESSION_LIFETIME),
            spent=False,
        )
    return session_id, {"nonce": nonce, "extra-params": {"salt": base64.b64encode(salt).decode()}}


def attest(broker: Broker, *, session_id: str, body: bytes) -> None:
    """Store the evidence of a session; nothing is judged before the lease is asked for.

    Raises:
        VerificationError: no such session, another nonce, or evidence was handed in already.
        MalformedInputError: not an attest request.
    """
    request = _decode(body, _Attest)
    quote = decode_quote(request.tee_evidence.primary_evidence.quote)
    if request.tee_evidence.additional_evidence:
        raise MalformedInputError("additional evidence is not read here; wanted an empty string")
    broker.collateral.prepare(quote, now=broker.clock())
    with broker.decision() as ledger:
        row = load_session(ledger, session_id=session_id)
        if row.expires <= ledger.time:
            raise VerificationError("session has expired", code="session_unknown", hint="start with auth")
        if row.nonce != request.runtime_data.nonce:
            raise VerificationError("nonce is not the one of this session", code="other_nonce")
        if row.quote is not None:
            raise VerificationError("session has had its evidence already", code="nonce_spent", hint="start with auth")
        values = {"quote": quote, "tee_pubkey": canonical.encode(request.runtime_data.tee_pubkey)}
        store.update(ledger.connection, store.session, where={"session_id": session_id}, **values)


def load_session(ledger: Ledger, *, session_id: str) -> sa.Row[Any]:
    """The row of a session.

    Raises:
        VerificationError: there is none of that id.
    """
    row = store.find(ledger.connection, store.session, session_id=session_id)
    if row is None:
        raise VerificationError("session is unknown or has expired", code="session_unknown", hint="start with auth")
    return row


def challenge_of(session: sa.Row[Any]) -> Challenge:
    """What the session's guest was asked."""
    return Challenge(
        nonce=session.nonce,
        salt=session.salt,
        binding=session.binding,
        expires=parse_instant(session.expires),
        spent=session.spent,
    )


def challenged_at(session: sa.Row[Any]) -> datetime:
    """When the session's nonce was given."""
    return parse_instant(session.expires) - SESSION_LIFETIME


def spend(ledger: Ledger, *, session_id: str, answer: LeaseAnswer | None) -> None:
    """Spend the session's nonce, and keep the answer for whoever lost it on the way."""
    stored = canonical.encode(answer) if answer is not None else None
    store.update(ledger.connection, store.session, where={"session_id": session_id}, spent=True, answer=stored)


def decode_quote(text: str) -> bytes:
    """Read a base64 quote.

    Raises:
        MalformedInputError: too long or not base64.
    """
    if len(text) > MAX_QUOTE_BYTES * 4 // 3 + 4:
        raise MalformedInputError(f"quote has {len(text)} characters; at most {MAX_QUOTE_BYTES} bytes are read")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise MalformedInputError("quote is not base64") from error


def _decode(body: bytes, into: type[Any]) -> Any:
    """RCAR bodies come from stock clients too, so they need not be canonical; unknown fields are still refused."""
    try:
        return msgspec.json.decode(body, type=into, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedInputError(f"RCAR request is malformed: {error}") from error
