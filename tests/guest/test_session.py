from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Certificate, Lease, LeaseKeys, Pins
from ppml_airflow.errors import (
    ConfigurationError,
    MalformedInputError,
    PolicyDeniedError,
    PpmlError,
    UnavailableError,
    VerificationError,
)
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.protocol.launches import GuestProblem
from ppml_airflow.protocol.messages import Attest, Commit, LeaseAnswer, StepStatus
from ppml_airflow.sealing import wrapping
from ppml_airflow.sealing.datasets import open_data_key, open_released_key, open_table
from ppml_airflow.sealing.logs import log_folder, open_log
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.sealing.wrapping import SealingKey
from ppml_airflow.signing import SigningKey, sign_payload
from ppml_airflow.units import format_instant
from ppml_airflow.workloads.job import JobResult
from tests.support.broker_world import World, one_step
from tests.support.guest_world import CountingWorkload, GuestWorld, MeddlingClient

SECRET = "the row of Smith"


def log_of(guests: GuestWorld, run_id: str) -> str:
    """What a holder of the log key reads of the last attempt."""
    receipt = guests.receipts(run_id)[-1]
    assert receipt.log is not None
    folder = log_folder(guests.storage, run_id=run_id, step="aggregate", attempt=receipt.attempt)
    certificates = [canonical.decode(signed.payload, into=Certificate) for signed in guests.world.owners.certificates]
    serial = next(found.serial for found in certificates if found.role == "log")
    return open_log(folder, key=guests.world.log_key, serial=serial, expected=receipt.log).decode()


# ---------------------------------------------------------------- how it should go


def test_a_preflight_ends_with_a_grant_and_no_key(guests: GuestWorld) -> None:
    run_id = guests.ready_run()
    result = guests.run(guests.request(run_id, role="preflight"))
    assert result.state == "granted"
    assert result.lease_id is None
    assert guests.workload is None
    assert [event.state for event in guests.events] == ["verifying", "attesting", "granted"]
    assert guests.world.status(run_id).granted


def test_a_job_reads_its_inputs_and_commits_outputs_that_only_the_recipient_opens(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    result = guests.run(guests.request(run_id))
    assert (result.state, result.attempt, [output.dataset for output in result.outputs]) == ("committed", 1, ["report"])
    assert guests.world.status(run_id).state == "committed"
    assert guests.workload is not None
    assert guests.workload.is_closed
    envelope = guests.world.client.manifest(result.outputs[0].manifest)
    manifest = canonical.decode(envelope.payload, into=Manifest)
    owners = guests.world.owners
    data_key = open_data_key(
        manifest, key=owners.dataset_keys["report"], kek_id=owners.dataset_certificates["report"].kek_id
    )
    rows = list(open_table(manifest, folder=guests.part(manifest).parent, data_key=data_key))
    assert rows[0].to_pylist() == [{"rows": 5}]
    serial = owners.recipient_certificate.serial
    with pytest.raises(VerificationError):
        open_released_key(manifest, key=owners.recipient, serial=serial, release_key=wrapping.new_key())


def test_a_next_step_reads_what_the_enclave_before_it_sealed(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    guests.run(guests.request(run_id))
    result = guests.run(guests.request(run_id, step="summarise"))
    assert [output.dataset for output in result.outputs] == ["summary"]
    assert guests.workload is not None
    assert guests.workload.rows == 1


def test_a_committed_step_is_not_run_again(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    first = guests.run(guests.request(run_id))
    guests.on_run = lambda workload: pytest.fail("it ran again")
    second = guests.run(guests.request(run_id))
    assert second.code == "already_committed"
    assert (second.receipt, second.outputs, second.lease_id) == (first.receipt, first.outputs, first.lease_id)


def test_only_approved_counts_within_their_bounds_are_disclosed(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    guests.run(guests.request(run_id))
    assert guests.receipts(run_id)[0].disclosed == {"rows": 5}
    assert guests.world.status(run_id).disclosed == {"rows": 5}


def test_a_count_out_of_its_bounds_stays_inside(guests: GuestWorld) -> None:
    def boast(workload: CountingWorkload) -> None:
        workload.rows = 123456

    run_id = guests.gated_run()
    guests.on_run = boast
    guests.run(guests.request(run_id))
    assert guests.receipts(run_id)[0].disclosed == {}


def test_progress_leaves_as_states_and_per_cent_only(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    guests.events.clear()
    guests.run(guests.request(run_id))
    assert [(event.state, event.percent) for event in guests.events] == [
        ("verifying", 0),
        ("preparing", 0),
        ("attesting", 0),
        ("leased", 0),
        ("running", 0),
        ("running", 50),
        ("sealing", 100),
        ("committed", 100),
    ]


# ---------------------------------------------------------------- message 4: what a host may hand over


def test_a_genuine_image_pointed_at_another_broker_runs_nothing(guests: GuestWorld, tmp_path: Path) -> None:
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    other = GuestWorld(
        world=World(folder=other_folder, platform=guests.world.platform, keystore=guests.world.keystore),
        folder=other_folder,
    )
    run_id = other.ready_run()
    other.domain = guests.world.owners.domain
    with pytest.raises(VerificationError) as refused:
        other.run(other.request(run_id, role="preflight"))
    assert refused.value.code == "unknown_signer"
    assert other.quotes == 0


def test_an_approval_not_signed_by_the_measured_domain_is_refused(guests: GuestWorld) -> None:
    request = guests.request(guests.ready_run())
    forged = SigningKey.generate().sign(guests.world.approval())
    bundle = msgspec.structs.replace(request.bundle, approval=forged)
    with pytest.raises(VerificationError) as refused:
        guests.run(msgspec.structs.replace(request, bundle=bundle))
    assert refused.value.code == "unknown_signer"


@pytest.mark.parametrize("document", ["run", "pins"])
def test_a_run_or_pins_by_an_uncertified_broker_are_refused(guests: GuestWorld, document: str) -> None:
    request = guests.request(guests.ready_run())
    genuine = getattr(request.bundle, document)
    forged = sign_payload(genuine.payload, payload_type=genuine.payload_type, keys=(SigningKey.generate(),))
    bundle = msgspec.structs.replace(request.bundle, **{document: forged})
    with pytest.raises(VerificationError) as refused:
        guests.run(msgspec.structs.replace(request, bundle=bundle))
    assert refused.value.code == "unknown_signer"
    assert guests.quotes == 0


def test_a_broker_whose_certificate_is_missing_is_not_believed(guests: GuestWorld) -> None:
    request = guests.request(guests.ready_run())
    others = tuple(
        envelope
        for envelope in request.bundle.certificates
        if canonical.decode(envelope.payload, into=Certificate).role != "broker"
    )
    bundle = msgspec.structs.replace(request.bundle, certificates=others)
    with pytest.raises(VerificationError):
        guests.run(msgspec.structs.replace(request, bundle=bundle))


def test_pins_of_another_run_are_refused(guests: GuestWorld) -> None:
    guests.world.runs_per_slot = 2
    request = guests.request(guests.ready_run("first"))
    other = guests.request(guests.ready_run("second"))
    bundle = msgspec.structs.replace(request.bundle, pins=other.bundle.pins, manifests=other.bundle.manifests)
    with pytest.raises(VerificationError) as refused:
        guests.run(msgspec.structs.replace(request, bundle=bundle))
    assert refused.value.code == "other_pins"


def test_a_manifest_that_is_not_pinned_is_refused(guests: GuestWorld) -> None:
    request = guests.request(guests.ready_run())
    newer = guests.seal("plans")
    stray = guests.world.client.manifest(canonical.digest(newer))
    bundle = msgspec.structs.replace(request.bundle, manifests=(*request.bundle.manifests, stray))
    with pytest.raises(VerificationError) as refused:
        guests.run(msgspec.structs.replace(request, bundle=bundle))
    assert refused.value.code == "other_manifest"


def test_a_missing_manifest_is_refused(guests: GuestWorld) -> None:
    request = guests.request(guests.ready_run())
    bundle = msgspec.structs.replace(request.bundle, manifests=request.bundle.manifests[:1])
    with pytest.raises(VerificationError, match="is missing"):
        guests.run(msgspec.structs.replace(request, bundle=bundle))


def repin(guests: GuestWorld, change: Callable[[Manifest], Manifest], *, key: SigningKey | None = None) -> None:
    """A faithless broker pins a manifest that nobody certified made; the guest is shown exactly that."""
    request = guests.request(guests.ready_run())
    genuine = canonical.decode(request.bundle.manifests[0].payload, into=Manifest)
    forged = (key or guests.world.owners.producer).sign(change(genuine))
    pins = canonical.decode(request.bundle.pins.payload, into=Pins)
    inputs = tuple(
        msgspec.structs.replace(pinned, manifest=forged.digest) if pinned.dataset == genuine.dataset else pinned
        for pinned in pins.inputs
    )
    signed = guests.world.owners.broker.sign(msgspec.structs.replace(pins, inputs=inputs))
    bundle = msgspec.structs.replace(request.bundle, pins=signed, manifests=(forged, *request.bundle.manifests[1:]))
    guests.run(msgspec.structs.replace(request, bundle=bundle))


def test_a_manifest_by_a_producer_who_is_not_certified_is_refused(guests: GuestWorld) -> None:
    with pytest.raises(VerificationError) as refused:
        repin(guests, lambda manifest: msgspec.structs.replace(manifest, producer=secrets.token_hex(16)))
    assert refused.value.code == "not_certified"


def test_a_forged_manifest_that_names_a_certified_producer_is_refused(guests: GuestWorld) -> None:
    with pytest.raises(VerificationError) as refused:
        repin(guests, lambda manifest: manifest, key=SigningKey.generate())
    assert refused.value.code == "unknown_signer"


def test_a_manifest_of_another_dataset_is_refused(guests: GuestWorld) -> None:
    with pytest.raises(VerificationError) as refused:
        repin(guests, lambda manifest: msgspec.structs.replace(manifest, dataset="payroll"))
    assert refused.value.code == "other_manifest"


def test_a_step_that_is_not_approved_is_refused(guests: GuestWorld) -> None:
    request = msgspec.structs.replace(guests.request(guests.ready_run()), step="exfiltrate")
    with pytest.raises(PolicyDeniedError, match="not approved"):
        guests.run(request)


def test_a_step_for_another_image_is_refused(guests: GuestWorld) -> None:
    request = guests.request(guests.ready_run())
    guests.image = "python"
    with pytest.raises(PolicyDeniedError) as refused:
        guests.run(request)
    assert refused.value.code == "other_image"


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "JAVA_TOOL_OPTIONS"])
def test_an_approved_step_with_a_variable_that_changes_which_code_runs_is_refused(
    guests: GuestWorld, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "loaded"
    folder.mkdir()
    world = World(
        folder=folder,
        platform=guests.world.platform,
        keystore=guests.world.keystore,
        steps=one_step(environment={name: "/evil.so"}),
    )
    loaded = GuestWorld(world=world, folder=folder)
    request = loaded.request(loaded.ready_run())
    with pytest.raises(ConfigurationError, match=name):
        loaded.run(request)
    assert loaded.quotes == 0


@pytest.mark.parametrize(
    "code",
    [
        {"query.sql": b"select 2"},
        {"query.sql": b"select 1", "more.sql": b""},
        {},
        {"other.sql": b"select 1"},
    ],
)
def test_code_that_differs_from_the_approval_by_one_token_or_file_is_refused(
    guests: GuestWorld, code: dict[str, bytes]
) -> None:
    request = guests.request(guests.ready_run(), code=code)
    with pytest.raises(VerificationError) as refused:
        guests.run(request)
    assert refused.value.code == "code_changed"
    assert guests.quotes == 0


def test_the_copy_of_the_code_is_what_the_workload_gets(guests: GuestWorld) -> None:
    guests.run(guests.request(guests.gated_run()))
    assert guests.workload is not None
    copy = guests.workload.job.code / "query.sql"
    assert copy.read_bytes() == b"select 1"
    assert copy.is_relative_to(guests.private)


# ---------------------------------------------------------------- storage


def test_one_flipped_byte_of_a_part_is_named_before_the_lease(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    manifest = canonical.decode(guests.request(run_id).bundle.manifests[0].payload, into=Manifest)
    part = guests.part(manifest)
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(VerificationError, match=f"part-00000 of {manifest.dataset} is not the one") as refused:
        guests.run(guests.request(run_id))
    assert refused.value.code == "part_changed"
    assert guests.world.status(run_id).attempt == 0


def test_a_dropped_part_is_named_before_the_lease(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    manifest = canonical.decode(guests.request(run_id).bundle.manifests[0].payload, into=Manifest)
    guests.part(manifest).unlink()
    with pytest.raises(VerificationError, match="is missing"):
        guests.run(guests.request(run_id))


def test_a_version_that_is_not_in_storage_is_named(guests: GuestWorld, tmp_path: Path) -> None:
    run_id = guests.gated_run()
    with pytest.raises(ConfigurationError, match="is not in"):
        guests.run(guests.request(run_id, storage=str(tmp_path / "elsewhere")))


def test_a_padded_part_that_changes_after_it_was_looked_at_is_input_corrupt(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    first = guests.run(guests.request(run_id))
    manifest = canonical.decode(guests.world.client.manifest(first.outputs[0].manifest).payload, into=Manifest)

    def flip(answer: LeaseAnswer) -> LeaseAnswer:
        part = guests.part(manifest)
        part.write_bytes(part.read_bytes()[::-1])
        return answer

    guests.connect = lambda url: MeddlingClient(guests.world.connect(), meddle=flip)
    with pytest.raises(VerificationError) as refused:
        guests.run(guests.request(run_id, step="summarise"))
    assert refused.value.code == "input_corrupt"


# ---------------------------------------------------------------- messages 5 to 7: nonce and lease


def test_a_nonce_for_another_binding_is_not_quoted(guests: GuestWorld) -> None:
    class Relay(MeddlingClient):
        def auth(self, *, tee: str, binding: str) -> tuple[str, bytes]:
            return guests.world.connect().auth(tee=tee, binding=canonical.digest("another guest"))

    guests.connect = lambda url: Relay(guests.world.connect(), meddle=lambda answer: answer)
    with pytest.raises(VerificationError) as refused:
        guests.run(guests.request(guests.ready_run(), role="preflight"))
    assert refused.value.code == "nonce_mismatch"
    assert guests.quotes == 0


def test_a_denial_of_the_broker_is_told_in_full(guests: GuestWorld) -> None:
    with pytest.raises(PolicyDeniedError) as denied:
        guests.run(guests.request(guests.ready_run()))
    assert denied.value.code == "gate_missing"
    assert denied.value.hint


def recipients(lease: Lease, *serials: str) -> Lease:
    outputs = (msgspec.structs.replace(lease.outputs[0], recipient_certificates=serials),)
    return msgspec.structs.replace(lease, outputs=outputs)


def output(lease: Lease, **changes: object) -> Lease:
    return msgspec.structs.replace(lease, outputs=(msgspec.structs.replace(lease.outputs[0], **changes),))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda lease: msgspec.structs.replace(lease, binding=canonical.digest("B")), "other_binding"),
        (lambda lease: msgspec.structs.replace(lease, job=canonical.digest("J")), "other_job"),
        (lambda lease: msgspec.structs.replace(lease, run_id=secrets.token_hex(16)), "other_run"),
        (lambda lease: msgspec.structs.replace(lease, step="summarise"), "other_run"),
        (lambda lease: msgspec.structs.replace(lease, epoch=7), "other_run"),
        (lambda lease: msgspec.structs.replace(lease, attempt=4), "other_attempt"),
        (lambda lease: msgspec.structs.replace(lease, inputs=lease.inputs[:1]), "other_inputs"),
        (lambda lease: msgspec.structs.replace(lease, outputs=()), "other_outputs"),
        (lambda lease: msgspec.structs.replace(lease, log_certificates=()), "other_recipients"),
        (lambda lease: msgspec.structs.replace(lease, expires=lease.issued), "lease_expired"),
        (lambda lease: recipients(lease), "other_recipients"),
        (lambda lease: recipients(lease, secrets.token_hex(16)), "not_certified"),
        (lambda lease: output(lease, version=2), "other_outputs"),
        (lambda lease: output(lease, prev=canonical.digest("prev")), "other_outputs"),
        (lambda lease: output(lease, dataset_certificate=secrets.token_hex(16)), "not_certified"),
    ],
)
def test_a_lease_that_says_anything_else_is_refused_before_its_keys_are_opened(
    guests: GuestWorld, change: Callable[[Lease], Lease], code: str
) -> None:
    run_id = guests.gated_run()
    guests.meddle(change)
    guests.on_run = lambda workload: pytest.fail("it ran")
    with pytest.raises(VerificationError) as refused:
        guests.run(guests.request(run_id))
    assert refused.value.code == code
    assert guests.speech.problem(refused.value).detail == refused.value.message


def test_a_lease_with_another_holder_of_a_certificate_as_recipient_is_refused(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    thief = guests.world.owners.certify(
        "recipient", subject="thief", key=SealingKey.generate().public, datasets=("report",)
    )
    guests.world.client.put_certificate(guests.world.owners.certificates[-1])
    guests.meddle(lambda lease: recipients(lease, thief.serial))
    with pytest.raises(VerificationError) as refused:
        guests.run(guests.request(run_id))
    assert refused.value.code == "other_recipients"


def test_a_lease_to_a_recipient_who_is_not_certified_for_the_output_is_refused(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    narrow = guests.world.owners.certify(
        "recipient",
        subject="analyst",
        key=SealingKey.generate().public,
        datasets=("visits",),
        expires_in=timedelta(days=9),  # so that the broker itself goes on choosing the other one
    )
    guests.world.client.put_certificate(guests.world.owners.certificates[-1])
    guests.meddle(lambda lease: recipients(lease, narrow.serial))
    with pytest.raises(VerificationError, match="lease seals report to analyst, not certified for report") as refused:
        guests.run(guests.request(run_id))
    assert refused.value.code == "not_certified"


def test_a_lease_to_the_key_of_another_dataset_is_refused(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    other = guests.world.owners.dataset_certificates["visits"].serial
    guests.meddle(lambda lease: output(lease, dataset_certificate=other))
    with pytest.raises(VerificationError) as refused:
        guests.run(guests.request(run_id))
    assert refused.value.code == "other_recipients"


def test_a_lease_by_an_uncertified_broker_is_refused(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    guests.meddle(lambda lease: lease, key=SigningKey.generate())
    with pytest.raises(VerificationError) as refused:
        guests.run(guests.request(run_id))
    assert refused.value.code == "unknown_signer"


def test_a_lease_issued_after_the_brokers_certificate_expired_is_refused(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    later = format_instant(guests.world.now + timedelta(days=400))
    guests.meddle(lambda lease: msgspec.structs.replace(lease, issued=later, expires=later))
    with pytest.raises(VerificationError) as refused:
        guests.run(guests.request(run_id))
    assert refused.value.code == "unknown_signer"


def test_a_lease_issued_after_the_approvals_time_is_refused(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    later = format_instant(guests.world.now + timedelta(days=31))
    guests.meddle(lambda lease: msgspec.structs.replace(lease, issued=later))
    with pytest.raises(PolicyDeniedError) as refused:
        guests.run(guests.request(run_id))
    assert refused.value.code == "not_valid"


def test_keys_of_another_lease_do_not_open(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    guests.meddle(lambda lease: msgspec.structs.replace(lease, lease_id=secrets.token_hex(16)))
    with pytest.raises(VerificationError) as refused:
        guests.run(guests.request(run_id))
    assert refused.value.code == "wrong_wrap"


@pytest.mark.parametrize("keys", [{"data_keys": {}}, {"release_keys": {"report": b"short"}}])
def test_other_keys_than_the_lease_names_are_refused(guests: GuestWorld, keys: dict[str, object]) -> None:
    run_id = guests.gated_run()
    bindings: list[Attest] = []

    class Keys(MeddlingClient):
        def lease(self, request: Attest) -> LeaseAnswer:
            bindings.append(request)
            answer = super().lease(request)
            assert answer.lease is not None
            lease = canonical.decode(answer.lease.payload, into=Lease)
            whole = LeaseKeys(
                cluster_secret=None,
                data_keys={pinned.dataset: b"k" * 32 for pinned in lease.inputs},
                release_keys={reserved.dataset: b"r" * 32 for reserved in lease.outputs},
            )
            sealed = wrapping.hpke_seal(
                canonical.encode(msgspec.structs.replace(whole, **keys)),
                to=request.binding.sealing_key,
                info=wrapping.lease_info(answer.lease.digest),
            )
            return msgspec.structs.replace(answer, sealed_keys=sealed)

    guests.connect = lambda url: Keys(guests.world.connect(), meddle=lambda answer: answer)
    with pytest.raises(VerificationError) as refused:
        guests.run(guests.request(run_id))
    assert refused.value.code == "other_keys"


NOTHING = LeaseAnswer(granted_until=None, lease=None, sealed_keys=None, receipt=None)


@pytest.mark.parametrize("role", ["preflight", "job"])
def test_an_answer_without_a_decision_is_refused(guests: GuestWorld, role: str) -> None:
    run_id = guests.gated_run()
    guests.connect = lambda url: MeddlingClient(guests.world.connect(), meddle=lambda answer: NOTHING)
    with pytest.raises(MalformedInputError):
        guests.run(guests.request(run_id, role=role))


def test_the_receipt_of_another_step_is_not_taken_for_ones_own(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    guests.run(guests.request(run_id))
    receipt = guests.world.owners.broker.sign(guests.receipts(run_id)[0])
    answer = msgspec.structs.replace(NOTHING, receipt=receipt)
    guests.connect = lambda url: MeddlingClient(guests.world.connect(), meddle=lambda given: answer)
    with pytest.raises(MalformedInputError, match="another step"):
        guests.run(guests.request(run_id, step="summarise"))


# ---------------------------------------------------------------- messages 8 to 10: after the lease


def test_an_exception_of_the_job_leaves_as_a_code_and_its_text_in_the_sealed_log(guests: GuestWorld) -> None:
    def fail(workload: CountingWorkload) -> JobResult:
        raise ValueError(SECRET)

    run_id = guests.gated_run()
    guests.on_run = fail
    with pytest.raises(PpmlError) as failed:
        guests.run(guests.request(run_id))
    problem = guests.speech.problem(failed.value)
    assert problem.code == "guest_failed"
    assert SECRET not in str(problem)
    assert guests.receipts(run_id)[0].outcome == "guest_failed"
    assert SECRET in log_of(guests, run_id)
    assert not any(SECRET.encode() in file.read_bytes() for file in guests.storage.rglob("*") if file.is_file())


def test_a_failed_job_sends_a_receipt_with_its_outcome_and_no_output(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    guests.on_run = lambda workload: JobResult(outcome="cast_error")
    with pytest.raises(ConfigurationError) as failed:
        guests.run(guests.request(run_id))
    assert failed.value.code == "cast_error"
    receipt = guests.receipts(run_id)[0]
    assert (receipt.outcome, receipt.outputs, receipt.disclosed) == ("cast_error", (), {})
    assert guests.world.status(run_id).state == "failed"
    assert log_of(guests, run_id) == "prepared\n"


def test_an_error_that_is_not_in_the_vocabulary_says_nothing_after_the_lease(guests: GuestWorld) -> None:
    guests.speech.close()
    for error in (ValueError(SECRET), PpmlError(SECRET, code=SECRET), PolicyDeniedError(SECRET, hint=SECRET)):
        problem = guests.speech.problem(error)
        assert SECRET not in str(problem)
        assert problem.code == "guest_failed"


def test_an_error_before_the_lease_is_told_in_full(guests: GuestWorld) -> None:
    assert guests.speech.problem(ValueError("column x")).detail == "the guest failed: ValueError: column x"
    known = ConfigurationError("column x is unknown", code="unknown_column", hint="columns: y")
    assert guests.speech.problem(known) == GuestProblem.of(known)


def test_outputs_that_cannot_be_written_are_a_failure_with_a_receipt(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    guests.on_run = lambda workload: JobResult(outcome="ok", outputs={})
    with pytest.raises(PpmlError) as failed:
        guests.run(guests.request(run_id))
    assert failed.value.code == "guest_failed"
    assert guests.receipts(run_id)[0].outcome == "guest_failed"


def test_a_cancelled_step_stops_its_job_and_commits_nothing(guests: GuestWorld) -> None:
    def linger(workload: CountingWorkload) -> JobResult:
        guests.world.client.cancel(run_id, "aggregate")
        until = time.monotonic() + 20
        while not workload.is_cancelled and time.monotonic() < until:
            time.sleep(0.01)
        return JobResult(outcome="cancelled")

    run_id = guests.gated_run()
    guests.on_run = linger
    with pytest.raises(PolicyDeniedError) as stopped:
        guests.run(guests.request(run_id))
    assert stopped.value.code == "lease_cancelled"
    assert guests.receipts(run_id) == []


def test_an_attempt_that_was_fenced_while_it_ran_cannot_commit(guests: GuestWorld) -> None:
    def overtake(workload: CountingWorkload) -> None:
        guests.on_run = lambda other: None
        guests.run(guests.request(run_id))

    run_id = guests.gated_run()
    guests.on_run = overtake
    with pytest.raises(PolicyDeniedError) as fenced:
        guests.run(guests.request(run_id))
    assert fenced.value.code == "lease_fenced"
    assert [receipt.attempt for receipt in guests.receipts(run_id)] == [2]


class CommittingClient(MeddlingClient):
    """Its commits fail as told."""

    errors: list[PpmlError]

    def commit(self, request: Commit) -> StepStatus:
        if self.errors:
            raise self.errors.pop(0)
        return self._client.commit(request)


def with_commit_errors(guests: GuestWorld, *errors: PpmlError) -> None:
    def connect(url: str) -> BrokerClient:
        client = CommittingClient(guests.world.connect(), meddle=lambda answer: answer)
        client.errors = list(errors)
        return client  # type: ignore[return-value]

    guests.connect = connect


def test_a_receipt_whose_answer_was_lost_is_handed_in_again(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    with_commit_errors(guests, UnavailableError("no answer"))
    assert guests.run(guests.request(run_id)).state == "committed"


def test_a_broker_that_takes_no_receipt_is_unavailable(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    with_commit_errors(guests, *[UnavailableError(SECRET)] * 9)
    with pytest.raises(UnavailableError) as failed:
        guests.run(guests.request(run_id))
    assert failed.value.code == "broker_unavailable"
    assert SECRET not in str(failed.value)


def test_a_refused_receipt_is_told_by_code_only(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    with_commit_errors(guests, VerificationError(SECRET, code="other_outputs"))
    with pytest.raises(VerificationError) as failed:
        guests.run(guests.request(run_id))
    assert failed.value.code == "commit_refused"
    assert SECRET not in str(failed.value)


def test_without_log_recipients_there_is_no_log(guests: GuestWorld, tmp_path: Path) -> None:
    folder = tmp_path / "quiet"
    folder.mkdir()
    world = World(
        folder=folder,
        platform=guests.world.platform,
        keystore=guests.world.keystore,
        steps=one_step(log_recipients=()),
    )
    quiet = GuestWorld(world=world, folder=folder)
    run_id = quiet.gated_run()
    quiet.run(quiet.request(run_id))
    assert quiet.receipts(run_id)[0].log is None
    assert not (quiet.storage / "logs").exists()
