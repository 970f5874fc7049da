"""Offline: what was asked, by whose leave, and that only those may hear it who may open all that it reads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.domain.documents import Run, Step
from ppml_airflow.errors import PpmlError, VerificationError
from ppml_airflow.provenance.passport import compose_passport, parse_passport
from ppml_airflow.provenance.report import PassportReport
from ppml_airflow.provenance.verification import verify_passport
from ppml_airflow.sealing.wrapping import SealingKey
from tests.support.adhoc import ASK, STATEMENT, ask
from tests.support.owners import Owners
from tests.support.simulated_run import DATASETS, SimulatedAttempt, SimulatedRun

replace = msgspec.structs.replace
STEP = "step aggregate, attempt 1: "


def start(platform: SimulatedPlatform, step: Step = ASK) -> SimulatedRun:
    run = SimulatedRun(platform=platform, owners=Owners(*DATASETS), steps=(step,), edges=())
    run.log_certificate = run.owners.certify(
        "log", subject="owner", key=SealingKey.generate().public, datasets=DATASETS
    )
    ask_with(run, STATEMENT)
    run.publish(run.make_manifest("visits", run_id=run.run_id))
    run.publish(run.make_manifest("plans"))
    return run


def ask_with(run: SimulatedRun, statement: str) -> None:
    run.run = replace(run.run, params={"statement": statement})
    run.run_envelope = run.owners.broker.sign(run.run)


def attest(run: SimulatedRun) -> SimulatedAttempt:
    run.pin("aggregate")
    run.attest("aggregate", role="preflight")
    return run.attest("aggregate")


def finish(run: SimulatedRun, attempt: SimulatedAttempt, **changes: Any) -> None:
    run.commit(attempt, lease=run.lease(attempt, **changes), disclosed={})


def verify(data: bytes, *, run: SimulatedRun) -> PassportReport:
    return verify_passport(data, trust=run.trust(), now=datetime.now(UTC))


def refuse(run: SimulatedRun, *, match: str, code: str) -> None:
    with pytest.raises(PpmlError, match=match) as refused:
        verify(run.passport(), run=run)
    assert refused.value.code == code


def test_a_passport_says_what_was_asked(platform: SimulatedPlatform) -> None:
    run = start(platform)
    finish(run, attest(run))
    report = verify(run.passport(), run=run)
    assert report.outcome == "succeeded"
    assert report.params == {"statement": STATEMENT}


def test_an_edited_statement_is_refused_and_the_step_named(platform: SimulatedPlatform) -> None:
    run = start(platform)
    finish(run, attest(run))
    passport = parse_passport(run.passport())
    asked = canonical.decode(passport.contents.run.payload, into=Run)
    edited = replace(asked, params={"statement": STATEMENT.replace("plan", "Plan")})
    envelope = replace(passport.contents.run, payload=canonical.encode(edited))
    forged = compose_passport(replace(passport.contents, run=envelope), closed=passport.closed)
    with pytest.raises(VerificationError, match="step aggregate, preflight: evidence covers another job"):
        verify(forged, run=run)


def test_a_broker_that_signs_another_statement_afterwards_is_found_out(platform: SimulatedPlatform) -> None:
    run = start(platform)
    finish(run, attest(run))
    ask_with(run, "SELECT 1")
    refuse(run, match="step aggregate, preflight: evidence covers another job", code="other_job")


@pytest.mark.parametrize("lacking", ["visits", "plans"])
def test_a_recipient_without_the_open_right_for_one_input_is_refused(platform: SimulatedPlatform, lacking: str) -> None:
    run = start(platform)
    attempt = attest(run)
    named = tuple(name for name in DATASETS if name != lacking)
    narrow = run.owners.certify("recipient", subject="analyst", key=SealingKey.generate().public, datasets=named)
    (output,) = run.make_lease(attempt).outputs
    finish(run, attempt, outputs=(replace(output, recipient_certificates=(narrow.serial,)),))
    refuse(run, match=f"{STEP}recipient analyst is not certified for {lacking}", code="not_certified")


def test_a_reader_of_the_log_without_the_open_right_is_refused(platform: SimulatedPlatform) -> None:
    run = start(platform)
    attempt = attest(run)
    narrow = run.owners.certify("log", subject="owner", key=SealingKey.generate().public, datasets=("visits",))
    finish(run, attempt, log_certificates=(narrow.serial,))
    refuse(run, match=f"{STEP}log owner is not certified for plans", code="not_certified")


def test_an_answer_that_a_later_step_could_read_is_refused(platform: SimulatedPlatform) -> None:
    run = start(platform)
    attempt = attest(run)
    (output,) = run.make_lease(attempt).outputs
    serial = run.owners.dataset_certificates["report"].serial
    finish(run, attempt, outputs=(replace(output, dataset_certificate=serial),))
    refuse(run, match=f"{STEP}lease names another dataset key of report", code="other_lease")


def test_a_fixed_output_without_a_key_for_later_steps_is_refused(fresh: SimulatedRun) -> None:
    fresh.pin("aggregate")
    fresh.attest("aggregate", role="preflight")
    attempt = fresh.attest("aggregate")
    (output,) = fresh.make_lease(attempt).outputs
    fresh.commit(attempt, lease=fresh.lease(attempt, outputs=(replace(output, dataset_certificate=None),)))
    refuse(fresh, match=f"{STEP}lease names another dataset key of report", code="other_lease")


def test_an_approval_against_the_rules_is_refused(platform: SimulatedPlatform) -> None:
    run = start(platform)
    finish(run, attest(run))
    run.approval = replace(run.approval, steps=(ask(workload="spark-python"),))
    run.approval_envelope = run.owners.root.sign(run.approval)
    run.run = replace(run.run, approval=run.approval_envelope.digest)
    run.run_envelope = run.owners.broker.sign(run.run)
    refuse(run, match="run: step aggregate is adhoc with workload spark-python", code="adhoc_rules")
