"""What of a verified run stands on something that the domain's owners have revoked.

A passport stays authentic: it says what was believed at its time, a revocation what became of that. What an attempt
made stands on whatever the attempt stands on, and so does every later attempt of the run that read it. Who may only
read (recipients, holders of logs) taints nothing.

Nothing here is shared with the code by which the broker decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ppml_airflow import canonical
from ppml_airflow.canonical import Document
from ppml_airflow.domain.documents import DatasetVersion, Domain, Lease, Revocation, RevocationKind
from ppml_airflow.domain.trust import verify_owner_document
from ppml_airflow.errors import PolicyDeniedError
from ppml_airflow.provenance.attempts import JudgedAttempt, RunDocuments
from ppml_airflow.provenance.completeness import naming
from ppml_airflow.provenance.passport import Passport
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.signing import Envelope
from ppml_airflow.units import Digest, Instant, Name

_Subject = tuple[RevocationKind, str]


class RevokedReport(Document, frozen=True, kw_only=True):
    """An attempt that stands on something revoked, and what it made."""

    step: Name
    attempt: int
    """0 for a preflight."""
    kind: RevocationKind
    subject: str
    since: Instant
    reason: str
    through: str
    """The input by which the attempt stands on it; empty if it does so itself."""
    outputs: tuple[DatasetVersion, ...]


def verify_revocations(envelopes: Iterable[Envelope], *, domain: Domain) -> dict[_Subject, Revocation]:
    """The revocations by their subjects, each signed by the owners.

    Raises:
        VerificationError: one is not theirs, or has too few signatures: which is wrong, the verifier cannot know.
    """
    with naming("revocations"):
        found = [verify_owner_document(envelope, into=Revocation, domain=domain) for envelope in envelopes]
    return {(one.kind, one.subject): one for one in sorted(found, key=lambda one: one.time, reverse=True)}


def find_revoked(
    judged: Iterable[JudgedAttempt],
    *,
    documents: RunDocuments,
    passport: Passport,
    revoked: Mapping[_Subject, Revocation],
) -> tuple[RevokedReport, ...]:
    """The attempts that stand on something revoked, in their order; one line for each such thing."""
    if not revoked:
        return ()
    common: list[_Subject] = [("approval", passport.contents.approval.digest)]
    common += [("key", each.keyid) for each in (*passport.contents.run.signatures, *passport.closed.signatures)]
    manifests = {digest: canonical.decode(one.payload, into=Manifest) for digest, one in documents.manifests.items()}
    manifests |= {canonical.digest(one): one for one in passport.contents.earlier_manifests}
    tainted: dict[Digest, dict[_Subject, None]] = {}
    for digest, manifest in manifests.items():
        serials = {manifest.producer or "", *(wrap.serial for wrap in manifest.wraps if wrap.to == "dataset")}
        tainted[digest] = dict.fromkeys(one for one in _named(serials, documents=documents) if one in revoked)
    found: list[RevokedReport] = []
    for one in judged:
        outputs = one.receipt.outputs if one.receipt else ()
        reasons = dict.fromkeys((*common, *_subjects(one, documents=documents)), "")
        for pinned in documents.pins[one.attempt.record.step].inputs:
            for subject in tainted.get(pinned.manifest, ()):
                reasons.setdefault(subject, pinned.dataset)
        standing = {subject: through for subject, through in reasons.items() if subject in revoked}
        for made in outputs:
            tainted.setdefault(made.manifest, {}).update(dict.fromkeys(standing))
        found += [
            RevokedReport(
                step=one.attempt.record.step,
                attempt=one.attempt.record.attempt,
                kind=subject[0],
                subject=subject[1],
                since=revoked[subject].time,
                reason=revoked[subject].reason,
                through=through,
                outputs=outputs,
            )
            for subject, through in standing.items()
        ]
    return tuple(found)


def require_nothing_revoked(found: Iterable[RevokedReport]) -> None:
    """Refuse a run of which something stands on what is revoked.

    Raises:
        PolicyDeniedError: names the first (`revoked`).
    """
    for one in found:
        raise PolicyDeniedError(
            f"run is authentic, and step {one.step} stands on {one.kind} {one.subject},"
            f" revoked since {one.since}: {one.reason}",
            code="revoked",
            hint="ask the owners what its outputs are still good for",
        )


def _subjects(one: JudgedAttempt, *, documents: RunDocuments) -> Iterator[_Subject]:
    """What an attempt itself stands on, beside what the whole run does."""
    yield "measurement", one.evidence.measurement
    yield "platform", one.evidence.platform
    if one.attempt.lease is not None:
        yield from (("key", each.keyid) for each in one.attempt.lease.signatures)
        lease = canonical.decode(one.attempt.lease.payload, into=Lease)
        yield from _named({output.dataset_certificate or "" for output in lease.outputs}, documents=documents)


def _named(serials: Iterable[str], *, documents: RunDocuments) -> Iterator[_Subject]:
    """Certificates by their serials, and the keys of those that the passport encloses."""
    for serial in sorted(serials):
        yield "certificate", serial
        if serial in documents.certificates.by_serial:
            yield "key", documents.certificates.by_serial[serial].key.key_id
