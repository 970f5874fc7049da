"""`TrustedPythonOperator`, `@task.enclave`: a function is approved by its source, or refused when the DAG is parsed."""

import time

import pendulum
import pytest
from airflow.sdk import DAG, Param, task

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators import TrustedPythonOperator
from ppml_airflow.operators.functions import source_of

TABLE = {"outputs": {"report": ["analyst"]}, "columns": {"report": {"plan": "string", "n": "bigint"}}}
OUTSIDE = 7


def count(visits, plans, least, sign="!"):
    """Count."""
    import pandas as pd

    merged = pd.merge(visits, plans, on="plan")  # a comment stays
    return merged[merged["n"] >= least].assign(plan=lambda rows: rows["plan"] + sign)


def in_dag(make):
    with DAG("d", schedule=None, start_date=pendulum.datetime(2026, 1, 1), params={"least": Param(1, type="integer")}):
        return make()


def operator(function=count, **changes):
    return in_dag(
        lambda: TrustedPythonOperator(**{"task_id": "count", "python_callable": function, **TABLE, **changes})
    )


def program(step):
    return step.code_files()["function.py"].decode()


def test_a_function_becomes_a_program_of_its_source():
    step = operator()
    assert step.inputs == ("visits", "plans")
    assert step.argv() == ("function.py",)
    assert step.workload == "python"
    assert step.image == "python"
    text = program(step)
    assert "\nINPUTS = {}\nOUTPUTS = {'report': {'plan': 'string', 'n': 'bigint'}}\n" in text
    assert '\n\ndef count(visits, plans, least, sign="!"):\n    """Count."""\n' in text
    assert "# a comment stays" in text
    compile(text, "function.py", "exec")


def test_the_decorator_makes_the_same_step_when_it_is_called():
    step = in_dag(lambda: task.enclave(**TABLE)(count)())
    assert isinstance(step, TrustedPythonOperator)
    assert step.task_id == "count"
    assert program(step) == program(operator())
    assert in_dag(lambda: task.enclave(**TABLE)(count).override(task_id="other")()).task_id == "other"


def test_decorators_are_no_part_of_the_program():
    def make():
        @task.enclave(
            **TABLE,
        )
        def nested(visits):
            return visits

        return nested()

    text = program(in_dag(make))
    assert "\n\ndef nested(visits):\n    return visits\n" in text
    assert "enclave" not in text


def test_an_output_that_is_a_folder_has_no_columns():
    step = operator(outputs={"model": ["analyst"]}, columns={}, folders=["model"])
    assert "OUTPUTS = {'model': 'files'}\n" in program(step)


def test_columns_that_a_function_needs_are_in_its_program():
    step = operator(needs={"visits": {"n": "whole number"}})
    assert "\nINPUTS = {'visits': {'n': 'whole number'}}\n" in program(step)
    with pytest.raises(ConfigurationError, match="no parameter for input other"):
        operator(needs={"other": {"n": "number"}})


def test_inputs_may_be_named():
    assert operator(inputs=["visits"]).inputs == ("visits",)
    with pytest.raises(ConfigurationError, match="no parameter for input other"):
        operator(inputs=["other"])


def _closure():
    least = 3

    def inner(visits):
        return visits[:least]

    return inner


def uses_the_file(visits):
    return visits[:OUTSIDE]


def calls_the_file(visits):
    return [uses_the_file(visit) for visit in visits]


def computes_a_default(visits, least=OUTSIDE + 1):
    return visits[:least]


def takes_anything(*visits):
    return visits


def generates(visits):
    yield visits


async def waits(visits):
    return visits


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda visits: visits, "is no function written with def"),
        (print, "is no function written with def"),
        (_closure(), "function inner uses least of the function around it"),
        (uses_the_file, "uses OUTSIDE of the DAG file"),
        (calls_the_file, "uses uses_the_file of the DAG file"),
        (computes_a_default, "computes the default of least"),
        (takes_anything, r"takes \*args"),
        (generates, "is asynchronous or a generator"),
        (waits, "is asynchronous or a generator"),
    ],
)
def test_a_function_that_would_be_another_one_in_the_enclave_is_refused(function, complaint):
    with pytest.raises(ConfigurationError, match=complaint) as refused:
        operator(function)
    assert refused.value.code == "function_refused"
    assert refused.value.hint


def test_a_function_without_source_is_refused():
    namespace = {}
    exec("def typed(visits):\n    return visits", namespace)  # noqa: S102
    with pytest.raises(ConfigurationError, match="has no source"):
        operator(namespace["typed"])


def test_a_value_of_another_task_is_refused():
    with pytest.raises(ConfigurationError, match="never in an XCom"):
        in_dag(lambda: task.enclave(**TABLE)(count)([1, 2, 3]))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"application": "a.py"}, "exactly one of"),
        ({"python_callable": None}, "exactly one of"),
        ({"python_callable": None, "application": "a.sh"}, r"not a \.py file"),
        ({"application_args": ["x"]}, "go with application="),
        ({"columns": {}}, r"tables among its outputs are \['report'\]"),
        ({"python_callable": None, "application": "a.py", "application_args": ["{{ ds }}"]}, "template"),
    ],
)
def test_a_step_of_another_shape_is_refused(changes, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        operator(**changes)


def test_an_application_lies_beside_the_dag_file(tmp_path):
    (tmp_path / "job.py").write_bytes(b"main")
    (tmp_path / "more.py").write_bytes(b"more")
    changes = {"python_callable": None, "application": "job.py", "py_files": ["more.py"], "columns": None}
    step = operator(application_args=["--least", "{least}"], **changes)
    step.dag.fileloc = str(tmp_path / "dag.py")
    assert step.code_files() == {"job.py": b"main", "more.py": b"more"}
    assert step.argv() == ("job.py", "--least", "{least}")


def test_a_function_is_read_in_milliseconds():
    started = time.perf_counter()
    for _ in range(20):
        source_of(count)
    assert (time.perf_counter() - started) / 20 < 0.02
