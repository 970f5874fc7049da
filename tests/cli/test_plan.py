"""What a plan says before any data is touched: nothing is denied without being named, nothing named for no reason."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from ppml_airflow import canonical
from ppml_airflow.cli.home import Home, require_checkout
from ppml_airflow.cli.main import cli
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.planning import Standing, TaskPlan, plan_pipeline
from ppml_airflow.cli.simulated import accept_measurement, ensure_certified
from ppml_airflow.domain.documents import Approval, Input
from tests.cli.conftest import NOW

MEASURED = "ab" * 32


@pytest.fixture
def signed(home: Home, owner: Owner, approval: Approval) -> Approval:
    """The approval, once everything that it names is signed."""
    ensure_certified(home, owner=owner, approval=approval, now=NOW)
    accept_measurement(home, owner=owner, image="spark", measurement=MEASURED, names=["default"])
    owner.store_approval(canonical.encode(approval))
    return approval


def planned(
    owner: Owner, compiled: Approval, *, measured: str = MEASURED, days: int = 0, **changes: object
) -> dict[str, TaskPlan]:
    in_force = owner.approval_in_force(compiled.pipeline)
    standing = Standing(
        domain=owner.domain,
        certificates=owner.certificates(),
        policies=owner.policies(),
        in_force=in_force[1] if in_force else None,
        measured={"spark": measured},
    )
    compiled = msgspec.structs.replace(compiled, **changes)
    return {task.task: task for task in plan_pipeline(compiled, standing=standing, now=NOW + timedelta(days=days))}


def codes(plans: dict[str, TaskPlan]) -> dict[str, list[str]]:
    return {name: [problem.code for problem in task.problems] for name, task in plans.items() if task.problems}


def test_where_all_is_signed_nothing_is_denied_and_each_key_is_named(owner: Owner, signed: Approval) -> None:
    plans = planned(owner, signed)
    assert codes(plans) == {}
    assert list(plans) == [
        "approve nightly",
        "find plans",
        "seal visits",
        "gate before aggregate",
        "step aggregate",
        "gate after aggregate",
        "open report for analyst",
    ]
    assert plans["step aggregate"].needs == (
        "data key of visits",
        "data key of plans",
        "release key of report",
        "log key of owner",
    )
    assert "evidence of image spark on sgx" in plans["gate before aggregate"].needs[0]
    assert "trust: SIMULATED" in plans["approve nightly"].needs[0]


def test_where_nothing_is_signed_everything_missing_is_named(owner: Owner, approval: Approval) -> None:
    assert codes(planned(owner, approval)) == {
        "approve nightly": ["not_approved"],
        "find plans": ["not_certified"],
        "seal visits": ["not_certified", "not_certified"],
        "gate before aggregate": ["policy_missing"],
        "step aggregate": ["not_certified", "not_certified"],
        "open report for analyst": ["not_certified"],
    }


def test_a_changed_step_is_told_in_words(owner: Owner, signed: Approval) -> None:
    (step,) = signed.steps
    other = msgspec.structs.replace(step, inputs=(*step.inputs, Input(dataset="salaries", version="head")))
    plans = planned(owner, signed, steps=(other,))
    assert codes(plans) == {"approve nightly": ["step_changed"], "find salaries": ["not_certified"]}
    assert "+ step aggregate: reads salaries (its newest version)" in plans["approve nightly"].problems[0].reason


def test_what_only_the_owner_decides_is_no_change_of_the_dag(owner: Owner, signed: Approval) -> None:
    (step,) = signed.steps
    terms = {"runs_per_slot": 9, "steps": (msgspec.structs.replace(step, log_recipients=()),)}
    assert codes(planned(owner, signed, **terms)) == {}


def test_an_image_that_measures_otherwise_here_is_denied_at_its_gate(owner: Owner, signed: Approval) -> None:
    assert codes(planned(owner, signed, measured="cd" * 32)) == {"gate before aggregate": ["attestation_measurement"]}


def test_an_image_that_no_policy_names_is_denied_at_its_gate(owner: Owner, signed: Approval) -> None:
    steps = tuple(msgspec.structs.replace(step, image="other") for step in signed.steps)
    assert codes(planned(owner, signed, steps=steps))["gate before aggregate"] == ["attestation_image"]


def test_what_has_expired_is_missing(owner: Owner, signed: Approval) -> None:
    found = codes(planned(owner, signed, days=6 * 365))
    assert found["approve nightly"] == ["approval_expired"]
    assert found["open report for analyst"] == ["not_certified"]


def test_the_command_ends_with_one_only_where_it_is_asked_to_check(home: Home, owner: Owner) -> None:
    dag = str(require_checkout() / "dags" / "nightly_analytics.py")
    told = CliRunner().invoke(cli, ["plan", dag])
    assert told.exit_code == 0, told.output
    assert "DENIED approve nightly_analytics" in told.output
    assert "[not_approved] no approval of nightly_analytics is in force (ppml approve)" in told.output
    checked = CliRunner().invoke(cli, ["plan", dag, "--check", "--json"])
    assert checked.exit_code == 1
    tasks = json.loads(checked.output)["tasks"]
    assert {"gate before aggregate", "open report for analyst"} <= {task["task"] for task in tasks}
    assert Path(home.path).exists()
