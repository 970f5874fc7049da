"""What a person who verifies a passport trusts beforehand, in one file: `ppml trust export` writes it.

It comes from the person who asks, by a way of his own; a passport can neither name nor change it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ppml_airflow import canonical
from ppml_airflow.attestation.roots import TrustRoot
from ppml_airflow.canonical import Document
from ppml_airflow.domain.documents import Domain
from ppml_airflow.errors import ConfigurationError, MalformedInputError
from ppml_airflow.provenance.log import Checkpoint
from ppml_airflow.signing import Envelope
from ppml_airflow.units import MIB

MAX_BUNDLE_BYTES = MIB


class TrustBundle(Document, frozen=True, kw_only=True):
    """Anchors for offline verification."""

    domain: Domain
    tee_roots: tuple[bytes, ...]
    """Root certificates (DER) under which evidence counts. A development root only counts if somebody put it here."""
    checkpoints: tuple[Checkpoint, ...]
    """Heads of the broker's log, pinned earlier."""
    revocations: tuple[Envelope, ...]
    """What the owners have revoked, as far as is known to whoever made the bundle."""

    @property
    def roots(self) -> tuple[TrustRoot, ...]:
        """The TEE roots, parsed."""
        return tuple(map(TrustRoot, self.tee_roots))


def parse_trust_bundle(data: bytes) -> TrustBundle:
    """Read a trust bundle: canonical JSON; white space around it does not matter.

    Raises:
        ConfigurationError: not a trust bundle, or a root in it is not a certificate.
    """
    try:
        bundle = canonical.decode(data.strip(), into=TrustBundle, max_bytes=MAX_BUNDLE_BYTES)
    except MalformedInputError as error:
        raise ConfigurationError(
            f"trust bundle cannot be read: {error.message}", hint="make one with: ppml trust export"
        ) from error
    _ = [root.key_id for root in bundle.roots]
    return bundle


def make_trust_bundle(
    domain: Domain,
    *,
    tee_roots: Sequence[TrustRoot],
    checkpoints: Sequence[Checkpoint] = (),
    revocations: Sequence[Envelope] = (),
) -> TrustBundle:
    """Put a bundle together.

    Raises:
        ConfigurationError: no TEE root, or none that a domain of this trust could use.
    """
    if not any(root.trust == domain.trust for root in tee_roots):
        raise ConfigurationError(f"trust bundle of a {domain.trust} domain names no {domain.trust} TEE root")
    return TrustBundle(
        domain=domain,
        tee_roots=tuple(root.certificate for root in tee_roots),
        checkpoints=tuple(checkpoints),
        revocations=tuple(revocations),
    )
