"""The shipped job file: what is approved of it, and that what it computes is what NumPy computes."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Approval, IntegerParam, Output
from tests.support import pi as reference

DAG_FILE = Path(__file__).parents[2] / "dags" / "spark_pi.py"
JOB_FILE = DAG_FILE.parent / "spark_pi" / "pi.py"
LIST = """
import sys
from airflow.utils.file import list_py_file_paths
print(*list_py_file_paths(sys.argv[1], safe_mode=False), sep="\\n")
"""


@pytest.fixture(scope="module")
def job() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pi_job", JOB_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_dag_has_at_most_40_lines() -> None:
    assert len(DAG_FILE.read_text().splitlines()) <= 40


def test_the_approval_names_the_files_digest_its_arguments_and_bounds() -> None:
    command = [sys.executable, "-m", "ppml_airflow.operators.compile", str(DAG_FILE)]
    done = subprocess.run([*command, "--domain-id", "sha256:" + "0" * 64], capture_output=True, check=True)
    (step,) = canonical.decode(done.stdout, into=Approval).steps
    assert step.workload == "spark-python"
    assert step.code == {"pi.py": canonical.digest_bytes(JOB_FILE.read_bytes())}
    assert step.argv == ("pi.py", "--samples", "{samples}", "--seed", "{seed}")
    assert step.params == {
        "samples": IntegerParam(minimum=10_000, maximum=100_000_000, default=1_000_000),
        "seed": IntegerParam(minimum=0, maximum=1_000_000, default=1),
    }
    assert step.inputs == ()
    assert step.outputs == (Output(dataset="pi", body="table", recipients=("analyst",), files=1),)
    assert step.gates == ("before", "after")


def test_airflow_does_not_import_the_job_file(tmp_path: Path) -> None:
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path)}
    answer = subprocess.run(
        [sys.executable, "-c", LIST, str(DAG_FILE.parent)], env=environment, check=True, capture_output=True, text=True
    )
    found = answer.stdout.splitlines()
    assert str(DAG_FILE) in found
    assert str(JOB_FILE) not in found


@pytest.mark.parametrize(("samples", "seed"), [(10_000, 0), (10_007, 1), (20_000, 1_000_000)])
def test_the_darts_are_those_that_numpy_throws(job: ModuleType, samples: int, seed: int) -> None:
    for partition in range(job.PARTITIONS):
        wanted = reference.hits(partition, samples=samples, seed=seed)
        assert job.hits(partition, samples=samples, seed=seed) == wanted


def test_the_estimate_is_pi_within_five_standard_errors() -> None:
    samples = 1_000_000
    error = math.sqrt(math.pi * (4 - math.pi) / samples)
    assert abs(reference.estimate_of_pi(samples=samples, seed=1) - math.pi) < 5 * error
