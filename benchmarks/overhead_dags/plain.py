"""The peer: as many tasks, copies in place of sealing and opening, sensors that defer once, a bare spark-submit."""

import json
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pendulum
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseSensorOperator, Param, task

HERE = Path(__file__).with_suffix("")
SETTINGS = json.loads((HERE / "settings.json").read_text())
"""Paths of the tables and of a scratch folder, and the environment and command of spark-submit."""


class DeferOnce(BaseSensorOperator):
    """What a gate costs Airflow at least."""

    def execute(self, context: Any) -> None:
        self.defer(trigger=TimeDeltaTrigger(timedelta(milliseconds=100)), method_name="execute_complete")

    def execute_complete(self, context: Any, event: Any) -> None:
        """Nothing more to wait for."""


@task
def copy(source: str, target: str) -> None:
    """Copy a file or a folder."""
    path = Path(SETTINGS["scratch"]) / target
    shutil.rmtree(path, ignore_errors=True)
    if Path(source).is_dir():
        shutil.copytree(source, path)
    else:
        shutil.copy(source, path)


@task
def work(*, params: dict[str, Any]) -> None:
    """The bare spark-submit."""
    scratch = Path(SETTINGS["scratch"])
    program = [str(HERE / "plain_work.py"), str(params["rounds"]), str(scratch / "visits"), str(scratch / "report")]
    subprocess.run([*SETTINGS["submit"], *program], env=SETTINGS["environment"], check=True, capture_output=True)


@task
def list_files() -> list[str]:
    """The last task: what there is."""
    return sorted(path.name for path in Path(SETTINGS["scratch"]).iterdir())


with DAG(
    "plain",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    params={"rounds": Param(1000, type="integer")},
):
    copies = [copy.override(task_id=f"copy_{name}")(path, name) for name, path in SETTINGS["tables"].items()]
    opened = copy.override(task_id="copy_report")(str(Path(SETTINGS["scratch"]) / "report"), "opened")
    copies >> DeferOnce(task_id="wait_before") >> work() >> DeferOnce(task_id="wait_after") >> opened >> list_files()
