"""Opening at the recipient's place: the result never passes through Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from ppml_airflow.operators.errors import airflow_errors
from ppml_airflow.operators.hook import PpmlHook
from ppml_airflow.operators.runs import open_run
from ppml_airflow.protocol.agents import run_agent_task

if TYPE_CHECKING:
    from airflow.sdk import Context


class DecryptOperator(BaseOperator):
    """Have the recipient's agent fetch the release key and open an output of this run into its own sink.

    Args:
        dataset: the name in the agent's own file, which says what it means: output and sink.
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
        agent: str = "recipient",
        pipeline: str | None = None,
        ppml_conn_id: str = PpmlHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(task_id=task_id or f"decrypt_{dataset}", **kwargs)
        self.dataset = dataset
        self.agent = agent
        self.pipeline = pipeline
        self.ppml_conn_id = ppml_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Return `{dataset, version, manifest}` of what was opened."""
        with airflow_errors(self.dag.fileloc):
            hook = PpmlHook(self.ppml_conn_id)
            with hook.broker() as broker:
                run = open_run(broker, context=context, pipeline=self.pipeline, patience_s=hook.patience_s)
            with hook.agent(self.agent) as agent:
                opened = run_agent_task(
                    agent, verb="deliver", name=self.dataset, run_id=run.run_id, progress=self.log.info
                )
            return {"dataset": opened.dataset, "version": opened.version, "manifest": opened.manifest}
