"""Asking an agent from a task: Airflow names a dataset and a run, the agent's own file says what that means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseOperator

from ppml_airflow.operators.hook import PpmlHook
from ppml_airflow.operators.runs import open_run
from ppml_airflow.protocol.agents import run_agent_task

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ppml_airflow.protocol.messages import Published


class AgentOperator(BaseOperator):
    """What EncryptOperator and DecryptOperator have in common.

    Args:
        dataset: the name in the agent's own file, which says what it means.
        agent: which agent; its address is the connection's extra `<agent>_agent`.
        pipeline: name of the approved pipeline; the dag_id if None.
        ppml_conn_id: the connection.
    """

    ui_color = "#e0f2e9"

    def __init__(
        self,
        *,
        dataset: str,
        agent: str,
        pipeline: str | None = None,
        ppml_conn_id: str = PpmlHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.agent = agent
        self.pipeline = pipeline
        self.ppml_conn_id = ppml_conn_id

    def ask_agent(self, verb: Literal["seal", "deliver"], *, context: Context) -> Published:
        """Open the run, have the agent do this for it, and wait."""
        hook = PpmlHook(self.ppml_conn_id)
        with hook.broker() as broker:
            run = open_run(broker, context=context, pipeline=self.pipeline, patience_s=hook.patience_s)
        with hook.agent(self.agent) as agent:
            return run_agent_task(
                agent,
                verb=verb,
                name=self.dataset,
                run_id=run.run_id,
                progress=self.log.info,
                patience_s=hook.patience_s,
            )


def reference(published: Published) -> dict[str, Any]:
    """What goes into XCom: names and digests only."""
    return {"dataset": published.dataset, "version": published.version, "manifest": published.manifest}
