"""What a domain's owners have signed: verification under root keys that the caller already trusts.

Nothing here asks where a document came from. An envelope is untrusted until the threshold of the domain's root keys
has signed it; a certificate or approval of another domain is refused even when its signatures are good.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar, cast

from ppml_airflow.domain.documents import Certificate, Domain, Revocation, Role
from ppml_airflow.errors import VerificationError
from ppml_airflow.signing import Envelope, PublicKey, SignedDocument, verify_envelope
from ppml_airflow.units import Digest, parse_instant

_SIGNING_ROLES = ("broker", "producer")


class _OwnerDocument(Protocol):
    @property
    def domain_id(self) -> Digest: ...


D = TypeVar("D", bound=SignedDocument)


def verify_owner_document(envelope: Envelope, *, into: type[D], domain: Domain) -> D:
    """Verify a document that the owners sign: Certificate, Policy, Approval, Revocation.

    Raises:
        VerificationError: not signed by the threshold of the roots, or made for another domain.
    """
    document = verify_envelope(envelope, into=into, keys=domain.roots, threshold=domain.threshold)
    domain_id = cast(_OwnerDocument, document).domain_id
    if domain_id != domain.domain_id:
        raise VerificationError(
            f"{into.__name__} belongs to domain {domain_id}, wanted {domain.domain_id}", code="other_domain"
        )
    return document


@dataclass(frozen=True, slots=True)
class Certificates:
    """Verified certificates of one domain. Expired ones are kept for looking up by serial, never chosen as current."""

    by_serial: dict[str, Certificate]
    revoked: dict[str, str] = field(default_factory=dict)
    """Serials that are not in `by_serial` any more: since when, and why."""

    def without(self, revocations: Iterable[Revocation]) -> Certificates:
        """Those that are not revoked, by serial or by key."""
        said = {(each.kind, each.subject): f"since {each.time}: {each.reason}" for each in revocations}
        revoked = {
            serial: why
            for serial, certificate in self.by_serial.items()
            if (why := said.get(("certificate", serial)) or said.get(("key", certificate.key.key_id)))
        }
        return Certificates({serial: one for serial, one in self.by_serial.items() if serial not in revoked}, revoked)

    @classmethod
    def verify(cls, envelopes: Iterable[Envelope], *, domain: Domain) -> Certificates:
        """Verify each envelope under the domain's roots.

        Raises:
            VerificationError: one is not the owners', has a key unfit for its role, or two share a serial.
        """
        found: dict[str, Certificate] = {}
        for envelope in envelopes:
            certificate = verify_owner_document(envelope, into=Certificate, domain=domain)
            if certificate.key.scheme != ("ed25519" if certificate.role in _SIGNING_ROLES else "xwing"):
                raise VerificationError(f"certificate {certificate.serial} has a key unfit for {certificate.role}")
            if found.get(certificate.serial, certificate) != certificate:
                raise VerificationError(f"certificate serial {certificate.serial} is used twice")
            found[certificate.serial] = certificate
        return cls(found)

    def serial(self, serial: str, *, role: Role, now: datetime) -> Certificate:
        """The certificate of that serial.

        Raises:
            VerificationError: there is none, it has another role, or it has expired.
        """
        if serial in self.revoked:
            raise VerificationError(
                f"certificate {serial} as {role} is revoked {self.revoked[serial]}",
                code="revoked",
                hint="the owners certify another key",
            )
        certificate = self.by_serial.get(serial)
        if certificate is None or certificate.role != role:
            raise VerificationError(f"no certified {role} key has the serial {serial}", code="not_certified")
        _require_current(certificate, now=now)
        return certificate

    def current(self, *, role: Role, subject: str, now: datetime) -> Certificate:
        """The unexpired certificate of a holder that lasts longest.

        Raises:
            VerificationError: the holder has no unexpired certificate for this role.
        """
        candidates = [
            certificate
            for certificate in self.by_serial.values()
            if certificate.role == role
            and certificate.subject == subject
            and parse_instant(certificate.not_after) > now
        ]
        if not candidates:
            raise VerificationError(f"{subject} has no unexpired certificate as {role}", code="not_certified")
        return max(candidates, key=lambda certificate: (certificate.not_after, certificate.serial))

    def broker_keys(self, *, now: datetime) -> tuple[PublicKey, ...]:
        """The keys that may sign as the domain's broker at that time."""
        return tuple(
            certificate.key
            for certificate in self.by_serial.values()
            if certificate.role == "broker" and parse_instant(certificate.not_after) > now
        )


def verify_broker_document(envelope: Envelope, *, into: type[D], certificates: Certificates, now: datetime) -> D:
    """Verify a document signed by a broker whom the owners certified: Run, Pins, Lease, RunClosed.

    Raises:
        VerificationError: not signed by such a key.
    """
    return verify_envelope(envelope, into=into, keys=certificates.broker_keys(now=now))


def _require_current(certificate: Certificate, *, now: datetime) -> None:
    if parse_instant(certificate.not_after) <= now:
        raise VerificationError(
            f"certificate {certificate.serial} of {certificate.subject} expired at {certificate.not_after}",
            code="certificate_expired",
        )
