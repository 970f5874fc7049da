"""The inputs of a run: each pinned version is a manifest that a certified producer or an attested key signed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ppml_airflow import canonical
from ppml_airflow.domain.documents import DatasetVersion, Input, Run
from ppml_airflow.domain.trust import Certificates
from ppml_airflow.errors import VerificationError
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.signing import Envelope, PublicKey, verify_envelope
from ppml_airflow.units import Digest, parse_instant


def verify_input(
    pinned: DatasetVersion,
    *,
    wanted: Input,
    run: Run,
    manifests: Mapping[Digest, Envelope],
    earlier: Iterable[Manifest],
    made_here: Mapping[Digest, PublicKey],
    certificates: Certificates,
) -> Manifest:
    """Verify the manifest of one pinned input.

    Args:
        earlier: manifests made in other runs, whose signature only those runs' passports can show.
        made_here: the attested key K by the digest of each manifest that a committed attempt of this run made.

    Raises:
        VerificationError: not enclosed, made by nobody certified or attested, or another dataset, version or run.
    """
    what = f"input {pinned.dataset}"
    envelope = manifests.get(pinned.manifest)
    if envelope is None:
        manifest = next((one for one in earlier if canonical.digest(one) == pinned.manifest), None)
        if manifest is None or manifest.lease_id is None or manifest.run_id == run.run_id:
            raise VerificationError(f"{what}: its manifest is missing or changed", code="incomplete")
    elif pinned.manifest in made_here:
        manifest = verify_envelope(envelope, into=Manifest, keys=(made_here[pinned.manifest],))
    else:
        manifest = _verify_produced(envelope, what=what, run=run, certificates=certificates)
    found = (manifest.domain_id, manifest.dataset, manifest.version)
    if found != (run.domain_id, pinned.dataset, pinned.version):
        raise VerificationError(f"{what}: its manifest is of {found[1]} version {found[2]}", code="other_manifest")
    if wanted.version == "this-run" and manifest.run_id != run.run_id:
        raise VerificationError(f"{what} was not sealed for this run", code="other_run")
    return manifest


def _verify_produced(envelope: Envelope, *, what: str, run: Run, certificates: Certificates) -> Manifest:
    """Verify under every certified producer's key first: nothing is read from unsigned bytes."""
    opened = parse_instant(run.opened)
    producers = [one for one in certificates.by_serial.values() if one.role == "producer"]
    manifest = verify_envelope(envelope, into=Manifest, keys=tuple({one.key for one in producers}))
    if manifest.producer is None or manifest.lease_id is not None:
        raise VerificationError(f"{what}: its manifest names no producer", code="not_certified")
    certificate = certificates.serial(manifest.producer, role="producer", now=opened)
    if manifest.dataset not in certificate.datasets:
        raise VerificationError(f"{what}: producer {certificate.subject} is not certified for it", code="not_certified")
    if [signature.keyid for signature in envelope.signatures] != [certificate.key.key_id]:
        raise VerificationError(f"{what}: signed by another key than its producer's", code="not_certified")
    return manifest
