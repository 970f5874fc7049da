"""What the shipped DAGs of the `python` and `inference` images have their owners approve, and how fast they parse."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import DecimalParam, Input, Output
from ppml_airflow.operators.compile import load_dag
from ppml_airflow.workloads.inference.plan import InferencePlan

DAGS = Path(__file__).parents[2] / "dags"
PARSED_WITHIN_S = 0.5


def compiled(dag_id: str, step: str, *, params, inputs):
    operator = load_dag(DAGS / f"{dag_id}.py", dag_id=dag_id).get_task(step)
    approved = operator.compiled_step(params=params, inputs=inputs, gates=("before", "after"), log_recipients=())
    return operator, approved


def test_the_function_is_approved_by_its_source() -> None:
    visits = (Input(dataset="visits", version="this-run"),)
    operator, step = compiled("enclave_task", "group_by_diseases", params={}, inputs=visits)
    program = operator.code_files()["function.py"]
    assert operator.inputs == ("visits",)
    assert step.code == {"function.py": canonical.digest_bytes(program)}
    assert b"def group_by_diseases(visits, minimum_people, often):" in program
    assert step.outputs == (Output(dataset="groups", body="table", recipients=("analyst",), files=1),)
    assert (step.image, step.workload) == ("python", "python")


def test_the_set_is_approved_with_its_members() -> None:
    _, step = compiled("enclave_set", "group_together", params={}, inputs=())
    assert (step.members, step.replacements, step.workload) == (3, 1, "python")


def test_the_inference_is_approved_by_what_it_binds() -> None:
    score = DecimalParam(minimum="0", maximum="1", default="0.5")
    inputs = tuple(Input(dataset=name, version="this-run") for name in ("detector", "samples"))
    operator, step = compiled("batch_inference", "classify", params={"minimum_score": score}, inputs=inputs)
    plan = canonical.decode(operator.code_files()["inference.json"], into=InferencePlan)
    assert list(step.code) == ["inference.json"]
    assert (plan.model, plan.data, plan.at_least) == ("detector", "samples", {"score": "minimum_score"})
    assert (step.image, step.workload) == ("inference", "inference")


@pytest.mark.parametrize("dag_id", ["enclave_task", "enclave_set", "batch_inference"])
def test_a_dag_is_parsed_fast(dag_id: str) -> None:
    load_dag(DAGS / f"{dag_id}.py", dag_id=dag_id)
    times = []
    for _ in range(3):
        started = time.process_time()
        load_dag(DAGS / f"{dag_id}.py", dag_id=dag_id)
        times.append(time.process_time() - started)
    assert min(times) < PARSED_WITHIN_S
