"""May this enclave live on, and may a job run in it? Pure: stored state and time are arguments.

A session is never sufficient: it yields no key, and every job within it attests for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Binding, SessionScope
from ppml_airflow.domain.jobs import signed_within_session
from ppml_airflow.errors import PolicyDeniedError, VerificationError
from ppml_airflow.signing import PublicKey, verify_signature
from ppml_airflow.units import Digest

ENCLAVE_SESSION_LIFETIME = timedelta(minutes=10)
"""Enclaves renew at half of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """An enclave's session as the broker keeps it."""

    session_id: str
    approval: Digest
    step: str
    signing_key: PublicKey
    epoch: int
    expires: datetime


def require_scope(binding: Binding, *, scope: SessionScope) -> None:
    """The quote covers exactly this approved step, and no job.

    Raises:
        VerificationError: the evidence is for something else.
    """
    if binding.role != "session" or binding.set_id or binding.index:
        raise VerificationError(f"evidence is for a {binding.role}, wanted a session", code="other_job")
    if binding.domain_id != scope.domain_id:
        raise VerificationError(f"evidence is for domain {binding.domain_id}", code="other_domain")
    if binding.job_digest != canonical.digest(scope):
        raise VerificationError(f"evidence is for another step or approval than {scope.step}", code="other_job")


def require_open(record: SessionRecord | None, *, epoch: int, now: datetime) -> SessionRecord:
    """The session is known, of this epoch, and was renewed in time. One that was not is over for ever.

    Raises:
        VerificationError: there is none.
        PolicyDeniedError: it is over.
    """
    if record is None:
        raise VerificationError("session of this enclave is not known here", code="enclave_session_unknown")
    if record.epoch != epoch or now >= record.expires:
        raise PolicyDeniedError(
            f"session {record.session_id} was not renewed in time",
            code="enclave_session_over",
            hint="start a new enclave",
        )
    return record


def require_within(
    binding: Binding,
    *,
    record: SessionRecord,
    approval: Digest,
    step: str,
    nonce: str,
    signature: bytes | None,
) -> None:
    """The job is of the session's step, and the enclave that has the session says that it is its own.

    Raises:
        VerificationError: another step or approval, or not signed by the session's K.
    """
    if (record.approval, record.step) != (approval, step):
        raise VerificationError(
            f"session {record.session_id} is for another step or approval than {step}", code="other_enclave_session"
        )
    if signature is None:
        raise VerificationError("job names a session and does not prove it", code="other_enclave_session")
    said = signed_within_session(nonce=nonce, binding=canonical.digest(binding), session_id=record.session_id)
    verify_signature(signature, payload=said, key=record.signing_key, subject="job within a session")
