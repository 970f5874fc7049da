"""The owners' folder: root keys, and everything signed with them. The one place from which `ppml` signs.

What lies there is verified under the domain's roots whenever it is read. The folder is the owners' own record of what
is in force: the broker is told, never asked.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from ppml_airflow import canonical
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.cli.home import Home, write_private
from ppml_airflow.domain.documents import Approval, Certificate, Domain, Revocation, Role
from ppml_airflow.domain.trust import Certificates, verify_owner_document
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.signing import Envelope, PublicKey, SignedDocument, SigningKey, sign_payload
from ppml_airflow.units import format_instant, parse_instant

CERTIFICATE_LIFETIME = timedelta(days=5 * 365)
D = TypeVar("D", bound=SignedDocument)


class Owner:
    """The owners of one domain, with the root keys that lie in their folder."""

    def __init__(self, home: Home, *, domain: Domain, keys: Sequence[SigningKey]) -> None:
        self.folder = home.owner
        self.domain = domain
        self._keys = tuple(keys)

    @classmethod
    def load(cls, home: Home, *, key_files: Sequence[Path] = ()) -> Owner:
        """Read the domain and the root keys: those named, else those in the folder.

        Raises:
            ConfigurationError: no domain, or a key that is none of its roots'.
        """
        domain = home.load_domain()
        keys = [SigningKey.load(path) for path in key_files or root_key_files(home)]
        for key in keys:
            if key.public not in domain.roots:
                raise ConfigurationError(f"key {key.public.key_id} is not a root key of domain {domain.name}")
        return cls(home, domain=domain, keys=keys)

    def sign(self, document: SignedDocument) -> Envelope:
        """Sign a document."""
        return self.sign_payload(canonical.encode(document), into=type(document))

    def sign_payload(self, payload: bytes, *, into: type[SignedDocument]) -> Envelope:
        """Sign exactly these bytes with every root key at hand.

        Raises:
            ConfigurationError: fewer keys than the domain's threshold.
        """
        if len(self._keys) < self.domain.threshold:
            raise ConfigurationError(
                f"domain {self.domain.name} wants signatures by {self.domain.threshold} root keys; "
                f"{len(self._keys)} are at hand",
                code="below_threshold",
                hint="name each key with --key",
            )
        envelope = sign_payload(payload, payload_type=into.payload_type, keys=self._keys)
        verify_owner_document(envelope, into=into, domain=self.domain)
        return envelope

    # ---------------------------------------------------------------- certificates

    def certificates(self) -> Certificates:
        """All certificates that are not revoked, verified."""
        found = Certificates.verify(self._envelopes("certificates"), domain=self.domain)
        return found.without(self._documents("revocations", into=Revocation))

    def certify(
        self, key: PublicKey, *, role: Role, subject: str, datasets: Iterable[str] = (), now: datetime
    ) -> Certificate:
        """The certificate that gives a key a role for datasets; signed if there is none that covers them all.

        A new one covers what earlier ones of this key covered, too, and lasts longer: the longest-lasting is current.

        Raises:
            ConfigurationError: the key is revoked.
        """
        for revocation in self._documents("revocations", into=Revocation):
            if (revocation.kind, revocation.subject) == ("key", key.key_id):
                raise ConfigurationError(
                    f"key of {subject} as {role} is revoked since {revocation.time}: {revocation.reason}",
                    code="revoked",
                    hint="move its file away, and a new key is made and certified",
                )
        earlier = [
            certificate
            for certificate in self.certificates().by_serial.values()
            if (certificate.role, certificate.subject, certificate.key) == (role, subject, key)
        ]
        wanted = set(datasets)
        for certificate in earlier:
            if wanted <= set(certificate.datasets) and parse_instant(certificate.not_after) > now + timedelta(days=30):
                return certificate
        wanted.update(dataset for certificate in earlier for dataset in certificate.datasets)
        ends = [parse_instant(certificate.not_after) + timedelta(seconds=1) for certificate in earlier]
        serial = secrets.token_hex(16)
        return self.store_certificate(
            Certificate(
                domain_id=self.domain.domain_id,
                role=role,
                subject=subject,
                key=key,
                datasets=tuple(sorted(wanted)),
                kek_id="",
                not_after=format_instant(max([now + CERTIFICATE_LIFETIME, *ends])),
                serial=serial,
            )
        )

    def store_certificate(self, certificate: Certificate) -> Certificate:
        """Sign a certificate and keep it."""
        name = f"{certificate.role}-{certificate.subject}-{certificate.serial[:8]}.json"
        self._store(self.folder / "certificates" / name, self.sign(certificate))
        return certificate

    # ---------------------------------------------------------------- policies

    def policies(self) -> dict[str, Policy]:
        """The newest version of each policy."""
        newest: dict[str, Policy] = {}
        for policy in self._documents("policies", into=Policy):
            if policy.name not in newest or policy.version > newest[policy.name].version:
                newest[policy.name] = policy
        return newest

    def store_policy(self, policy: Policy) -> Envelope:
        """Sign a policy version and keep it.

        Raises:
            ConfigurationError: not newer than the newest.
        """
        newest = self.policies().get(policy.name)
        if newest is not None and policy.version <= newest.version:
            raise ConfigurationError(
                f"policy {policy.name} is version {policy.version}; version {newest.version} is signed already",
                hint=f"write version: {newest.version + 1}",
            )
        return self._store(self.folder / "policies" / f"{policy.name}-{policy.version:06d}.json", self.sign(policy))

    # ---------------------------------------------------------------- approvals

    def approvals(self, pipeline: str) -> list[Envelope]:
        """The approvals of a pipeline in the order in which they replaced each other; the last one is in force."""
        by_replaced = {
            approval.replaces: envelope
            for envelope in self._envelopes("approvals")
            if (approval := self._verify(envelope, into=Approval)).pipeline == pipeline
        }
        chain: list[Envelope] = []
        while (following := by_replaced.pop(chain[-1].digest if chain else None, None)) is not None:
            chain.append(following)
        return chain

    def approval_in_force(self, pipeline: str) -> tuple[Envelope, Approval] | None:
        """The newest approval of a pipeline."""
        chain = self.approvals(pipeline)
        return (chain[-1], self._verify(chain[-1], into=Approval)) if chain else None

    def store_approval(self, payload: bytes) -> Envelope:
        """Sign exactly these bytes as an approval and keep it.

        Raises:
            MalformedInputError: not the canonical encoding of an approval.
            ConfigurationError: it does not replace the approval in force.
        """
        approval = canonical.decode(payload, into=Approval)
        in_force = self.approval_in_force(approval.pipeline)
        wanted = in_force[0].digest if in_force else None
        if approval.replaces != wanted:
            raise ConfigurationError(
                f"approval of {approval.pipeline} replaces {approval.replaces}; in force is {wanted}",
                code="not_successor",
                hint="compile it again",
            )
        envelope = self.sign_payload(payload, into=Approval)
        name = f"{approval.pipeline}-{envelope.digest.removeprefix('sha256:')[:16]}.json"
        return self._store(self.folder / "approvals" / name, envelope)

    # ---------------------------------------------------------------- revocations

    def store_revocation(self, envelope: Envelope) -> Envelope:
        """Keep a revocation that is signed."""
        revocation = self._verify(envelope, into=Revocation)
        name = f"{revocation.kind}-{envelope.digest.removeprefix('sha256:')[:16]}.json"
        return self._store(self.folder / "revocations" / name, envelope)

    def revocations(self) -> list[Envelope]:
        """All that are signed."""
        return self._envelopes("revocations")

    # ---------------------------------------------------------------- the broker

    def publish(self, broker: BrokerClient) -> None:
        """Tell the broker everything that it does not know yet. Harmless when repeated."""
        known = {envelope.digest for envelope in broker.domain().certificates}
        for envelope in self._envelopes("certificates"):
            if envelope.digest not in known:
                broker.put_certificate(envelope)
        for envelope in self.revocations():
            broker.put_revocation(envelope)
        newest = {(policy.name, policy.version) for policy in self.policies().values()}
        for envelope in self._envelopes("policies"):
            policy = self._verify(envelope, into=Policy)
            if (policy.name, policy.version) in newest:
                broker.put_policy(envelope)
        pipelines = {approval.pipeline for approval in self._documents("approvals", into=Approval)}
        for pipeline in sorted(pipelines):
            self._publish_approvals(broker, pipeline=pipeline)

    def _publish_approvals(self, broker: BrokerClient, *, pipeline: str) -> None:
        chain = self.approvals(pipeline)
        in_force = broker.approval(pipeline)
        digests = [envelope.digest for envelope in chain]
        start = digests.index(in_force.digest) + 1 if in_force is not None and in_force.digest in digests else 0
        for envelope in chain[start:]:
            broker.put_approval(envelope)

    # ---------------------------------------------------------------- files

    def _store(self, path: Path, envelope: Envelope) -> Envelope:
        write_private(path, canonical.encode(envelope))
        return envelope

    def _envelopes(self, kind: str) -> list[Envelope]:
        paths = sorted((self.folder / kind).glob("[!.]*.json"))
        return [canonical.decode(path.read_bytes(), into=Envelope) for path in paths]

    def _documents(self, kind: str, *, into: type[D]) -> list[D]:
        return [self._verify(envelope, into=into) for envelope in self._envelopes(kind)]

    def _verify(self, envelope: Envelope, *, into: type[D]) -> D:
        return verify_owner_document(envelope, into=into, domain=self.domain)


def root_key_files(home: Home) -> list[Path]:
    """The root keys that lie in the owners' folder: root.pem, or root-1.pem and so on."""
    return sorted(home.owner.glob("root*.pem"))
