from __future__ import annotations

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param

from ppml_airflow import canonical
from ppml_airflow.broker.decisions.approvals import require_sound
from ppml_airflow.canonical import digest_bytes
from ppml_airflow.domain.documents import Input, IntegerParam, Limits, Output
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators import (
    AttestationSensor,
    EncryptOperator,
    TrustedPythonOperator,
    TrustedSparkSubmitOperator,
)
from ppml_airflow.operators.approvals import compile_approval
from tests.support.nightly import SQL, TERMS, nightly


def step(name, *, reads=("visits",), writes="report", **changes):
    arguments = {"sql": "SELECT 1", "inputs": list(reads), "outputs": {writes: ["analyst"]}} | changes
    return TrustedSparkSubmitOperator(task_id=name, **arguments)


def compiled(dag):
    return compile_approval(dag, terms=TERMS)


def test_an_approval_says_everything_that_the_dag_does():
    approval = compiled(nightly(conf={"spark.sql.shuffle.partitions": "4"}))
    (count,) = approval.steps
    assert approval.pipeline == "nightly"
    assert (approval.valid_from, approval.valid_until) == ("2026-01-01T00:00:00Z", "2026-04-01T00:00:00Z")
    assert (approval.runs_per_slot, approval.slots.period, approval.slots.backfill) == (1, "day", 0)
    assert count.code == {"query.sql": digest_bytes(SQL.encode())}
    assert count.argv == ("query.sql",)
    assert (count.kind, count.image, count.workload, count.policy) == ("fixed", "spark", "spark-sql", "default")
    assert count.params == {"age": IntegerParam(minimum=0, maximum=120, default=18)}
    assert count.environment == {"spark.sql.shuffle.partitions": "4"}
    assert count.inputs == (Input(dataset="visits", version="this-run"),)
    assert count.outputs == (Output(dataset="report", body="table", recipients=("analyst",), files=1),)
    assert (count.log_recipients, count.gates, count.attempts) == (("owner",), ("before", "after"), 2)
    assert count.limits == Limits(wall_s=3600, memory_mib=2048, cores=2)
    require_sound(approval)


def test_the_same_dag_compiles_to_the_same_bytes():
    assert canonical.encode(compiled(nightly())) == canonical.encode(compiled(nightly()))


@pytest.mark.parametrize("change", [{"sql": SQL + " "}, {"output_files": 2}, {"retries": 0}, {"cores": 1}])
def test_any_change_of_a_step_changes_the_approval(change):
    assert canonical.digest(compiled(nightly(**change))) != canonical.digest(compiled(nightly()))


def test_an_application_has_its_program_first_and_its_params_as_arguments(tmp_path):
    (tmp_path / "count.py").write_bytes(b"main")
    dag = nightly(sql=None, application="count.py", application_args=["--age", "{age}"])
    dag.fileloc = str(tmp_path / "dag.py")
    (count,) = compiled(dag).steps
    assert count.workload == "spark-python"
    assert count.argv == ("count.py", "--age", "{age}")
    assert count.code == {"count.py": digest_bytes(b"main")}


def test_an_argument_that_names_no_param_is_refused(tmp_path):
    (tmp_path / "count.py").write_bytes(b"main")
    dag = nightly(sql=None, application="count.py", application_args=["{year}"])
    dag.fileloc = str(tmp_path / "dag.py")
    with pytest.raises(ConfigurationError, match=r"argument \{year\} of count names no param"):
        compiled(dag)


def test_edges_run_through_other_tasks_and_outputs_of_earlier_steps_are_of_this_run():
    with DAG("d", schedule="0 2 * * *") as dag:
        clean = step("clean", reads=("visits", "plans"), writes="clean")
        count = step("count", reads=("clean", "visits", "plans"))
        last = step("last", reads=("report",), writes="summary")
        EncryptOperator(dataset="visits") >> clean >> EmptyOperator(task_id="pause") >> count >> last
    approval = compiled(dag)
    assert approval.edges == (("clean", "count"), ("count", "last"))
    assert {item.dataset: item.version for item in approval.steps[1].inputs} == {
        "clean": "this-run",
        "visits": "this-run",
        "plans": "head",
    }
    assert approval.steps[0].gates == ()


def test_a_dataset_sealed_elsewhere_in_the_dag_but_not_before_the_step_is_the_head():
    with DAG("d", schedule="0 2 * * *") as dag:
        step("count") >> EncryptOperator(dataset="visits")
    assert compiled(dag).steps[0].inputs[0].version == "head"


def refused(dag, match):
    with pytest.raises(ConfigurationError, match=match):
        compiled(dag)


def test_a_dag_without_a_step_is_refused():
    with DAG("d", schedule="0 2 * * *") as dag:
        EncryptOperator(dataset="visits")
    refused(dag, "no step that runs in an enclave")


def test_a_sensor_for_an_unknown_task_is_refused():
    with DAG("d", schedule="0 2 * * *") as dag:
        AttestationSensor(before="other") >> step("count")
    refused(dag, "guards other, which is no step")


@pytest.mark.parametrize("gate", ["before", "after"])
def test_a_sensor_that_stands_on_the_wrong_side_is_refused(gate):
    with DAG("d", schedule="0 2 * * *") as dag:
        count = step("count")
        sensor = AttestationSensor(**{gate: count})
        (count >> sensor) if gate == "before" else (sensor >> count)
    refused(dag, f"does not stand {gate} count")


def test_two_steps_that_write_one_dataset_are_refused():
    with DAG("d", schedule="0 2 * * *") as dag:
        step("one") >> step("two")
    refused(dag, "dataset report is written by two steps")


def test_a_mapped_step_is_refused():
    with DAG("d", schedule="0 2 * * *") as dag:
        TrustedSparkSubmitOperator.partial(task_id="count", inputs=["visits"], outputs={"report": ["analyst"]}).expand(
            sql=["SELECT 1", "SELECT 2"]
        )
    refused(dag, "task count is mapped")


def test_too_many_retries_are_refused():
    refused(nightly(retries=10), "retries=10; at most 9")


def step_of_a_set(visits):
    return visits


def test_the_members_of_a_set_and_their_replacements_are_approved():
    with DAG("set", schedule="@daily") as dag:
        TrustedPythonOperator(
            task_id="s",
            python_callable=step_of_a_set,
            outputs={"r": ["analyst"]},
            columns={"r": {"n": "bigint"}},
            members=3,
            replacements=1,
        )
    (found,) = compiled(dag).steps
    assert (found.members, found.replacements) == (3, 1)


@pytest.mark.parametrize("numbers", [(0, 0), (65, 0), (1, 1), (2, -1), (2, 11)])
def test_numbers_that_make_no_set_are_refused(numbers):
    members, replacements = numbers
    with pytest.raises(ConfigurationError, match="wanted 1 and 0, or up to 64 members"):
        step("s", members=members, replacements=replacements)


def test_two_pipelines_in_one_dag_are_refused():
    with DAG("d", schedule="0 2 * * *") as dag:
        step("one") >> step("two", writes="other", pipeline="elsewhere")
    refused(dag, "several pipelines: d, elsewhere")


def test_a_param_without_bounds_is_refused():
    with DAG("d", schedule="0 2 * * *", params={"year": Param(1, type="integer")}) as dag:
        step("count")
    refused(dag, "param year of type integer has no bounds")


def test_a_default_outside_its_bounds_is_refused():
    date = Param("2026-01-02", type="string", format="date", formatMinimum="2026-02-01", formatMaximum="2026-12-31")
    with DAG("d", schedule="0 2 * * *", params={"day": date}) as dag:
        step("count")
    refused(dag, "default of param day")


@pytest.mark.parametrize("change", [{"outputs": {"re port": ["analyst"]}}, {"cores": 0}, {"output_files": 0}])
def test_names_and_numbers_that_no_document_holds_are_refused(change):
    refused(nightly(**change), "has no approval")
