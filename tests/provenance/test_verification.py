"""Passports that a certified broker signed: genuine ones, and those of a broker who signs what he should not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from ppml_airflow import canonical, merkle
from ppml_airflow.attestation.policy import ImageReference
from ppml_airflow.attestation.roots import INTEL_ROOT
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.domain.documents import DatasetVersion, Lease, Member, Pins
from ppml_airflow.errors import PolicyDeniedError, PpmlError, VerificationError
from ppml_airflow.provenance.log import Checkpoint, prove_consistency
from ppml_airflow.provenance.report import PassportReport
from ppml_airflow.provenance.verification import verify_passport
from ppml_airflow.sealing.manifest import Part
from ppml_airflow.sealing.wrapping import SealingKey
from ppml_airflow.signing import SigningKey, sign_payload
from ppml_airflow.units import format_instant
from tests.support.memory_tree import reader_of
from tests.support.owners import Owners
from tests.support.simulated_run import DATASETS, ZERO, SimulatedRun, complete_run, make_platform, start_run

replace = msgspec.structs.replace


def accept(run: SimulatedRun, **changes: Any) -> PassportReport:
    return verify_passport(run.passport(**changes), trust=run.trust(), now=datetime.now(UTC))


def refuse(run: SimulatedRun, *, match: str, code: str = "", **changes: Any) -> PpmlError:
    with pytest.raises(PpmlError, match=match) as refused:
        accept(run, **changes)
    assert not code or refused.value.code == code
    return refused.value


# ---------------------------------------------------------------- what is accepted


def test_a_complete_run_is_verified_and_reported(night: SimulatedRun) -> None:
    report = accept(night)
    assert (report.outcome, report.trust, report.run_id) == ("succeeded", "simulated", night.run_id)
    assert [(step.step, step.outcome) for step in report.steps] == [
        ("aggregate", "committed"),
        ("summarise", "committed"),
    ]
    assert [(one.role, one.attempt, one.outcome) for one in report.steps[0].attempts] == [
        ("preflight", 0, "granted"),
        ("job", 1, "job_failed"),
        ("job", 2, "committed"),
    ]
    assert report.denials == tuple(night.denials)
    assert report.releases == tuple(night.releases)


def test_a_failed_run_has_a_passport_that_says_so(fresh: SimulatedRun) -> None:
    fresh.pin("aggregate")
    fresh.attest("aggregate", role="preflight")
    attempt = fresh.attest("aggregate")
    fresh.fail(attempt, lease=fresh.lease(attempt), outcome="out_of_memory")
    report = accept(fresh)
    assert report.outcome == "failed"
    assert [step.outcome for step in report.steps] == ["failed", "not reached"]


def test_a_denied_run_has_a_passport_that_says_so(fresh: SimulatedRun) -> None:
    fresh.pin("aggregate")
    fresh.deny("aggregate", code="attestation_measurement")
    assert [step.outcome for step in accept(fresh).steps] == ["denied", "not reached"]


def test_a_run_whose_inputs_never_came_is_not_reached(fresh: SimulatedRun) -> None:
    assert [step.outcome for step in accept(fresh).steps] == ["not reached", "not reached"]


def test_a_fenced_attempt_without_a_receipt_is_accepted(fresh: SimulatedRun) -> None:
    fresh.pin("aggregate")
    fresh.attest("aggregate", role="preflight")
    lost = fresh.attest("aggregate")
    fresh.lease(lost)
    lost.outcome = "fenced"
    attempt = fresh.attest("aggregate")
    fresh.commit(attempt, lease=fresh.lease(attempt))
    fresh.run_step("summarise")
    assert accept(fresh).outcome == "succeeded"


def test_an_input_made_in_an_earlier_run_is_named(fresh: SimulatedRun) -> None:
    foreign = SigningKey.generate(scheme="p256")
    made = fresh.make_manifest("plans", producer=None, run_id="ab" * 16, lease_id="cd" * 16, body="padded-parquet")
    fresh.commit_manifest(foreign.sign(made))
    fresh.run_step("aggregate")
    fresh.run_step("summarise")
    (earlier,) = accept(fresh).earlier_inputs
    assert earlier == DatasetVersion(dataset="plans", version=1, manifest=canonical.digest(made))


def test_two_owners_signatures_are_verified(platform: SimulatedPlatform) -> None:
    owners = Owners(*DATASETS)
    run = start_run(platform, owners=owners)
    run.approval_envelope = sign_payload(
        run.approval_envelope.payload,
        payload_type=run.approval_envelope.payload_type,
        keys=(owners.root, SigningKey.generate()),
    )
    with pytest.raises(VerificationError, match="unknown key"):
        accept(run)


# ---------------------------------------------------------------- trust


def test_a_passport_of_another_domain_is_refused(
    night: SimulatedRun, platform: SimulatedPlatform, now: datetime
) -> None:
    other = start_run(platform)
    with pytest.raises(VerificationError, match="passport is of domain") as refused:
        verify_passport(night.passport(), trust=other.trust(), now=now)
    assert refused.value.code == "other_domain"


def test_a_bundle_without_the_development_root_refuses_simulated_evidence(night: SimulatedRun, now: datetime) -> None:
    for roots in ((), (INTEL_ROOT.certificate,)):
        with pytest.raises(VerificationError, match="names no simulated root"):
            verify_passport(night.passport(), trust=night.trust(tee_roots=roots), now=now)


def test_a_bundle_with_the_root_of_another_installation_is_refused(
    night: SimulatedRun, now: datetime, tmp_path: Any
) -> None:
    other = make_platform(tmp_path / "tee").root.certificate
    with pytest.raises(VerificationError, match="step aggregate, preflight: evidence leads to the root"):
        verify_passport(night.passport(), trust=night.trust(tee_roots=(other,)), now=now)


def test_simulated_evidence_under_a_hardware_domain_is_refused(platform: SimulatedPlatform, now: datetime) -> None:
    run = complete_run(platform, owners=Owners(*DATASETS, trust="hardware"))
    trust = run.trust(tee_roots=(INTEL_ROOT.certificate, platform.root.certificate))
    with pytest.raises(PolicyDeniedError, match=r"step aggregate, preflight: .*trust: got simulated, wanted hardware"):
        verify_passport(run.passport(), trust=trust, now=now)


def test_a_pinned_checkpoint_that_fits_is_counted(night: SimulatedRun, now: datetime) -> None:
    pinned = tuple(night.checkpoint(size=size) for size in (0, 3, len(night.entries), len(night.log())))
    report = verify_passport(night.passport(), trust=night.trust(checkpoints=pinned), now=now)
    assert report.checkpoints_compared == 4


def test_a_pinned_checkpoint_that_does_not_fit_is_refused(night: SimulatedRun, now: datetime) -> None:
    for size in (0, 3, len(night.log())):
        pinned = replace(night.checkpoint(size=size), log_root=ZERO)
        with pytest.raises(VerificationError, match=f"continue the checkpoint of {size}, one of which") as refused:
            verify_passport(night.passport(), trust=night.trust(checkpoints=(pinned,)), now=now)
        assert refused.value.code == "checkpoint"


def test_a_pinned_checkpoint_that_nothing_connects_is_refused(night: SimulatedRun, now: datetime) -> None:
    pinned = night.checkpoint(size=2)
    with pytest.raises(VerificationError, match="nothing proves") as refused:
        verify_passport(night.passport(), trust=night.trust(checkpoints=(pinned,)), now=now)
    assert refused.value.code == "checkpoint_unproved"
    assert "ppml broker prove 2" in refused.value.hint


def test_a_proof_from_the_broker_connects_any_pinned_checkpoint(night: SimulatedRun, now: datetime) -> None:
    end = len(night.log())
    proof = prove_consistency(2, second=end, read=reader_of(night.log()))
    trust = night.trust(checkpoints=(night.checkpoint(size=2),))
    assert verify_passport(night.passport(), trust=trust, now=now, log_proofs=(proof,)).checkpoints_compared == 1
    other = night.trust(checkpoints=(replace(night.checkpoint(size=2), log_root=ZERO),))
    with pytest.raises(VerificationError, match="does not continue") as refused:
        verify_passport(night.passport(), trust=other, now=now, log_proofs=(proof,))
    assert refused.value.code == "checkpoint"


def test_a_later_checkpoint_is_compared_where_a_proof_reaches_it(night: SimulatedRun, now: datetime) -> None:
    log = night.log()
    later = [*log, replace(log[-1], index=len(log)), replace(log[-1], index=len(log) + 1)]
    read = reader_of(later)
    root = "sha256:" + merkle.prove_root(len(later), read=read).hex()
    proof = prove_consistency(len(log), second=len(later), read=read)
    pinned = Checkpoint(log_size=len(later), log_root=root)
    report = verify_passport(night.passport(), trust=night.trust(checkpoints=(pinned,)), now=now, log_proofs=(proof,))
    assert report.checkpoints_compared == 1
    with pytest.raises(VerificationError, match="does not continue"):
        verify_passport(
            night.passport(),
            trust=night.trust(checkpoints=(replace(pinned, log_root=ZERO),)),
            now=now,
            log_proofs=(proof,),
        )


def test_a_later_checkpoint_is_not_counted_as_compared(night: SimulatedRun, now: datetime) -> None:
    later = replace(night.checkpoint(size=1), log_size=10_000)
    report = verify_passport(night.passport(), trust=night.trust(checkpoints=(later,)), now=now)
    assert report.checkpoints_compared == 0


# ---------------------------------------------------------------- run, approval, time


def test_a_run_closed_in_the_future_is_refused(night: SimulatedRun) -> None:
    future = format_instant(datetime.now(UTC) + timedelta(days=1))
    refuse(night, match="in the future", code="time", closed=future)


def test_a_run_closed_before_it_opened_is_refused(night: SimulatedRun) -> None:
    refuse(night, match="before it opened", closed=format_instant(night.opened_at - timedelta(seconds=1)))


def test_a_run_closed_before_its_last_log_entry_is_refused(night: SimulatedRun) -> None:
    refuse(night, match="times go backwards", closed=night.run.opened)


def test_an_end_that_names_another_run_is_refused(night: SimulatedRun) -> None:
    refuse(night, match="RunClosed ends run", code="other_run", run_id="ab" * 16)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"approval": ZERO}, "opened under another approval"),
        ({"pipeline": "other"}, "opened under another approval"),
        ({"opened": "2001-01-01T00:00:00Z"}, "outside its approval"),
    ],
)
def test_a_run_that_the_approval_does_not_cover_is_refused(
    fresh: SimulatedRun, change: dict[str, Any], match: str
) -> None:
    fresh.run = replace(fresh.run, **change)
    fresh.run_envelope = fresh.owners.broker.sign(fresh.run)
    refuse(fresh, match=match)


def test_a_slot_that_the_approval_does_not_have_is_refused(fresh: SimulatedRun) -> None:
    fresh.run = replace(fresh.run, slot=fresh.run.slot.replace(":00Z", ":01Z"))
    fresh.run_envelope = fresh.owners.broker.sign(fresh.run)
    refuse(fresh, match="is not the start of a day", code="slot_unknown")


def test_a_param_out_of_bounds_is_refused(fresh: SimulatedRun) -> None:
    fresh.run_step("aggregate")
    fresh.run = replace(fresh.run, params={"limit": 101})
    fresh.run_envelope = fresh.owners.broker.sign(fresh.run)
    refuse(fresh, match="run: param limit is '101'", code="param_out_of_bounds")


def test_a_broker_key_that_had_expired_is_refused(night: SimulatedRun) -> None:
    owners = night.owners
    stolen = SigningKey.generate()
    owners.certify("broker", key=stolen.public, expires_in=-timedelta(days=3))
    night.run_envelope = stolen.sign(night.run)
    refuse(night, match="run: Run is signed by the unknown key", code="unknown_signer")


def test_pins_that_are_repeated_are_refused(night: SimulatedRun) -> None:
    night.pins["again"] = night.pins["aggregate"]
    night.pin_times["again"] = night.pin_times["aggregate"]
    refuse(night, match="step aggregate: pins are of another run, or repeated", code="other_pins")


def test_pins_of_another_run_are_refused(night: SimulatedRun) -> None:
    pins = canonical.decode(night.pins["summarise"].payload, into=Pins)
    night.pins["summarise"] = night.owners.broker.sign(replace(pins, run_id="ab" * 16))
    refuse(night, match="step summarise: pins are of another run", code="other_pins")


def test_pins_of_a_step_that_is_not_approved_are_refused(night: SimulatedRun) -> None:
    night.pins["other"] = night.owners.broker.sign(Pins(run_id=night.run_id, step="other", inputs=()))
    night.pin_times["other"] = night.tick()
    refuse(night, match="step other: step other is not approved", code="step_not_approved")


def test_pins_that_leave_out_an_approved_input_are_refused(fresh: SimulatedRun) -> None:
    """The step was denied, so that no attempt speaks for its pins."""
    fresh.pin("aggregate")
    pins = canonical.decode(fresh.pins["aggregate"].payload, into=Pins)
    fresh.pins["aggregate"] = fresh.owners.broker.sign(replace(pins, inputs=pins.inputs[:1]))
    fresh.deny("aggregate")
    refuse(fresh, match="step aggregate: pins of aggregate do not name the approved inputs", code="other_pins")


def test_an_attempt_without_pins_is_refused(night: SimulatedRun) -> None:
    del night.pins["summarise"]
    refuse(night, match="step summarise, attempt 1: pins are missing", code="incomplete")


# ---------------------------------------------------------------- attempts and steps


def test_a_step_that_was_never_tried_is_refused(night: SimulatedRun) -> None:
    del night.attempts[3]
    night.releases.clear()
    refuse(night, match="step summarise: it is approved and its inputs were there", code="incomplete")


def test_a_dropped_attempt_leaves_a_gap_and_is_named(night: SimulatedRun) -> None:
    del night.attempts[1]
    refuse(night, match="step aggregate, attempt 2: wanted attempt 1", code="incomplete")


def test_a_repeated_attempt_is_refused(night: SimulatedRun) -> None:
    night.attempts.append(night.attempts[3])
    refuse(night, match="step summarise, attempt 1: wanted attempt 2")


def test_an_attempt_after_the_committed_one_is_refused(night: SimulatedRun) -> None:
    again = night.attest("summarise")
    night.fail(again, lease=night.lease(again))
    refuse(night, match="step summarise, attempt 2: the step was committed before", code="committed_before")


def test_more_attempts_than_approved_are_refused(fresh: SimulatedRun) -> None:
    fresh.pin("aggregate")
    fresh.attest("aggregate", role="preflight")
    for _ in range(4):
        attempt = fresh.attest("aggregate")
        fresh.fail(attempt, lease=fresh.lease(attempt))
    refuse(fresh, match="step aggregate, attempt 4: the approval allows 3 attempts", code="attempts_used_up")


def test_an_attempt_of_a_step_that_is_not_approved_is_refused(night: SimulatedRun) -> None:
    night.attempts[3].evidence = replace(night.attempts[3].evidence, step="other")
    refuse(night, match="step other, attempt 1: the approval has no such step", code="step_not_approved")


def test_a_preflight_with_a_lease_is_refused(night: SimulatedRun) -> None:
    night.attempts[0].lease = night.attempts[1].lease
    refuse(night, match="step aggregate, preflight: a preflight has neither", code="other_attempt")


def test_a_job_without_a_lease_is_refused(night: SimulatedRun) -> None:
    night.attempts[3].lease = None
    refuse(night, match="step summarise, attempt 1: wanted attempt 1 with a lease", code="incomplete")


def test_an_attempt_said_to_be_committed_without_a_receipt_is_refused(night: SimulatedRun) -> None:
    night.attempts[3].receipt = None
    refuse(night, match="step summarise, attempt 1: it is said to be committed", code="incomplete")


def test_evidence_listed_for_another_attempt_is_refused(night: SimulatedRun) -> None:
    *rest, last = night.records()
    changed = (*rest, replace(last, time="2001-01-01T00:00:00Z"))
    refuse(night, match="summarise, attempt 1: evidence is of another attempt", code="other_attempt", attempts=changed)


def test_a_step_leased_before_the_earlier_one_was_committed_is_refused(fresh: SimulatedRun) -> None:
    fresh.publish(fresh.make_manifest("report", run_id=fresh.run_id))
    fresh.run_step("summarise")
    fresh.run_step("aggregate")
    refuse(fresh, match="step summarise, attempt 1: step aggregate was not committed", code="too_early")


def test_a_job_whose_gate_was_not_passed_is_refused(fresh: SimulatedRun) -> None:
    """The sensor was deleted from the DAG, and the broker leased all the same."""
    fresh.pin("aggregate")
    attempt = fresh.attest("aggregate")
    fresh.commit(attempt, lease=fresh.lease(attempt))
    fresh.run_step("summarise")
    refuse(fresh, match="step aggregate, attempt 1: its gate had not been passed", code="gate_missing")


def test_a_gate_passed_under_another_policy_version_is_refused(fresh: SimulatedRun) -> None:
    fresh.pin("aggregate")
    fresh.attest("aggregate", role="preflight")
    fresh.policies.append(fresh.owners.root.sign(fresh.make_policy(version=2)))
    attempt = fresh.attest("aggregate")
    fresh.commit(attempt, lease=fresh.lease(attempt))
    fresh.run_step("summarise")
    refuse(fresh, match="its gate had not been passed", code="gate_missing")


def test_attempts_in_another_order_than_the_log_are_refused(fresh: SimulatedRun) -> None:
    fresh.pin("aggregate")
    fresh.attest("aggregate", role="preflight")
    fresh.attest("aggregate", role="preflight")
    attempt = fresh.attest("aggregate")
    fresh.commit(attempt, lease=fresh.lease(attempt))
    fresh.run_step("summarise")
    fresh.attempts[0], fresh.attempts[1] = fresh.attempts[1], fresh.attempts[0]
    refuse(fresh, match="step aggregate, preflight: it stands elsewhere in the log", code="log_broken")


def test_a_log_entry_of_the_run_that_the_passport_hides_is_refused(night: SimulatedRun) -> None:
    """RunClosed forgets a denial that the log has."""
    refuse(night, match="the passport accounts for", code="log_broken", denials=())


def test_a_denial_that_the_log_does_not_have_is_refused(night: SimulatedRun) -> None:
    invented = replace(night.denials[0], code="other")
    refuse(night, match="step aggregate, denial: no log entry", code="log_broken", denials=(invented,))


def test_an_end_over_other_contents_is_refused(night: SimulatedRun) -> None:
    refuse(night, match="something else than RunClosed says", code="contents", contents=ZERO)


# ---------------------------------------------------------------- evidence


def attempt_with(run: SimulatedRun, **options: Any) -> None:
    """Both steps, the last attempt with evidence of another kind."""
    run.run_step("aggregate")
    run.pin("summarise")
    attempt = run.attest("summarise", **options)
    run.commit(attempt, lease=run.lease(attempt))


@pytest.mark.parametrize(
    ("binding", "match"),
    [
        ({"job_digest": ZERO}, "evidence covers another job"),
        ({"domain_id": ZERO}, "evidence is for domain"),
        ({"role": "session"}, "evidence is for a session, wanted a job"),
    ],
)
def test_evidence_for_another_job_domain_or_role_is_refused(
    fresh: SimulatedRun, binding: dict[str, Any], match: str
) -> None:
    attempt_with(fresh, binding=binding)
    refuse(fresh, match=f"step summarise, attempt 1: {match}")


def test_a_quote_over_other_report_data_is_refused(fresh: SimulatedRun) -> None:
    attempt_with(fresh, report_data=b"\1" * 64)
    refuse(fresh, match=r"step summarise, attempt 1: .*report data", code="attestation_report_data")


def test_another_measurement_is_refused(fresh: SimulatedRun) -> None:
    attempt_with(fresh, measurement=b"\2" * 32)
    refuse(fresh, match=r"step summarise, attempt 1: .*measurement", code="attestation_measurement")


def test_a_debug_enclave_is_refused(fresh: SimulatedRun) -> None:
    attempt_with(fresh, is_debug=True)
    refuse(fresh, match="step summarise, attempt 1: ", code="debug_enclave")


def change_evidence(run: SimulatedRun, **changes: Any) -> None:
    run.attempts[3].evidence = replace(run.attempts[3].evidence, **changes)


def test_evidence_of_another_run_signed_into_this_one_is_refused(
    night: SimulatedRun, platform: SimulatedPlatform
) -> None:
    other = complete_run(platform, owners=night.owners)
    night.collateral.update(other.collateral)
    night.attempts[3].evidence = replace(other.attempts[3].evidence, time=night.attempts[3].evidence.time)
    refuse(night, match="step summarise, attempt 1: evidence covers another job", code="other_job")


def test_a_quote_of_another_attempt_is_refused(night: SimulatedRun) -> None:
    change_evidence(night, quote=night.attempts[2].evidence.quote)
    refuse(night, match="step summarise, attempt 1: .*report data", code="attestation_report_data")


def test_a_nonce_that_does_not_open_to_the_binding_is_refused(night: SimulatedRun) -> None:
    change_evidence(night, salt=b"\0" * 32)
    refuse(night, match="step summarise, attempt 1: nonce does not open", code="other_binding")


def test_evidence_after_its_collateral_had_expired_is_refused(night: SimulatedRun, platform: SimulatedPlatform) -> None:
    stale = platform.collateral(night.opened_at - timedelta(days=31)).decode()
    digest = canonical.digest_bytes(stale.encode())
    night.collateral[digest] = stale
    change_evidence(night, collateral=digest)
    refuse(night, match="step summarise, attempt 1: ", code="collateral_expired")


def test_a_policy_that_refuses_the_evidence_is_applied_again(night: SimulatedRun) -> None:
    strict = night.make_policy(images={"spark": ImageReference(measurements=("ab" * 32,))})
    night.policies.append(night.owners.root.sign(strict))
    change_evidence(night, policy=night.policies[-1].digest)
    refuse(night, match="step summarise, attempt 1: .*measurement", code="attestation_measurement")


def test_a_laxer_policy_that_no_owner_signed_is_refused(night: SimulatedRun) -> None:
    lax = night.make_policy(tcb_statuses=("UpToDate", "OutOfDate"))
    night.policies.append(night.owners.broker.sign(lax))
    change_evidence(night, policy=night.policies[-1].digest)
    refuse(night, match="policies: Policy is signed by the unknown key", code="unknown_signer")


def test_a_policy_of_another_name_is_refused(night: SimulatedRun) -> None:
    night.policies.append(night.owners.root.sign(night.make_policy(name="lenient")))
    change_evidence(night, policy=night.policies[-1].digest)
    refuse(night, match="step summarise, attempt 1: evidence was not judged under policy standard", code="other_policy")


def test_a_policy_that_is_not_enclosed_is_refused(night: SimulatedRun) -> None:
    change_evidence(night, policy=ZERO)
    refuse(night, match="step summarise, attempt 1: evidence was not judged under", code="other_policy")


# ---------------------------------------------------------------- leases


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"run_id": "ab" * 16}, "another attempt"),
        ({"attempt": 2}, "another attempt"),
        ({"step": "aggregate"}, "another attempt"),
        ({"issued": "2001-01-01T00:00:00Z"}, "another time"),
        ({"epoch": 1}, "another epoch"),
        ({"binding": ZERO}, "another binding"),
        ({"job": ZERO}, "another job"),
        ({"inputs": ()}, "another inputs"),
        ({"outputs": ()}, "another outputs"),
        ({"expires": "2001-01-01T00:00:00Z"}, "outside its window"),
        ({"log_certificates": ()}, "another log recipients"),
        ({"log_certificates": ("ab" * 16,)}, "no certified log key"),
    ],
)
def test_a_lease_that_differs_from_what_was_attested_is_refused(
    fresh: SimulatedRun, change: dict[str, Any], match: str
) -> None:
    fresh.run_step("aggregate")
    fresh.pin("summarise")
    attempt = fresh.attest("summarise")
    lease = fresh.make_lease(attempt)
    fresh.commit(attempt, lease=lease)
    attempt.lease = fresh.owners.broker.sign(replace(lease, **change))
    refuse(fresh, match=f"step summarise, attempt 1: .*{match}")


def test_a_lease_signed_by_nobody_certified_is_refused(night: SimulatedRun) -> None:
    attempt = night.attempts[3]
    assert attempt.lease is not None
    attempt.lease = SigningKey.generate().sign(canonical.decode(attempt.lease.payload, into=Lease))
    refuse(night, match="step summarise, attempt 1: Lease is signed by the unknown key", code="unknown_signer")


def test_a_lease_outside_its_approval_is_refused(platform: SimulatedPlatform) -> None:
    run = start_run(platform)
    run.approval = replace(run.approval, valid_until=format_instant(run.opened_at + timedelta(seconds=1)))
    run.approval_envelope = run.owners.root.sign(run.approval)
    run.run = replace(run.run, approval=run.approval_envelope.digest)
    run.run_envelope = run.owners.broker.sign(run.run)
    run.run_step("aggregate")
    refuse(
        run, match="step aggregate, attempt 1: lease was issued at .*, outside its approval", code="approval_expired"
    )


def lease_with_output(run: SimulatedRun, **changes: Any) -> None:
    run.run_step("aggregate")
    run.pin("summarise")
    attempt = run.attest("summarise")
    lease = run.make_lease(attempt)
    run.commit(attempt, lease=run.lease(attempt, outputs=(replace(lease.outputs[0], **changes),)))


def test_a_lease_for_the_dataset_key_of_another_dataset_is_refused(fresh: SimulatedRun) -> None:
    lease_with_output(fresh, dataset_certificate=fresh.owners.dataset_certificates["visits"].serial)
    refuse(fresh, match="step summarise, attempt 1: lease names another dataset key of summary")


def test_a_lease_for_a_recipient_who_is_not_approved_is_refused(fresh: SimulatedRun) -> None:
    other = fresh.owners.certify(
        "recipient", subject="somebody", key=SealingKey.generate().public, datasets=("summary",)
    )
    lease_with_output(fresh, recipient_certificates=(other.serial,))
    refuse(fresh, match="step summarise, attempt 1: lease names another recipients")


def test_a_lease_for_a_recipient_not_certified_for_the_dataset_is_refused(fresh: SimulatedRun) -> None:
    other = fresh.owners.certify("recipient", subject="analyst", key=SealingKey.generate().public, datasets=("plans",))
    lease_with_output(fresh, recipient_certificates=(other.serial,))
    refuse(fresh, match="recipient analyst is not certified", code="not_certified")


def test_a_lease_for_an_expired_recipient_key_is_refused(fresh: SimulatedRun) -> None:
    old = fresh.owners.certify(
        "recipient",
        subject="analyst",
        key=SealingKey.generate().public,
        datasets=("summary",),
        expires_in=-timedelta(days=1),
    )
    lease_with_output(fresh, recipient_certificates=(old.serial,))
    refuse(fresh, match="step summarise, attempt 1: certificate .* expired", code="certificate_expired")


# ---------------------------------------------------------------- receipts and outputs


def commit_with(run: SimulatedRun, **changes: Any) -> None:
    run.run_step("aggregate")
    run.pin("summarise")
    attempt = run.attest("summarise")
    run.commit(attempt, lease=run.lease(attempt), **changes)


def test_a_receipt_by_a_key_that_nobody_attested_is_refused(fresh: SimulatedRun) -> None:
    commit_with(fresh, key=SigningKey.generate(scheme="p256"))
    refuse(fresh, match="step summarise, attempt 1: Receipt is signed by the unknown key", code="unknown_signer")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"lease_id": "ab" * 16}, "another lease_id"),
        ({"attempt": 2}, "another attempt"),
        ({"binding": ZERO}, "another binding"),
        ({"job": ZERO}, "another job"),
        ({"run_id": "ab" * 16}, "another run_id"),
        ({"step": "aggregate"}, "another step"),
        ({"inputs": ()}, "another inputs"),
        ({"members": (Member(index=0, binding=ZERO, lease_id="0" * 32, is_replacement=False),)}, "another members"),
        ({"outputs": ()}, "another outputs"),
        ({"outcome": "job_failed"}, "another outputs"),
        ({"outcome": "job_failed", "outputs": ()}, "another outcome"),
        ({"disclosed": {"rows": 1001}}, "discloses rows"),
        ({"disclosed": {"sum": 1}}, "discloses sum"),
    ],
)
def test_a_receipt_that_differs_from_its_lease_is_refused(
    fresh: SimulatedRun, change: dict[str, Any], match: str
) -> None:
    commit_with(fresh, **change)
    refuse(fresh, match=f"step summarise, attempt 1: .*{match}")


Change = Callable[[SimulatedRun], dict[str, Any]]


def part(path: str) -> Part:
    return Part(path=path, size=1000, digest=ZERO, sealed_version=1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda run: {"domain_id": ZERO}, "another domain"),
        (lambda run: {"version": 2, "prev": ZERO}, "another version"),
        (lambda run: {"dataset": "report"}, "another version"),
        (lambda run: {"lease_id": "ab" * 16}, "is missing or changed"),
        (lambda run: {"run_id": None}, "another origin"),
        (lambda run: {"producer": run.owners.producer_certificate.serial, "lease_id": None}, "another origin"),
        (lambda run: {"parts": (part("part-00000"), part("part-00001"))}, "must be padded-parquet of 1 parts"),
        (lambda run: {"body": "parquet"}, "must be padded-parquet of 1 parts"),
        (lambda run: {"wraps": ()}, "another wraps"),
    ],
)
def test_an_output_that_differs_from_its_lease_is_refused(fresh: SimulatedRun, change: Change, match: str) -> None:
    fresh.run_step("aggregate")
    fresh.pin("summarise")
    attempt = fresh.attest("summarise")
    lease = fresh.lease(attempt)
    made = fresh.commit_manifest(attempt.key.sign(fresh.make_output(lease, **change(fresh))))
    named = DatasetVersion(dataset="summary", version=1, manifest=made.digest)
    attempt.receipt, attempt.outcome = attempt.key.sign(fresh.make_receipt(lease, outputs=(named,))), "committed"
    refuse(fresh, match=f"step summarise, attempt 1: manifest of summary .*{match}")


def test_an_output_that_continues_another_version_is_refused(fresh: SimulatedRun) -> None:
    fresh.run_step("aggregate")
    fresh.pin("summarise")
    attempt = fresh.attest("summarise")
    reserved = replace(fresh.make_lease(attempt).outputs[0], version=2, prev=ZERO)
    lease = fresh.lease(attempt, outputs=(reserved,))
    made = fresh.commit_manifest(attempt.key.sign(fresh.make_output(lease, prev=canonical.digest_bytes(b""))))
    attempt.receipt = attempt.key.sign(fresh.make_receipt(lease, manifests=(made,)))
    attempt.outcome = "committed"
    refuse(fresh, match="step summarise, attempt 1: manifest of summary names another prev")


def test_an_output_signed_by_another_key_is_refused(fresh: SimulatedRun) -> None:
    fresh.run_step("aggregate")
    fresh.pin("summarise")
    attempt = fresh.attest("summarise")
    lease = fresh.lease(attempt)
    made = fresh.commit_manifest(SigningKey.generate(scheme="p256").sign(fresh.make_output(lease)))
    attempt.receipt = attempt.key.sign(fresh.make_receipt(lease, manifests=(made,)))
    attempt.outcome = "committed"
    refuse(fresh, match="step summarise, attempt 1: Manifest is signed by the unknown key", code="unknown_signer")


def test_an_output_whose_manifest_is_missing_is_refused(night: SimulatedRun) -> None:
    del night.manifests[night.heads["summary"].manifest]
    refuse(night, match="step summarise, attempt 1: manifest of summary is missing", code="incomplete")


# ---------------------------------------------------------------- inputs


def with_plans(run: SimulatedRun, *, key: SigningKey | None = None, **changes: Any) -> None:
    """Both steps over another version of `plans`."""
    run.publish(run.make_manifest("plans", **changes), key=key)
    run.run_step("aggregate")
    run.run_step("summarise")


def test_an_input_whose_manifest_is_missing_is_refused(night: SimulatedRun) -> None:
    del night.manifests[night.heads["plans"].manifest]
    refuse(night, match="step aggregate: input plans: its manifest is missing", code="incomplete")


def test_an_input_signed_by_nobody_certified_is_refused(fresh: SimulatedRun) -> None:
    with_plans(fresh, key=SigningKey.generate())
    refuse(fresh, match="step aggregate: Manifest is signed by the unknown key", code="unknown_signer")


def test_an_input_of_a_producer_not_certified_for_it_is_refused(fresh: SimulatedRun) -> None:
    key = SigningKey.generate()
    other = fresh.owners.certify("producer", subject="other", key=key.public, datasets=("visits",))
    with_plans(fresh, key=key, producer=other.serial)
    refuse(fresh, match="input plans: producer other is not certified", code="not_certified")


def test_an_input_under_the_name_of_another_producer_is_refused(fresh: SimulatedRun) -> None:
    key = SigningKey.generate()
    other = fresh.owners.certify("producer", subject="other", key=key.public, datasets=("plans", "visits"))
    fresh.publish(fresh.make_manifest("visits", run_id=fresh.run_id, producer=other.serial), key=key)
    with_plans(fresh, key=key)
    refuse(fresh, match="input plans: signed by another key than its producer's", code="not_certified")


def test_an_input_of_a_producer_whose_certificate_had_expired_is_refused(fresh: SimulatedRun) -> None:
    key = SigningKey.generate()
    old = fresh.owners.certify(
        "producer", subject="old", key=key.public, datasets=("plans",), expires_in=-timedelta(days=1)
    )
    with_plans(fresh, key=key, producer=old.serial)
    refuse(fresh, match="step aggregate: certificate .* expired", code="certificate_expired")


def test_an_input_that_a_producer_signed_in_the_name_of_a_lease_is_refused(fresh: SimulatedRun) -> None:
    lease_id = "cd" * 16
    fresh.publish(fresh.make_manifest("plans", producer=None, run_id=fresh.run_id, lease_id=lease_id))
    fresh.pin("aggregate")
    fresh.attest("aggregate", role="preflight")
    attempt = fresh.attest("aggregate")
    fresh.commit(attempt, lease=fresh.lease(attempt, lease_id=lease_id))
    fresh.run_step("summarise")
    refuse(fresh, match="input plans: its manifest names no producer", code="not_certified")


def test_an_input_of_another_domain_is_refused(fresh: SimulatedRun) -> None:
    with_plans(fresh, domain_id=ZERO)
    refuse(fresh, match="input plans: its manifest is of", code="other_manifest")


def test_pins_that_call_a_manifest_by_another_version_are_refused(fresh: SimulatedRun) -> None:
    fresh.heads["plans"] = replace(fresh.heads["plans"], version=7)
    fresh.run_step("aggregate")
    fresh.run_step("summarise")
    refuse(fresh, match="input plans: its manifest is of plans version 1", code="other_manifest")


def test_an_input_sealed_for_another_run_is_refused(fresh: SimulatedRun) -> None:
    fresh.publish(fresh.make_manifest("visits", run_id="ab" * 16))
    fresh.run_step("aggregate")
    fresh.run_step("summarise")
    refuse(fresh, match="step aggregate: input visits was not sealed for this run", code="other_run")


def test_an_input_said_to_be_made_in_this_run_by_an_unknown_lease_is_refused(fresh: SimulatedRun) -> None:
    foreign = SigningKey.generate(scheme="p256")
    made = fresh.make_manifest("plans", producer=None, run_id=fresh.run_id, lease_id="cd" * 16)
    fresh.commit_manifest(foreign.sign(made))
    fresh.run_step("aggregate")
    fresh.run_step("summarise")
    refuse(fresh, match="input plans: its manifest is missing", code="incomplete")
