from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Approval
from ppml_airflow.operators.compile import run

DAGS = Path(__file__).parents[2] / "dags"
DOMAIN = ["--domain-id", "sha256:" + "0" * 64, "--valid-from", "2026-01-01T00:00:00Z"]
TWO = """
from airflow.sdk import DAG
from ppml_airflow.operators import TrustedSparkSubmitOperator
print("noise on stdout")
with DAG("one", schedule="0 2 * * *"):
    TrustedSparkSubmitOperator(task_id="s", sql="SELECT 1", inputs=["a"], outputs={"b": ["analyst"]})
two = DAG("two", schedule=None)
"""


def compiled(dag_file, *options):
    command = [sys.executable, "-m", "ppml_airflow.operators.compile", str(dag_file), *DOMAIN, *options]
    return subprocess.run(command, capture_output=True, check=False)


def test_the_shipped_dag_compiles_to_the_approval_beside_this_test():
    answer = compiled(DAGS / "nightly_analytics.py", "--runs-per-slot", "100")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == (Path(__file__).parent / "nightly_analytics.approval.json").read_bytes()


def test_every_option_reaches_the_approval(tmp_path):
    (tmp_path / "dag.py").write_text(TWO)
    digest = "sha256:" + "1" * 64
    answer = compiled(
        tmp_path / "dag.py", "--dag", "one", "--replaces", digest, "--valid-days", "2", "--runs-per-slot", "3",
        "--backfill", "4", "--window-hours", "5", "--log-recipient", "auditor",
    )  # fmt: skip
    approval = canonical.decode(answer.stdout, into=Approval)
    assert (approval.replaces, approval.runs_per_slot, approval.valid_until) == (digest, 3, "2026-01-03T00:00:00Z")
    assert (approval.slots.backfill, approval.slots.window_hours) == (4, 5)
    assert approval.steps[0].log_recipients == ("auditor",)
    assert b"noise on stdout" in answer.stderr


@pytest.mark.parametrize(
    ("content", "options", "complaint"),
    [
        (None, [], "is not there"),
        ("x = 1", [], "has not one DAG but: none"),
        (TWO, [], "has not one DAG but: one, two"),
        (TWO, ["--dag", "three"], "has no DAG three; it has: one, two"),
        ("import nothing_of_this_name", [], "fails: ModuleNotFoundError"),
        ("from airflow.sdk import DAG\nd = DAG('d', schedule=None)", [], "no step that runs in an enclave"),
        (TWO.replace("SELECT 1", "SELECT '{{ ds }}'"), [], "template"),
        (TWO, ["--dag", "one", "--valid-days", "0"], "--valid-days"),
        (TWO, ["--dag", "one", "--replaces", "nonsense"], "has no approval"),
    ],
)
def test_what_cannot_be_compiled_is_refused_with_exit_code_2(tmp_path, capsys, content, options, complaint):
    if content is not None:
        (tmp_path / "dag.py").write_text(content)
    assert run([str(tmp_path / "dag.py"), *DOMAIN, *options]) == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.out == ""


def test_the_code_is_written_where_its_owner_can_read_it(tmp_path):
    assert run([str(DAGS / "nightly_analytics.py"), *DOMAIN, "--code-folder", str(tmp_path / "code")]) == 0
    assert (tmp_path / "code" / "aggregate" / "query.sql").read_text().startswith("SELECT")


def test_a_dag_file_is_compiled_without_writing_into_the_users_home(tmp_path):
    (tmp_path / "dag.py").write_text(TWO)
    command = [
        sys.executable,
        "-m",
        "ppml_airflow.operators.compile",
        str(tmp_path / "dag.py"),
        "--dag",
        "one",
        *DOMAIN,
    ]
    subprocess.run(command, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True, capture_output=True)
    assert not (tmp_path / "airflow").exists()
