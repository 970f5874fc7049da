"""Sealing at the owner's place: Airflow names a dataset and a run, the owner's agent does the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators.errors import airflow_errors
from ppml_airflow.operators.hook import PpmlHook
from ppml_airflow.operators.runs import open_run
from ppml_airflow.protocol.agents import run_agent_task

if TYPE_CHECKING:
    from airflow.sdk import Context


class EncryptOperator(BaseOperator):
    """Have the owner's agent seal a dataset for this run. Asked again it answers with the same version.

    Args:
        dataset: the name in the agent's own file, which says what it means; also the name of the dataset.
        agent: which agent; its address is the connection's extra `<agent>_agent`.
        pipeline: name of the approved pipeline; the dag_id if None.
        ppml_conn_id: the connection.
    """

    ui_color = "#e0f2e9"

    def __init__(
        self,
        *,
        dataset: str,
        task_id: str = "",
        agent: str = "owner",
        pipeline: str | None = None,
        ppml_conn_id: str = PpmlHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(task_id=task_id or f"encrypt_{dataset}", **kwargs)
        self.dataset = dataset
        self.agent = agent
        self.pipeline = pipeline
        self.ppml_conn_id = ppml_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Return `{dataset, version, manifest}` of what was sealed."""
        with airflow_errors(self.dag.fileloc):
            hook = PpmlHook(self.ppml_conn_id)
            with hook.broker() as broker:
                run = open_run(broker, context=context, pipeline=self.pipeline, patience_s=hook.patience_s)
            with hook.agent(self.agent) as agent:
                sealed = run_agent_task(
                    agent, verb="seal", name=self.dataset, run_id=run.run_id, progress=self.log.info
                )
            if sealed.dataset != self.dataset:
                raise ConfigurationError(
                    f"agent {self.agent} seals {self.dataset} as the dataset {sealed.dataset}; the names must be alike",
                    code="other_dataset",
                )
            return {"dataset": sealed.dataset, "version": sealed.version, "manifest": sealed.manifest}
