"""What a verifier says of an authentic run once its owners have revoked something."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Domain, Lease, Revocation, RevocationKind
from ppml_airflow.errors import PolicyDeniedError, VerificationError
from ppml_airflow.provenance.report import PassportReport
from ppml_airflow.provenance.revocations import require_nothing_revoked, verify_revocations
from ppml_airflow.provenance.verification import verify_passport
from ppml_airflow.signing import Envelope, SigningKey
from ppml_airflow.units import format_instant
from tests.support.policies import MEASUREMENT
from tests.support.simulated_run import SimulatedRun

SINCE = "2026-11-01T00:00:00Z"


def revoked(run: SimulatedRun, kind: RevocationKind, subject: str, **changes: str) -> Envelope:
    revocation = Revocation(
        domain_id=run.owners.domain.domain_id, kind=kind, subject=subject, reason="stolen", time=SINCE
    )
    return run.owners.root.sign(msgspec.structs.replace(revocation, **changes))


def report(run: SimulatedRun, *revocations: Envelope) -> PassportReport:
    return verify_passport(run.passport(), trust=run.trust(revocations=revocations), now=datetime.now(UTC))


def test_without_revocations_the_report_says_that_none_are_known(finished: SimulatedRun) -> None:
    found = report(finished)
    assert (found.revocations_known, found.revoked) == (0, ())
    require_nothing_revoked(found.revoked)


def test_what_the_run_does_not_stand_on_changes_nothing(finished: SimulatedRun) -> None:
    found = report(finished, revoked(finished, "measurement", "ab" * 32), revoked(finished, "platform", "cd" * 16))
    assert (found.revocations_known, found.revoked) == (2, ())


def test_a_revoked_measurement_is_named_with_each_attempt_and_what_it_made(finished: SimulatedRun) -> None:
    found = report(finished, revoked(finished, "measurement", MEASUREMENT.hex())).revoked
    assert {(one.kind, one.subject, one.since, one.reason) for one in found} == {
        ("measurement", MEASUREMENT.hex(), SINCE, "stolen")
    }
    assert [(one.step, bool(one.attempt)) for one in found][:2] == [("aggregate", False), ("aggregate", True)]
    assert {made.dataset for one in found for made in one.outputs} == {"report", "summary"}
    with pytest.raises(
        PolicyDeniedError, match=f"authentic, and step aggregate stands on measurement {MEASUREMENT.hex()}"
    ):
        require_nothing_revoked(found)


def test_every_kind_of_subject_is_found(finished: SimulatedRun) -> None:
    owners, contents = finished.owners, finished.contents()
    lease = canonical.decode(contents.leases[0].payload, into=Lease)
    certificate = owners.dataset_certificates["report"]
    assert certificate.serial in {output.dataset_certificate for output in lease.outputs}
    subjects: tuple[tuple[RevocationKind, str], ...] = (
        ("approval", contents.approval.digest),
        ("key", owners.broker.public.key_id),
        ("certificate", certificate.serial),
        ("key", certificate.key.key_id),
        ("certificate", owners.producer_certificate.serial),
        ("key", owners.producer.public.key_id),
        ("certificate", owners.dataset_certificates["visits"].serial),
    )
    for kind, subject in subjects:
        assert report(finished, revoked(finished, kind, subject)).revoked, (kind, subject)


def test_what_came_through_an_input_is_told_with_its_input(finished: SimulatedRun) -> None:
    found = report(finished, revoked(finished, "certificate", finished.owners.producer_certificate.serial)).revoked
    through = {one.step: one.through for one in found}
    assert through["aggregate"] in ("visits", "plans")
    assert through["summarise"] == "report"


def test_who_could_only_read_taints_nothing(finished: SimulatedRun) -> None:
    serial = finished.owners.recipient_certificate.serial
    assert report(finished, revoked(finished, "certificate", serial)).revoked == ()


def test_a_revocation_by_nobody_or_of_another_domain_is_refused(finished: SimulatedRun) -> None:
    stranger = SigningKey.generate()
    own = canonical.decode(revoked(finished, "platform", "cd" * 16).payload, into=Revocation)
    for forged in (stranger.sign(own), revoked(finished, "platform", "cd" * 16, domain_id="sha256:" + "0" * 64)):
        with pytest.raises(VerificationError, match=r"^revocations: "):
            report(finished, forged)


def test_a_revocation_by_too_few_owners_of_a_joint_domain_is_refused() -> None:
    first, second = SigningKey.generate(), SigningKey.generate()
    domain = Domain(name="joint", roots=(first.public, second.public), threshold=2, trust="simulated")
    revocation = Revocation(
        domain_id=domain.domain_id,
        kind="platform",
        subject="cd" * 16,
        reason="stolen",
        time=format_instant(datetime.now(UTC)),
    )
    alone, other = first.sign(revocation), second.sign(revocation)
    with pytest.raises(VerificationError):
        verify_revocations([alone], domain=domain)
    both = msgspec.structs.replace(
        alone, signatures=tuple(sorted((*alone.signatures, *other.signatures), key=lambda one: one.keyid))
    )
    assert verify_revocations([both], domain=domain) == {("platform", "cd" * 16): revocation}


def test_of_two_revocations_of_one_thing_the_first_counts(finished: SimulatedRun) -> None:
    later = revoked(finished, "measurement", MEASUREMENT.hex(), time="2026-11-02T00:00:00Z")
    found = report(finished, later, revoked(finished, "measurement", MEASUREMENT.hex()))
    assert found.revocations_known == 1
    assert {one.since for one in found.revoked} == {SINCE}
