"""What the pure decisions refuse although nothing that reaches them today could ask for it: each stands on its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.attestation.report_data import nonce_for
from ppml_airflow.broker.decisions.approvals import require_in_force, require_sound
from ppml_airflow.broker.decisions.leases import Challenge, require_fresh, require_job
from ppml_airflow.broker.decisions.receipts import require_output_manifest, require_publishable
from ppml_airflow.domain.documents import DatasetVersion
from ppml_airflow.domain.jobs import signed_request
from ppml_airflow.domain.trust import Certificates
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, VerificationError
from tests.support.broker_world import Guest, World
from tests.support.simulated_run import AGGREGATE, SUMMARISE, ZERO

change = msgspec.structs.replace
NOW = datetime(2026, 11, 23, 3, tzinfo=UTC)


def test_an_approval_in_which_two_steps_write_one_dataset_is_refused(world: World) -> None:
    twice = world.approval(steps=(AGGREGATE, change(SUMMARISE, outputs=AGGREGATE.outputs)))
    with pytest.raises(ConfigurationError, match="two steps that write the same dataset"):
        require_sound(twice)


def test_an_approval_is_not_in_force_before_its_time(world: World) -> None:
    with pytest.raises(PolicyDeniedError, match="is valid from"):
        require_in_force(world.approval(), digest=ZERO, in_force=ZERO, now=world.now - timedelta(days=3))


# ---------------------------------------------------------------- leases


@pytest.fixture
def guest(world: World) -> Guest:
    return Guest(world, run_id=world.ready_run())


def test_a_nonce_that_does_not_open_to_the_binding_is_refused(guest: Guest) -> None:
    binding = canonical.digest(guest.binding)
    challenge = Challenge(
        nonce=nonce_for(salt=b"s" * 32, binding_digest=binding),
        salt=b"s" * 32,
        binding=binding,
        expires=NOW + timedelta(minutes=1),
        spent=False,
    )
    signature = guest.key.sign_bytes(signed_request(nonce=challenge.nonce, binding=binding))
    require_fresh(challenge, binding=guest.binding, signature=signature, now=NOW)
    with pytest.raises(VerificationError, match="nonce does not open"):
        require_fresh(replace(challenge, salt=b"t" * 32), binding=guest.binding, signature=signature, now=NOW)


def test_evidence_for_another_domain_or_job_is_refused(guest: Guest) -> None:
    require_job(guest.binding, job=guest.job)
    with pytest.raises(VerificationError, match="evidence is for domain"):
        require_job(change(guest.binding, domain_id=ZERO), job=guest.job)
    with pytest.raises(VerificationError, match="covers another job"):
        require_job(guest.binding, job=change(guest.job, argv=("query.sql", "--all")))


# ---------------------------------------------------------------- receipts and manifests


def test_a_manifest_that_the_receipt_does_not_name_is_refused(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    (envelope,) = guest.manifests()
    with pytest.raises(VerificationError, match="not the one that the receipt names"):
        require_output_manifest(
            envelope,
            manifest=guest.output(0),
            named=DatasetVersion(dataset="report", version=1, manifest=ZERO),
            reserved=guest.lease.outputs[0],
            lease=guest.lease,
            step=AGGREGATE,
            domain_id=world.owners.domain.domain_id,
        )


def test_a_manifest_by_no_producer_for_no_key_or_into_a_reserved_version_is_not_published(world: World) -> None:
    certificates = Certificates.verify(world.owners.certificates, domain=world.owners.domain)
    manifest = world.manifest("visits")

    def judge(*, reserved: bool = False, **changes: object) -> None:
        require_publishable(
            change(manifest, **changes), certificates=certificates, head=None, reserved=reserved, now=world.now
        )

    judge()
    with pytest.raises(VerificationError, match="no producer"):
        judge(producer=None, lease_id="1" * 32)
    with pytest.raises(VerificationError, match="not sealed to its dataset key"):
        judge(wraps=())
    with pytest.raises(PolicyDeniedError, match="being written by a run"):
        judge(reserved=True)
