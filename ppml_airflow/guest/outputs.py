"""What leaves the enclave on disk: outputs and the log, sealed only to certified keys that a verified lease names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ppml_airflow.domain.documents import Lease, LeaseKeys
from ppml_airflow.domain.sets import LEADER
from ppml_airflow.guest.bundle import VerifiedBundle
from ppml_airflow.sealing.logs import LogOrigin, seal_log
from ppml_airflow.sealing.outputs import OutputSeal
from ppml_airflow.sealing.versions import Enclave, NewVersion
from ppml_airflow.signing import SigningKey
from ppml_airflow.units import Digest, Name


def output_seals(
    lease: Lease, *, keys: LeaseKeys, bundle: VerifiedBundle, storage: Path, signing_key: SigningKey
) -> Mapping[Name, OutputSeal]:
    """What seals each output of a verified lease: the reserved version, a new data key, the certified keys."""
    certificates = bundle.certificates.by_serial
    streams = {output.dataset for output in bundle.step.outputs if output.body == "stream"}
    seals = {}
    for output in lease.outputs:
        for_later_steps = output.dataset_certificate
        seals[output.dataset] = OutputSeal(
            storage=storage,
            new=NewVersion(
                domain_id=bundle.domain.domain_id,
                dataset=output.dataset,
                version=output.version,
                prev=output.prev,
                run_id=lease.run_id,
            ),
            dataset_key=certificates[for_later_steps] if for_later_steps else None,
            recipients=tuple(certificates[serial] for serial in output.recipient_certificates),
            release_key=keys.release_keys[output.dataset],
            enclave=Enclave(lease_id=lease.lease_id, key=signing_key),
            is_stream=output.dataset in streams,
        )
    return seals


def seal_job_log(
    log: Path, *, lease: Lease, bundle: VerifiedBundle, storage: Path, member: int = LEADER
) -> Digest | None:
    """Seal what the job printed to those whom the lease names. None without readers, or where it cannot be written."""
    if not lease.log_certificates:
        return None
    certificates = bundle.certificates.by_serial
    origin = LogOrigin(
        domain_id=bundle.domain.domain_id,
        run_id=lease.run_id,
        step=lease.step,
        attempt=lease.attempt,
        lease_id=lease.lease_id,
    )
    readers = [certificates[serial] for serial in lease.log_certificates]
    try:
        return seal_log(log, storage=storage, origin=origin, recipients=readers, member=member)
    except OSError:
        return None
