import pytest

from ppml_airflow import canonical
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators import EnclaveInferenceOperator
from ppml_airflow.workloads.inference.plan import InferencePlan

STEP = {
    "task_id": "classify",
    "model": "detector",
    "data": "samples",
    "features": {"x": ["a", "b"]},
    "results": {"z": ("y", "max"), "a": ("y", "argmax")},
    "outputs": {"kinds": ["analyst"]},
}


def test_what_is_approved_is_the_binding():
    step = EnclaveInferenceOperator(**STEP, keep=["id"], batch_rows=7, at_least={"z": "least"})
    assert step.inputs == ("detector", "samples")
    assert step.argv() == ("inference.json",)
    assert (step.workload, step.image) == ("inference", "inference")
    plan = canonical.decode(step.code_files()["inference.json"], into=InferencePlan)
    assert [(result.column, result.tensor, result.kind) for result in plan.results] == [
        ("z", "y", "max"),
        ("a", "y", "argmax"),
    ]
    assert (plan.keep, plan.batch_rows, plan.at_least) == (("id",), 7, {"z": "least"})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"outputs": {"a": ["analyst"], "b": ["analyst"]}}, "inference writes one table"),
        ({"folders": ["kinds"]}, "inference writes one table"),
        ({"data": "detector"}, "are both detector"),
        ({"features": {}}, "binds at least one tensor"),
        ({"results": {"z": ("y", "median")}}, "cannot be bound"),
        ({"results": {"z": ("y", "label")}}, "needs a labels file"),
        ({"keep": ["Z"]}, "same name, or differ only by case"),
        ({"batch_rows": 0}, "batch_rows is 0"),
        ({"at_least": {"n": "least"}}, "at_least names n"),
    ],
)
def test_a_binding_that_cannot_be_is_refused_when_the_dag_is_parsed(changes, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        EnclaveInferenceOperator(**{**STEP, **changes})
