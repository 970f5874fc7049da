"""Sealing at the owner's place: the data never passes through Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators.agents import AgentOperator, reference
from ppml_airflow.operators.errors import airflow_errors

if TYPE_CHECKING:
    from airflow.sdk import Context


class EncryptOperator(AgentOperator):
    """Have the owner's agent seal a dataset for this run. Asked again it answers with the same version.

    Args:
        dataset: the name in the agent's own file, which says what it means; also the name of the dataset.
        agent: which agent; its address is the connection's extra `<agent>_agent`.
        kwargs: as for `AgentOperator` and every operator.
    """

    def __init__(self, *, dataset: str, task_id: str = "", agent: str = "owner", **kwargs: Any) -> None:
        super().__init__(dataset=dataset, task_id=task_id or f"encrypt_{dataset}", agent=agent, **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        """Return `{dataset, version, manifest}` of what was sealed."""
        with airflow_errors(self.dag.fileloc):
            sealed = self.ask_agent("seal", context=context)
            if sealed.dataset != self.dataset:
                raise ConfigurationError(
                    f"agent {self.agent} seals {self.dataset} as the dataset {sealed.dataset}; the names must be alike",
                    code="other_dataset",
                )
            return reference(sealed)
