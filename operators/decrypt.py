"""Opening at the recipient's place: the result never passes through Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppml_airflow.operators.agents import AgentOperator, reference
from ppml_airflow.operators.errors import airflow_errors

if TYPE_CHECKING:
    from airflow.sdk import Context


class DecryptOperator(AgentOperator):
    """Have the recipient's agent fetch the release key and open an output of this run into its own sink.

    Args:
        dataset: the name in the agent's own file, which says what it means: output and sink.
        agent: which agent; its address is the connection's extra `<agent>_agent`.
        kwargs: as for `AgentOperator` and every operator.
    """

    def __init__(self, *, dataset: str, task_id: str = "", agent: str = "recipient", **kwargs: Any) -> None:
        super().__init__(dataset=dataset, task_id=task_id or f"decrypt_{dataset}", agent=agent, **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        """Return `{dataset, version, manifest}` of what was opened."""
        with airflow_errors(self.dag.fileloc):
            return reference(self.ask_agent("deliver", context=context))
