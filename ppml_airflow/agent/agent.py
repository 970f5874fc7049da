"""What an agent does with a task: look the name up in its map, verify the run, seal or deliver. Nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from ppml_airflow.agent.journal import exclusive
from ppml_airflow.agent.owner import Owner
from ppml_airflow.agent.recipient import Recipient
from ppml_airflow.agent.runs import fetch_run, require_pipeline
from ppml_airflow.agent.settings import Delivery, Seal, Settings
from ppml_airflow.agent.tasks import Outcome, Progress
from ppml_airflow.errors import PolicyDeniedError
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.protocol.messages import AgentTask


class Agent:
    """An owner's or recipient's agent, or both."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._owner = Owner(settings)
        self._recipient = Recipient(settings)

    @classmethod
    @contextmanager
    def start(cls, settings: Settings) -> Iterator[Agent]:
        """Become the only agent of these settings, and sweep what a killed one left.

        Raises:
            ConfigurationError: another agent runs with them.
        """
        with exclusive(settings.state):
            agent = cls(settings)
            agent._recipient.sweep()
            with BrokerClient(settings.broker, token=settings.token, timeout_s=5.0) as broker:
                agent._owner.sweep(broker)
            yield agent

    def perform(self, task: AgentTask, progress: Progress) -> Outcome:
        """Do one task.

        Raises:
            PolicyDeniedError: the name is not in the map, or not for the run's pipeline (`not_in_map`).
            PpmlError: why it cannot be done.
        """
        entry = self._entry(task)
        domain, now = self._settings.domain, datetime.now(UTC)
        with BrokerClient(self._settings.broker, token=self._settings.token) as broker:
            verified = fetch_run(broker, run_id=task.run_id, domain=domain, now=now)
            require_pipeline(verified.run, pipelines=entry.pipelines, name=f"{task.verb} {task.name}")
            if isinstance(entry, Seal):
                published = self._owner.seal(entry, verified=verified, progress=progress)
                return Outcome(published=published, location="")
            published = self._recipient.deliver(entry, verified=verified, progress=progress)
            return Outcome(published=published, location=str(entry.sink))

    def _entry(self, task: AgentTask) -> Seal | Delivery:
        entries = self._settings.seals if task.verb == "seal" else self._settings.delivers
        entry = entries.get(task.name)
        if entry is None:
            known = ", ".join(sorted(entries)) or "none"
            raise PolicyDeniedError(
                f"{task.verb} {task.name} is not in this agent's map, which has: {known}",
                code="not_in_map",
                hint="the agent's holder adds the name to agent.yaml",
            )
        return entry
