"""RCAR sessions: a challenge, then evidence, which is only stored here.

A guest's challenge commits to its binding. A stock client of Trustee has none: what it may have is decided in
`resources`, and it has no lease.

Source: Trustee KBS protocol 0.4.0 (`auth`, `attest`), as Trustee and guest-components speak it; a guest's binding and
its salt travel in `extra-params`.
"""

from __future__ import annotations

import base64
import json
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
from ppml_airflow.protocol.messages import KBS_VERSION
from ppml_airflow.units import Digest, format_instant, parse_instant

SESSION_LIFETIME = timedelta(seconds=120)
STOCK_NONCE_BYTES = 32
_HASH = "sha384"
_BEGIN = "start with auth"
_EXPIRED = sa.delete(store.session).where(store.session.c.expires < sa.bindparam("now"))


class _ExtraParams(Document, frozen=True, kw_only=True):
    binding: Digest


class _Auth(Document, frozen=True, kw_only=True, rename={"extra_params": "extra-params"}):
    version: str
    tee: Tee
    extra_params: dict[str, Any] | str
    """A guest's: its binding. A stock client's: empty, or what it can do, of which the hash algorithms count."""


class _RuntimeData(Document, frozen=True, kw_only=True, rename={"tee_pubkey": "tee-pubkey"}):
    nonce: str
    tee_pubkey: dict[str, str]


class _Primary(Document, frozen=True, kw_only=True):
    quote: str
    cc_eventlog: str | None = None
    """A TD's event log, which is not judged: policies name the registers that it explains."""


class _TeeEvidence(Document, frozen=True, kw_only=True):
    primary_evidence: _Primary
    additional_evidence: str


class _Attest(
    Document,
    frozen=True,
    kw_only=True,
    rename={"init_data": "init-data", "runtime_data": "runtime-data", "tee_evidence": "tee-evidence"},
):
    init_data: None = None
    runtime_data: _RuntimeData
    tee_evidence: _TeeEvidence


def auth(broker: Broker, *, body: bytes) -> tuple[str, dict[str, Any]]:
    """Hand out a challenge: one that opens to a guest's binding, or a random one to a stock client.

    Returns:
        The session id (for the cookie `kbs-session-id`) and the answer.

    Raises:
        MalformedInputError: not an auth request.
        ConfigurationError: another protocol version or hash, or no binding where no resource is marked.
    """
    request = _decode(body, _Auth)
    if request.version != KBS_VERSION:
        raise ConfigurationError(f"KBS protocol is {request.version[:20]!r}, wanted {KBS_VERSION}", code="kbs_version")
    binding = _binding_of(broker, request.extra_params)
    if binding is None:
        salt, nonce = b"", base64.b64encode(secrets.token_bytes(STOCK_NONCE_BYTES)).decode()
    else:
        salt = secrets.token_bytes(SALT_BYTES)
        nonce = nonce_for(salt=salt, binding_digest=binding)
    session_id = secrets.token_urlsafe(24)
    with broker.decision() as ledger:
        ledger.connection.execute(_EXPIRED, {"now": ledger.time})
        store.insert(
            ledger.connection,
            store.session,
            session_id=session_id,
            nonce=nonce,
            salt=salt,
            binding=binding,
            tee=request.tee,
            expires=format_instant(ledger.now + SESSION_LIFETIME),
            spent=False,
        )
    return session_id, {"nonce": nonce, "extra-params": {"salt": base64.b64encode(salt).decode()} if salt else ""}


def _binding_of(broker: Broker, extra_params: dict[str, Any] | str) -> Digest | None:
    if isinstance(extra_params, dict) and "binding" in extra_params:
        return canonical.convert(extra_params, into=_ExtraParams).binding
    if not broker.resources:
        raise ConfigurationError(
            "auth without a binding; this broker releases keys for attested jobs only", code="binding_missing"
        )
    offered = extra_params.get("supported-hash-algorithms", [_HASH]) if isinstance(extra_params, dict) else [_HASH]
    if not isinstance(offered, list) or _HASH not in offered:
        raise ConfigurationError(f"hash algorithms {repr(offered)[:100]} lack {_HASH}", code="hash_algorithm")
    return None


def attest(broker: Broker, *, session_id: str, body: bytes) -> bool:
    """Store the evidence of a session; nothing is judged here.

    Returns:
        Whether it is a stock client's session. Handing in the same evidence again is then no error.

    Raises:
        VerificationError: no such session, another nonce, or evidence was handed in already.
        MalformedInputError: not an attest request.
    """
    request = _decode(body, _Attest)
    quote = decode_quote(request.tee_evidence.primary_evidence.quote)
    if request.tee_evidence.additional_evidence:
        raise MalformedInputError("additional evidence is not read here; wanted an empty string")
    key = canonical.encode(request.runtime_data.tee_pubkey)
    broker.collateral.prepare(quote, now=broker.clock())
    with broker.decision() as ledger:
        row = _load(ledger, session_id=session_id)
        if row.expires <= ledger.time:
            raise VerificationError("session has expired", code="session_unknown", hint=_BEGIN)
        if row.nonce != request.runtime_data.nonce:
            raise VerificationError("nonce is not the one of this session", code="other_nonce")
        is_stock, again = row.binding is None, row.quote == quote and row.tee_pubkey == key
        if row.quote is not None and not (is_stock and again):
            raise VerificationError("session has had its evidence already", code="nonce_spent", hint=_BEGIN)
        store.update(ledger.connection, store.session, where={"session_id": session_id}, quote=quote, tee_pubkey=key)
    return is_stock


def load_session(ledger: Ledger, *, session_id: str) -> sa.Row[Any]:
    """The row of a guest's session, which has a binding.

    Raises:
        VerificationError: there is none of that id, or it is a stock client's.
    """
    row = _load(ledger, session_id=session_id)
    if row.binding is None:
        raise VerificationError("session has no binding, so it has no lease", code="binding_missing", hint=_BEGIN)
    return row


def load_stock_session(ledger: Ledger, *, session_id: str) -> sa.Row[Any]:
    """The row of a stock client's session that lasts and has its evidence.

    Raises:
        VerificationError: it is none, it has expired, or nothing was attested.
    """
    row = _load(ledger, session_id=session_id)
    if row.binding is not None or row.quote is None or row.expires <= ledger.time:
        raise VerificationError("session has not been attested, or has expired", code="session_unknown", hint=_BEGIN)
    return row


def _load(ledger: Ledger, *, session_id: str) -> sa.Row[Any]:
    row = store.find(ledger.connection, store.session, session_id=session_id)
    if row is None:
        raise VerificationError("session is unknown or has expired", code="session_unknown", hint=_BEGIN)
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


def spend(ledger: Ledger, *, session_id: str, answer: Document | None) -> None:
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
    """RCAR bodies come from stock clients too, so they need not be canonical; unknown and double fields are refused."""
    try:
        json.loads(body, object_pairs_hook=_require_once)
        return msgspec.json.decode(body, type=into, strict=True)
    except (ValueError, RecursionError) as error:
        raise MalformedInputError(f"RCAR request is malformed: {error}") from error


def _require_once(fields: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in fields}) != len(fields):
        raise ValueError("a field is there twice")
