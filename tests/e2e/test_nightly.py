"""The shipped pipelines on what `ppml up` starts: real Airflow services, broker, agents, quoting service and Spark.

The tests run in the order in which they stand: first without an approval, then with one.
"""

from __future__ import annotations

import pytest

from tests.support.airflow_api import AirflowApi, until
from tests.support.answers import require_nightly, require_pi
from tests.support.installation import changed

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]
DAG = "nightly_analytics"
BEFORE, AFTER = "gate_before_aggregate", "gate_after_aggregate"
PI = "spark_pi"


@pytest.fixture(scope="module")
def approved(installation):
    """The same, once its owner has approved the pipeline."""
    installation.approve(DAG, "--runs-per-slot", "20", "--backfill", "1")
    return installation


def test_without_an_approval_nothing_runs_and_the_log_says_who_can_approve(installation):
    airflow = installation.airflow
    run = airflow.trigger(PI)
    assert airflow.wait_for_run(PI, run) == "failed"
    assert airflow.task_states(PI, run)["estimate"] == "upstream_failed"
    said = airflow.task_log(PI, run, "gate_before_estimate")
    assert "not_approved" in said
    assert "ppml compile" in said
    assert "ppml approve" in said


def test_the_nightly_run_delivers_what_duckdb_answers_and_its_passport_verifies(approved):
    airflow = approved.airflow
    run = airflow.trigger(DAG, {"minimum_people": 500, "minimum_diseases": 5})
    assert airflow.wait_for_run(DAG, run) == "success", airflow.task_states(DAG, run)
    assert set(airflow.task_states(DAG, run).values()) == {"success"}
    assert "trust: SIMULATED" in airflow.task_log(DAG, run, BEFORE)
    require_nightly(approved.home, minimum_people=500, minimum_diseases=5)
    passport = airflow.xcom(DAG, run, "passport")["path"]
    assert "SIMULATED" in approved.ppml("verify", passport, "--trust", approved.told["trust"]).stdout
    approved.ppml("verify", passport, expect=1)


def test_a_committed_step_cleared_in_the_ui_returns_the_same_reference(approved):
    airflow = approved.airflow
    run = next(name for name, state in airflow.runs(DAG).items() if state == "success")
    before = airflow.xcom(DAG, run, "aggregate")
    airflow.clear_task(DAG, run, "aggregate")
    until(lambda: airflow.task_states(DAG, run)["aggregate"] != "success", seconds=30)
    assert airflow.wait_for_run(DAG, run) == "success"
    assert airflow.xcom(DAG, run, "aggregate") == before


def test_a_gate_set_to_success_by_hand_yields_no_key(approved):
    """The step waits for its inputs in the DAG, too, so that only the gate is missing when it starts."""
    airflow = approved.airflow
    with changed(
        approved,
        f"{DAG}.py",
        "    (\n",
        "    [EncryptOperator(dataset=table, task_id=table) for table in question['tables']] >> aggregate\n    (\n",
    ):
        until(lambda: "visits" in _tasks(airflow), seconds=90)
        run = airflow.trigger(DAG)
        until(lambda: BEFORE in airflow.task_states(DAG, run), seconds=60)
        airflow.set_task_state(DAG, run, BEFORE, "success")
        assert airflow.wait_for_run(DAG, run) == "failed"
        assert airflow.task_states(DAG, run)[BEFORE] == "success"
        assert airflow.task_states(DAG, run)["aggregate"] == "failed"
        assert "gate_missing" in airflow.task_log(DAG, run, "aggregate")


def test_a_gate_deleted_from_the_dag_yields_no_key(approved):
    airflow = approved.airflow
    with changed(approved, f"{DAG}.py", "        >> AttestationSensor(before=aggregate)\n", ""):
        until(lambda: BEFORE not in _tasks(airflow), seconds=90)
        run = airflow.trigger(DAG)
        assert airflow.wait_for_run(DAG, run) == "failed"
        assert "gate_missing" in airflow.task_log(DAG, run, "aggregate")


def test_params_out_of_bounds_are_refused_by_the_broker_too(approved):
    """Airflow's own form refuses them first; a DAG author can loosen the form, not the approval."""
    airflow = approved.airflow
    with changed(approved, f"{DAG}.py", "minimum=10", "minimum=1"):
        until(lambda: _minimum_of_form(airflow) == 1, seconds=90)
        run = airflow.trigger(DAG, {"minimum_people": 1})
        assert airflow.wait_for_run(DAG, run) == "failed"
        assert "param_out_of_bounds" in airflow.task_log(DAG, run, "encrypt_visits")


def test_one_changed_token_of_the_query_is_refused_and_shows_what_would_approve_it(approved):
    airflow = approved.airflow
    with changed(approved, f"{DAG}.yaml", "avg(visits.mdvis)", "max(visits.mdvis)"):
        run = airflow.trigger(DAG)
        assert airflow.wait_for_run(DAG, run) == "failed"
        said = airflow.task_log(DAG, run, BEFORE)
        assert "code_changed" in said
        assert "ppml approve" in said


def test_an_approved_job_file_runs_and_its_answer_is_numpys(installation):
    airflow, params = installation.airflow, {"samples": 200_003, "seed": 7}
    installation.approve(PI, "--runs-per-slot", "3")
    run = airflow.trigger(PI, params)
    assert airflow.wait_for_run(PI, run) == "success", airflow.task_states(PI, run)
    require_pi(installation.home, **params)
    assert airflow.http.get("/api/v2/importErrors").json()["import_errors"] == []
    passport = airflow.xcom(PI, run, "passport")["path"]
    assert "SIMULATED" in installation.ppml("verify", passport, "--trust", installation.told["trust"]).stdout


@pytest.mark.parametrize(
    ("file", "old", "new", "code"),
    [("spark_pi/pi.py", "< 1", "<=1", "code_changed"), ("spark_pi.py", '"--seed"', '"--seee"', "step_changed")],
    ids=["one-byte-of-the-job-file", "one-character-of-argv"],
)
def test_a_changed_job_is_refused_and_shows_what_would_approve_it(installation, file, old, new, code):
    airflow = installation.airflow
    with changed(installation, file, old, new):
        run = airflow.trigger(PI)
        assert airflow.wait_for_run(PI, run) == "failed"
        said = airflow.task_log(PI, run, "gate_before_estimate")
    assert f"[{code}]" in said
    assert f"ppml compile {installation.home}/dags/spark_pi.py" in said
    assert "ppml approve spark_pi.approval.json" in said


def _tasks(airflow: AirflowApi) -> set[str]:
    return {task["task_id"] for task in airflow.http.get(f"/api/v2/dags/{DAG}/tasks").json()["tasks"]}


def _minimum_of_form(airflow: AirflowApi) -> int:
    params = airflow.http.get(f"/api/v2/dags/{DAG}/details").json()["params"]
    return int(params["minimum_people"]["schema"]["minimum"])
