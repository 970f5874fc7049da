"""The end of a run: close it at the broker, keep its passport, and let the DAG run's state be honest."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from ppml_airflow import canonical
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators.errors import airflow_errors
from ppml_airflow.operators.hook import PpmlHook
from ppml_airflow.operators.runs import open_run
from ppml_airflow.protocol.client import patiently
from ppml_airflow.protocol.messages import RunView
from ppml_airflow.units import spell_trust

if TYPE_CHECKING:
    from airflow.sdk import Context

FAILED = ("failed", "upstream_failed")


class PassportOperator(BaseOperator):
    """Close the run and store its passport; a failed run has one, too. No step gets a key in this run afterwards.

    Runs when everything before it is done, well or ill, and then fails the DAG run if a task before it failed or a
    step is not committed at the broker, whatever Airflow's task states say.

    Args:
        pipeline: name of the approved pipeline; the dag_id if None.
        ppml_conn_id: the connection.
    """

    ui_color = "#f2ecd9"

    def __init__(
        self,
        *,
        task_id: str = "passport",
        pipeline: str | None = None,
        ppml_conn_id: str = PpmlHook.default_conn_name,
        trigger_rule: str = "all_done",
        **kwargs: Any,
    ) -> None:
        super().__init__(task_id=task_id, trigger_rule=trigger_rule, **kwargs)
        self.pipeline = pipeline
        self.ppml_conn_id = ppml_conn_id

    def execute(self, context: Context) -> dict[str, str]:
        """Return `{run_id, digest, path}` of the passport."""
        with airflow_errors(self.dag.fileloc):
            hook = PpmlHook(self.ppml_conn_id)
            with hook.broker() as broker:
                run = open_run(broker, context=context, pipeline=self.pipeline, patience_s=hook.patience_s)
                patiently(lambda: broker.close_run(run.run_id), seconds=hook.patience_s)
                passport = broker.passport(run.run_id)
                closed = broker.run(run.run_id)
            path = store_passport(passport, folder=hook.passports, run_id=run.run_id)
        digest = canonical.digest_bytes(passport)
        self.log.info("passport %s stored at %s, trust: %s", digest, path, spell_trust(closed.trust))
        unfinished = self._failed_tasks(context) + _uncommitted_steps(closed)
        if unfinished:
            raise AirflowFailException(f"run {run.run_id} is not complete: {', '.join(unfinished)}; see {path}")
        return {"run_id": run.run_id, "digest": digest, "path": str(path)}

    def _failed_tasks(self, context: Context) -> list[str]:
        run_id = context["dag_run"].run_id
        states = context["ti"].get_task_states(dag_id=self.dag_id, run_ids=[run_id]).get(run_id, {})
        upstream = self.get_flat_relative_ids(upstream=True)
        return [
            f"task {task} {state}" for task, state in sorted(states.items()) if task in upstream and state in FAILED
        ]


def store_passport(passport: bytes, *, folder: Path, run_id: str) -> Path:
    """Write `<folder>/<run_id>.json`, whole or not at all.

    Raises:
        ConfigurationError: the folder cannot be written to.
    """
    path = folder / f"{run_id}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".passport-", delete=False) as file:
            file.write(passport)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).chmod(0o644)
        Path(file.name).replace(path)
    except OSError as error:
        raise ConfigurationError(f"passports {folder} cannot be written to: {error.strerror}") from error
    return path


def _uncommitted_steps(run: RunView) -> list[str]:
    return [f"step {step.step} {step.state}" for step in run.steps if step.state != "committed"]
