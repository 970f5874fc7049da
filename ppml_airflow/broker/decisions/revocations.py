"""Does this stand on something that the owners have revoked? Pure: what is revoked is an argument."""

from __future__ import annotations

from collections.abc import Iterable

from ppml_airflow.attestation.verification import VerifiedEvidence
from ppml_airflow.domain.documents import Revocation, RevocationKind
from ppml_airflow.errors import PolicyDeniedError

Subject = tuple[RevocationKind, str]
"""What can be revoked, by the name that a Revocation has for it."""

_NEXT = {
    "measurement": "accept another image: ppml image measure NAME --accept",
    "platform": "run it on another machine",
    "approval": "the owner approves the pipeline anew: ppml approve FILE",
    "certificate": "the owners certify another key",
    "key": "the owners certify another key",
}


def subjects_of_evidence(verified: VerifiedEvidence) -> tuple[Subject, Subject]:
    """What an enclave's evidence stands on."""
    return ("measurement", verified.measurement), ("platform", verified.platform)


def require_not_revoked(subjects: Iterable[Subject], *, revocations: Iterable[Revocation]) -> None:
    """Refuse what stands on something that is revoked.

    Raises:
        PolicyDeniedError: what is revoked, since when and why (`revoked`).
    """
    by_subject = {(revocation.kind, revocation.subject): revocation for revocation in revocations}
    for subject in subjects:
        if subject in by_subject:
            raise refusal(by_subject[subject])


def refusal(revocation: Revocation) -> PolicyDeniedError:
    """The error for whatever stands on it."""
    return PolicyDeniedError(
        f"refused for {describe_revocation(revocation)}", code="revoked", hint=_NEXT[revocation.kind]
    )


def describe_revocation(revocation: Revocation) -> str:
    """In words, for people."""
    return f"{revocation.kind} {revocation.subject}, revoked since {revocation.time}: {revocation.reason}"
