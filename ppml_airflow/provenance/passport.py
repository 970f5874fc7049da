"""The passport of a run: one file that holds everything an auditor needs to judge the run offline.

Composing selects and orders, it judges nothing; `provenance.verification` believes none of it. `RunClosed`, which the
broker signs, covers the digest of all the rest: nothing can be added, dropped or encoded another way unnoticed.

Protocol: RunClosed, messages 13 and 14.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from ppml_airflow import canonical
from ppml_airflow.canonical import Document
from ppml_airflow.domain.documents import Binding, Certificate, Domain, Lease, NonNegative, Pins, Receipt
from ppml_airflow.errors import MalformedInputError
from ppml_airflow.provenance.log import LogEntry, LogProof
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.signing import Envelope
from ppml_airflow.units import MIB, Digest, Instant, Name

MAX_PASSPORT_BYTES = 256 * MIB
VERSION: Final = 2


class EvidenceRecord(Document, frozen=True, kw_only=True):
    """Evidence that the broker accepted, and all it takes to judge it again. `AttemptRecord.evidence` is its digest."""

    step: Name
    role: Literal["preflight", "job", "member"]
    attempt: NonNegative
    """0 for a preflight, from 1 for jobs."""
    challenged: Instant
    """The broker's time, at which it gave the nonce."""
    time: Instant
    """The broker's time, at which it judged."""
    tee: Literal["sgx", "tdx"]
    quote: bytes
    collateral: Digest
    """Digest of the collateral's JSON text."""
    nonce: str
    salt: bytes
    binding: Binding
    policy: Digest
    """The policy version under which it was judged."""


class PassportContents(Document, frozen=True, kw_only=True):
    """All of a passport but its end. Evidence, leases and receipts stand in the order of RunClosed's attempts."""

    version: Literal[2]
    domain: Domain
    certificates: tuple[Envelope, ...]
    policies: tuple[Envelope, ...]
    approval: Envelope
    run: Envelope
    pins: tuple[Envelope, ...]
    manifests: tuple[Envelope, ...]
    """Inputs that a producer sealed, and outputs of this run."""
    earlier_manifests: tuple[Manifest, ...]
    """Inputs that an enclave made in an earlier run. Its key K is known from that run's passport only."""
    evidence: tuple[EvidenceRecord, ...]
    collateral: Mapping[Digest, str]
    leases: tuple[Envelope, ...]
    receipts: tuple[Envelope, ...]
    log_entries: tuple[LogEntry, ...]
    """The run's entries in the log, up to RunClosed's `log_size`."""
    log_proof: LogProof


class Passport(Document, frozen=True, kw_only=True):
    """What `passports/<run_id>.json` holds, in canonical form."""

    contents: PassportContents
    closed: Envelope
    """RunClosed, whose `contents` is the digest of the contents."""


def compose_contents(
    *,
    domain: Domain,
    certificates: Iterable[Envelope],
    policies: Iterable[Envelope],
    approval: Envelope,
    run: Envelope,
    pins: Iterable[Envelope],
    manifests: Iterable[Envelope],
    evidence: Iterable[EvidenceRecord],
    collateral: Mapping[Digest, str],
    leases: Iterable[Envelope],
    receipts: Iterable[Envelope],
    log_entries: Iterable[LogEntry],
    log_proof: LogProof,
) -> PassportContents:
    """Select what a run's passport encloses. The digest of the result goes into RunClosed.

    Args:
        certificates: all that the broker knows; chosen are brokers' and those that the run refers to.
        policies: all versions; chosen are those under which evidence was judged.
        pins: of this run; likewise evidence, leases, receipts (in the order of attempts) and log_entries.
        manifests: any; chosen are the run's inputs and outputs.
        collateral: JSON texts by digest; chosen are those that evidence refers to.
        log_proof: of log_entries, in the log of RunClosed's `log_size`.
    """
    pins, evidence, leases, receipts = tuple(pins), tuple(evidence), tuple(leases), tuple(receipts)
    known_leases = tuple(canonical.decode(envelope.payload, into=Lease) for envelope in leases)
    chosen = _run_manifests(manifests, pins=pins, receipts=receipts)
    lease_ids = {lease.lease_id for lease in known_leases}
    earlier = {
        digest for digest, (_, manifest) in chosen.items() if manifest.lease_id and manifest.lease_id not in lease_ids
    }
    serials = {manifest.producer for _, manifest in chosen.values() if manifest.producer}
    for lease in known_leases:
        serials.update(lease.log_certificates)
        for output in lease.outputs:
            serials.update((output.dataset_certificate or "", *output.recipient_certificates))
    judged = {record.policy for record in evidence}
    return PassportContents(
        version=VERSION,
        domain=domain,
        certificates=_sorted(envelope for envelope in certificates if _is_chosen(envelope, serials)),
        policies=_sorted(envelope for envelope in policies if envelope.digest in judged),
        approval=approval,
        run=run,
        pins=_sorted(pins),
        manifests=_sorted(envelope for digest, (envelope, _) in chosen.items() if digest not in earlier),
        earlier_manifests=tuple(manifest for digest, (_, manifest) in sorted(chosen.items()) if digest in earlier),
        evidence=evidence,
        collateral={digest: collateral[digest] for digest in sorted({record.collateral for record in evidence})},
        leases=leases,
        receipts=receipts,
        log_entries=tuple(log_entries),
        log_proof=log_proof,
    )


def compose_passport(contents: PassportContents, *, closed: Envelope) -> bytes:
    """The canonical bytes of a passport, to be stored and handed out as they are."""
    return canonical.encode(Passport(contents=contents, closed=closed))


def parse_passport(data: bytes) -> Passport:
    """Read the canonical bytes of a passport; nothing of it is verified.

    Raises:
        MalformedInputError: too long, not a passport, or a byte differs from the canonical form.
    """
    try:
        return canonical.decode(data, into=Passport, max_bytes=MAX_PASSPORT_BYTES)
    except MalformedInputError:
        _require_this_version(data)
        raise


class _Versioned(msgspec.Struct, frozen=True):
    version: int


class _Outline(msgspec.Struct, frozen=True):
    contents: _Versioned


def _require_this_version(data: bytes) -> None:
    """Say of what does not parse whether another release wrote it."""
    try:
        found = msgspec.json.decode(data[:MAX_PASSPORT_BYTES], type=_Outline).contents.version
    except (msgspec.DecodeError, RecursionError):
        return
    if found != VERSION:
        raise MalformedInputError(
            f"passport has version {found}; this release reads version {VERSION}",
            code="passport_version",
            hint="verify it with the release that wrote it" if found < VERSION else "update ppml-airflow",
        )


def _run_manifests(
    manifests: Iterable[Envelope], *, pins: Iterable[Envelope], receipts: Iterable[Envelope]
) -> dict[Digest, tuple[Envelope, Manifest]]:
    wanted = {pin.manifest for envelope in pins for pin in canonical.decode(envelope.payload, into=Pins).inputs}
    for envelope in receipts:
        wanted.update(output.manifest for output in canonical.decode(envelope.payload, into=Receipt).outputs)
    return {
        envelope.digest: (envelope, canonical.decode(envelope.payload, into=Manifest))
        for envelope in manifests
        if envelope.digest in wanted
    }


def _is_chosen(envelope: Envelope, serials: set[str]) -> bool:
    certificate = canonical.decode(envelope.payload, into=Certificate)
    return certificate.role == "broker" or certificate.serial in serials


def _sorted(envelopes: Iterable[Envelope]) -> tuple[Envelope, ...]:
    return tuple(sorted(envelopes, key=lambda envelope: envelope.digest))
