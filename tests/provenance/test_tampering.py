"""Whoever has no key edits a finished passport: Airflow, storage, a DAG author, the recipient."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Approval, AttemptRecord, Pins, Receipt, Run, RunClosed
from ppml_airflow.errors import MalformedInputError, PpmlError, VerificationError
from ppml_airflow.provenance.log import LogProof
from ppml_airflow.provenance.passport import Passport, PassportContents, compose_passport, parse_passport
from ppml_airflow.provenance.verification import verify_passport
from ppml_airflow.signing import Envelope, SigningKey, sign_payload
from tests.support.simulated_run import SimulatedRun, complete_run

replace = msgspec.structs.replace


def refuse(run: SimulatedRun, data: bytes, *, now: datetime) -> PpmlError:
    with pytest.raises((VerificationError, MalformedInputError)) as refused:
        verify_passport(data, trust=run.trust(), now=now)
    return refused.value


def edit_contents(night: SimulatedRun, /, **changes: Any) -> bytes:
    passport = parse_passport(night.passport())
    return compose_passport(replace(passport.contents, **changes), closed=passport.closed)


def edit_payload(envelope: Envelope, *, into: type[Any], edit: Callable[[Any], Any]) -> Envelope:
    """Edit what is signed and leave the signature."""
    return replace(envelope, payload=canonical.encode(edit(canonical.decode(envelope.payload, into=into))))


def edit_closed(run: SimulatedRun, edit: Callable[[RunClosed], RunClosed]) -> bytes:
    passport = parse_passport(run.passport())
    return canonical.encode(replace(passport, closed=edit_payload(passport.closed, into=RunClosed, edit=edit)))


def without(items: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    return items[:index] + items[index + 1 :]


def swapped(items: tuple[Any, ...], one: int, other: int) -> tuple[Any, ...]:
    changed = list(items)
    changed[one], changed[other] = changed[other], changed[one]
    return tuple(changed)


# ---------------------------------------------------------------- bytes


def positions(data: bytes, *, count: int) -> list[int]:
    return sorted(random.Random(20261123).sample(range(len(data)), count))


@pytest.mark.parametrize("change", ["flip", "digit", "letter", "drop", "double", "space"])
def test_a_changed_byte_is_refused(finished: SimulatedRun, now: datetime, change: str) -> None:
    data = finished.passport()
    trust = finished.trust()
    for at in positions(data, count=400):
        other = {
            "flip": bytes([data[at] ^ 1]),
            "digit": b"1" if data[at : at + 1] != b"1" else b"2",
            "letter": b"a" if data[at : at + 1] != b"a" else b"b",
            "drop": b"",
            "double": data[at : at + 1] * 2,
            "space": b" ",
        }[change]
        with pytest.raises(PpmlError):
            verify_passport(data[:at] + other + data[at + 1 :], trust=trust, now=now)


def test_a_byte_in_each_field_of_each_document_is_refused(finished: SimulatedRun, now: datetime) -> None:
    """Edits that stay canonical, deep inside the signed payloads, where a flipped byte of base64 seldom leads."""
    passport = parse_passport(finished.passport())
    envelopes = [
        *passport.contents.certificates, *passport.contents.policies, passport.contents.approval,
        passport.contents.run, *passport.contents.pins, *passport.contents.manifests, *passport.contents.leases,
        *passport.contents.receipts, passport.closed,
    ]  # fmt: skip
    text = canonical.encode(passport)
    for envelope in envelopes:
        for at in random.Random(7).sample(range(len(envelope.payload)), 12):
            payload = envelope.payload[:at] + bytes([envelope.payload[at] ^ 1]) + envelope.payload[at + 1 :]
            old, new = canonical.encode(envelope), canonical.encode(replace(envelope, payload=payload))
            assert text.count(old) == 1
            refuse(finished, text.replace(old, new), now=now)


@pytest.mark.parametrize("extra", [b"\n", b" ", b"{}", b"\0"])
def test_bytes_after_the_end_are_refused(finished: SimulatedRun, now: datetime, extra: bytes) -> None:
    refuse(finished, finished.passport() + extra, now=now)


def test_an_unknown_field_is_refused(finished: SimulatedRun, now: datetime) -> None:
    data = finished.passport()
    refuse(finished, b'{"a":1,' + data[1:], now=now)


def test_a_repeated_field_is_refused(finished: SimulatedRun, now: datetime) -> None:
    data = finished.passport()
    closed = canonical.encode(parse_passport(data).closed)
    refuse(finished, b'{"closed":' + closed + b"," + data[1:], now=now)


# ---------------------------------------------------------------- steps and attempts


@pytest.mark.parametrize(
    ("index", "label"),
    [
        (0, "step aggregate, preflight"),
        (1, "step aggregate, attempt 1"),
        (2, "step aggregate, attempt 2"),
        (3, "step summarise, attempt 1"),
    ],
)
def test_dropped_evidence_is_refused_and_its_attempt_named(
    finished: SimulatedRun, now: datetime, index: int, label: str
) -> None:
    evidence = finished.contents().evidence
    error = refuse(finished, edit_contents(finished, evidence=without(evidence, index)), now=now)
    assert error.message.startswith(f"{label}: evidence is missing")


@pytest.mark.parametrize("field", ["leases", "receipts"])
@pytest.mark.parametrize(("index", "label"), [(0, "aggregate, attempt 1"), (2, "summarise, attempt 1")])
def test_a_dropped_lease_or_receipt_is_refused_and_its_attempt_named(
    finished: SimulatedRun, now: datetime, field: str, index: int, label: str
) -> None:
    kept = without(getattr(finished.contents(), field), index)
    error = refuse(finished, edit_contents(finished, **{field: kept}), now=now)
    assert error.message.startswith(f"step {label}: {field[:-1]} is missing")


@pytest.mark.parametrize("field", ["evidence", "leases", "receipts"])
def test_a_repeated_document_is_refused_and_its_attempt_named(
    finished: SimulatedRun, now: datetime, field: str
) -> None:
    items = getattr(finished.contents(), field)
    error = refuse(finished, edit_contents(finished, **{field: (items[0], *items)}), now=now)
    assert error.message.startswith("step aggregate, attempt")


@pytest.mark.parametrize("field", ["evidence", "leases", "receipts"])
def test_a_document_too_many_at_the_end_is_refused(finished: SimulatedRun, now: datetime, field: str) -> None:
    items = getattr(finished.contents(), field)
    error = refuse(finished, edit_contents(finished, **{field: (*items, items[-1])}), now=now)
    assert error.code == "surplus"


@pytest.mark.parametrize("field", ["evidence", "leases", "receipts"])
def test_reordered_documents_are_refused_and_the_attempt_named(
    finished: SimulatedRun, now: datetime, field: str
) -> None:
    items = swapped(getattr(finished.contents(), field), 0, 1)
    error = refuse(finished, edit_contents(finished, **{field: items}), now=now)
    assert error.message.startswith("step aggregate, ")


def test_edited_evidence_is_refused_and_its_attempt_named(finished: SimulatedRun, now: datetime) -> None:
    first, *rest = finished.contents().evidence
    error = refuse(finished, edit_contents(finished, evidence=(replace(first, nonce="other"), *rest)), now=now)
    assert error.message.startswith("step aggregate, preflight: evidence is missing, changed")


def test_an_edited_receipt_is_refused_and_its_attempt_named(finished: SimulatedRun, now: datetime) -> None:
    *rest, last = finished.contents().receipts
    edited = edit_payload(last, into=Receipt, edit=lambda receipt: replace(receipt, disclosed={"rows": 13}))
    error = refuse(finished, edit_contents(finished, receipts=(*rest, edited)), now=now)
    assert error.message.startswith("step summarise, attempt 1: receipt is missing, changed")


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_an_attempt_dropped_from_the_end_of_the_run_is_named(finished: SimulatedRun, now: datetime, index: int) -> None:
    name = finished.attempts[index].evidence.step
    data = edit_closed(finished, lambda closed: replace(closed, attempts=without(closed.attempts, index)))
    error = refuse(finished, data, now=now)
    assert error.code == "bad_signature"
    assert f"step {name}" in error.message


def test_an_attempt_added_to_the_end_of_the_run_is_named(finished: SimulatedRun, now: datetime) -> None:
    def add(closed: RunClosed) -> RunClosed:
        return replace(closed, attempts=(*closed.attempts, replace(closed.attempts[-1], attempt=2)))

    error = refuse(finished, edit_closed(finished, add), now=now)
    assert "step summarise, attempt 2" in error.message


def test_reordered_attempts_at_the_end_of_the_run_are_named(finished: SimulatedRun, now: datetime) -> None:
    data = edit_closed(finished, lambda closed: replace(closed, attempts=swapped(closed.attempts, 1, 2)))
    assert "step aggregate, attempt 2" in refuse(finished, data, now=now).message


@pytest.mark.parametrize("outcome", ["expired", "granted", "job_failed"])
def test_an_edited_outcome_is_refused(finished: SimulatedRun, now: datetime, outcome: str) -> None:
    def edit(closed: RunClosed) -> RunClosed:
        record: AttemptRecord = closed.attempts[-1]
        return replace(closed, attempts=(*closed.attempts[:-1], replace(record, outcome=outcome)))

    assert refuse(finished, edit_closed(finished, edit), now=now).code == "bad_signature"


def test_a_denial_dropped_from_the_end_of_the_run_is_refused(finished: SimulatedRun, now: datetime) -> None:
    error = refuse(finished, edit_closed(finished, lambda closed: replace(closed, denials=())), now=now)
    assert error.code == "bad_signature"


def test_a_step_dropped_from_the_approval_is_named(finished: SimulatedRun, now: datetime) -> None:
    approval = edit_payload(
        finished.approval_envelope, into=Approval, edit=lambda one: replace(one, steps=one.steps[:1], edges=())
    )
    error = refuse(finished, edit_contents(finished, approval=approval), now=now)
    assert error.message.startswith("approval: Approval has a wrong signature")
    assert "step summarise, attempt 1: the approval has no such step" in error.message


def test_a_step_added_to_the_approval_is_refused(finished: SimulatedRun, now: datetime) -> None:
    approval = edit_payload(
        finished.approval_envelope,
        into=Approval,
        edit=lambda one: replace(one, steps=(*one.steps, replace(one.steps[0], name="more"))),
    )
    error = refuse(finished, edit_contents(finished, approval=approval), now=now)
    assert error.code == "bad_signature"


@pytest.mark.parametrize(
    "change",
    [
        {"argv": ("--limit", "11")},
        {"code": {"query.sql": canonical.digest_bytes(b"select 2")}},
        {"image": "other"},
        {"policy": "lenient"},
        {"environment": {"A": "b"}},
    ],
)
def test_an_edited_step_of_the_approval_is_named(
    finished: SimulatedRun, now: datetime, change: dict[str, object]
) -> None:
    approval = edit_payload(
        finished.approval_envelope,
        into=Approval,
        edit=lambda one: replace(one, steps=(one.steps[0], replace(one.steps[1], **change))),
    )
    error = refuse(finished, edit_contents(finished, approval=approval), now=now)
    assert "step summarise, attempt 1: evidence covers another job" in error.message


def test_edited_params_of_the_run_are_refused(finished: SimulatedRun, now: datetime) -> None:
    run = edit_payload(finished.run_envelope, into=Run, edit=lambda one: replace(one, params={"limit": 11}))
    error = refuse(finished, edit_contents(finished, run=run), now=now)
    assert "step aggregate, preflight: evidence covers another job" in error.message


def test_a_disagreement_that_nobody_can_see_leaves_the_first_message(finished: SimulatedRun, now: datetime) -> None:
    run = edit_payload(finished.run_envelope, into=Run, edit=lambda one: replace(one, claimed={"dag_id": "other"}))
    assert refuse(finished, edit_contents(finished, run=run), now=now).code == "bad_signature"


def test_dropped_pins_are_refused(finished: SimulatedRun, now: datetime) -> None:
    pins = finished.contents().pins
    for index in range(len(pins)):
        name = canonical.decode(pins[index].payload, into=Pins).step
        error = refuse(finished, edit_contents(finished, pins=without(pins, index)), now=now)
        assert error.message.startswith(("step " + name, "log has"))


def test_an_unreadable_end_of_the_run_is_refused(finished: SimulatedRun, now: datetime) -> None:
    passport = parse_passport(finished.passport())
    broken = replace(passport.closed, payload=b"{}")
    assert refuse(finished, canonical.encode(replace(passport, closed=broken)), now=now).code == "bad_signature"


# ---------------------------------------------------------------- everything else that is enclosed


@pytest.mark.parametrize("field", ["certificates", "policies", "manifests"])
def test_a_dropped_certificate_policy_or_manifest_is_refused(finished: SimulatedRun, now: datetime, field: str) -> None:
    items = getattr(finished.contents(), field)
    for index in range(len(items)):
        refuse(finished, edit_contents(finished, **{field: without(items, index)}), now=now)


@pytest.mark.parametrize("field", ["certificates", "policies", "manifests", "pins"])
def test_reordered_documents_of_other_kinds_are_refused(finished: SimulatedRun, now: datetime, field: str) -> None:
    items = getattr(finished.contents(), field)
    changed = items[::-1] if len(items) > 1 else (*items, *items)
    refuse(finished, edit_contents(finished, **{field: changed}), now=now)


def test_a_genuine_certificate_that_the_run_never_used_is_refused(finished: SimulatedRun, now: datetime) -> None:
    unused = finished.owners.root.sign(finished.owners.dataset_certificates["visits"])
    certificates = (*finished.contents().certificates, unused)
    assert refuse(finished, edit_contents(finished, certificates=certificates), now=now).code == "contents"


def test_edited_collateral_is_refused_and_its_attempt_named(finished: SimulatedRun, now: datetime) -> None:
    text = finished.collateral[finished.collateral_digest]
    data = edit_contents(finished, collateral={finished.collateral_digest: text + " "})
    error = refuse(finished, data, now=now)
    assert error.message == "step aggregate, preflight: collateral is missing or changed"


def test_collateral_that_nothing_refers_to_is_refused(finished: SimulatedRun, now: datetime) -> None:
    more = {**finished.collateral, canonical.digest_bytes(b"x"): "x"}
    assert refuse(finished, edit_contents(finished, collateral=more), now=now).code == "contents"


def test_a_dropped_log_entry_is_refused_and_its_attempt_named(finished: SimulatedRun, now: datetime) -> None:
    entries = finished.contents().log_entries
    for index, entry in enumerate(entries):
        error = refuse(finished, edit_contents(finished, log_entries=without(entries, index)), now=now)
        assert error.code == "log_broken"
        assert entry.kind in error.message


def test_a_dropped_or_shortened_path_of_the_log_is_refused(finished: SimulatedRun, now: datetime) -> None:
    proof = finished.contents().log_proof
    for paths in (proof.paths[1:], (proof.paths[0][32:], *proof.paths[1:]), (b"", *proof.paths[1:])):
        error = refuse(finished, edit_contents(finished, log_proof=LogProof(paths=paths, earlier=())), now=now)
        assert error.code == "log_broken"


def test_a_proof_for_an_earlier_head_that_was_not_enclosed_is_refused(finished: SimulatedRun, now: datetime) -> None:
    proof = finished.contents().log_proof
    data = edit_contents(finished, log_proof=LogProof(paths=proof.paths, earlier=proof.earlier[1:]))
    assert refuse(finished, data, now=now).code == "contents"


def test_another_form_of_the_same_p256_signature_is_refused(finished: SimulatedRun, now: datetime) -> None:
    """ECDSA has two signatures for each: (r, s) and (r, n - s). Both verify; only one was enclosed."""
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    first, *rest = finished.contents().receipts
    r, s = decode_dss_signature(first.signatures[0].sig)
    signature = replace(first.signatures[0], sig=encode_dss_signature(r, order - s))
    data = edit_contents(finished, receipts=(replace(first, signatures=(signature,)), *rest))
    assert refuse(finished, data, now=now).code == "contents"


# ---------------------------------------------------------------- whole documents by somebody else


def test_an_end_of_the_run_signed_by_nobody_certified_is_refused(finished: SimulatedRun, now: datetime) -> None:
    passport = parse_passport(finished.passport())
    forged = sign_payload(passport.closed.payload, payload_type=RunClosed.payload_type, keys=(SigningKey.generate(),))
    assert refuse(finished, canonical.encode(replace(passport, closed=forged)), now=now).code == "unknown_signer"


def test_a_passport_without_its_end_is_refused(finished: SimulatedRun, now: datetime) -> None:
    data = canonical.encode({"contents": msgspec.to_builtins(finished.contents())})
    error = refuse(finished, data, now=now)
    assert "closed" in error.message


def test_an_end_that_is_another_document_is_refused(finished: SimulatedRun, now: datetime) -> None:
    data = canonical.encode(Passport(contents=finished.contents(), closed=finished.run_envelope))
    assert "payload type" in refuse(finished, data, now=now).message


def test_the_end_of_another_run_is_refused(finished: SimulatedRun, now: datetime) -> None:
    other = complete_run(finished.platform, owners=finished.owners)
    contents: PassportContents = finished.contents()
    closed = finished.owners.broker.sign(other.closed(other.contents()))
    error = refuse(finished, compose_passport(contents, closed=closed), now=now)
    assert error.code == "other_run"


def test_evidence_of_another_run_is_refused(finished: SimulatedRun, now: datetime) -> None:
    other = complete_run(finished.platform, owners=finished.owners)
    error = refuse(finished, edit_contents(finished, evidence=other.contents().evidence), now=now)
    assert error.message.startswith("step aggregate, preflight: evidence is missing, changed or out of place")


def test_the_contents_of_another_run_are_refused(finished: SimulatedRun, now: datetime) -> None:
    other = complete_run(finished.platform, owners=finished.owners)
    closed = parse_passport(finished.passport()).closed
    assert refuse(finished, compose_passport(other.contents(), closed=closed), now=now).code == "other_run"
