"""Documents of the store, verified; those whose very bytes were verified before are not verified again.

A verification is a function of bytes, keys and domain alone, so its answer may be kept. A row that somebody edits has
other bytes, and is verified. What depends on time, which certificates hold now, is asked anew by the callers. Only what
held is kept, only small documents, and so many.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Domain
from ppml_airflow.domain.trust import Certificates, verify_owner_document
from ppml_airflow.signing import Envelope, PublicKey, SignedDocument, verify_envelope
from ppml_airflow.units import KIB

D = TypeVar("D", bound=SignedDocument)
_MAX_KEPT_BYTES = 256 * KIB


def read_envelope(stored: bytes) -> Envelope:
    """An envelope as it is stored; not verified.

    Raises:
        MalformedInputError: it is none.
    """
    return _envelope(stored) if len(stored) <= _MAX_KEPT_BYTES else _envelope.__wrapped__(stored)


def owner_document(envelope: Envelope, *, into: type[D], domain: Domain) -> D:
    """A document that the owners signed.

    Raises:
        VerificationError: they did not, or it is another domain's.
    """
    if len(envelope.payload) > _MAX_KEPT_BYTES:
        return verify_owner_document(envelope, into=into, domain=domain)
    found: D = _owner_document(envelope, into, domain)  # type: ignore[assignment]  # of the type that was asked for
    return found


def certificates_of(envelopes: tuple[Envelope, ...], *, domain: Domain) -> Certificates:
    """The owners' certificates, expired ones among them.

    Raises:
        VerificationError: one is not the owners', or two share a serial.
    """
    return _certificates(envelopes, domain)


def broker_document(envelope: Envelope, *, into: type[D], keys: tuple[PublicKey, ...]) -> D:
    """A document that one of these certified keys signed.

    Raises:
        VerificationError: none did.
    """
    if len(envelope.payload) > _MAX_KEPT_BYTES:
        return verify_envelope(envelope, into=into, keys=keys)
    found: D = _broker_document(envelope, into, keys)  # type: ignore[assignment]  # of the type that was asked for
    return found


@lru_cache(maxsize=2048)
def _envelope(stored: bytes) -> Envelope:
    return canonical.decode(stored, into=Envelope)


@lru_cache(maxsize=1024)
def _owner_document(envelope: Envelope, into: type[SignedDocument], domain: Domain) -> SignedDocument:
    return verify_owner_document(envelope, into=into, domain=domain)


@lru_cache(maxsize=16)
def _certificates(envelopes: tuple[Envelope, ...], domain: Domain) -> Certificates:
    return Certificates.verify(envelopes, domain=domain)


@lru_cache(maxsize=1024)
def _broker_document(envelope: Envelope, into: type[SignedDocument], keys: tuple[PublicKey, ...]) -> SignedDocument:
    return verify_envelope(envelope, into=into, keys=keys)
