"""Asking an owner's or recipient's agent for something: one verb, one name, one run, and waiting until it is done."""

from __future__ import annotations

import time
from typing import Literal, Protocol

from ppml_airflow.errors import BY_KIND, PpmlError, UnavailableError
from ppml_airflow.protocol.client import JsonClient, patiently
from ppml_airflow.protocol.messages import AgentTask, AgentTaskView, Published

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0


class Progress(Protocol):
    """What a logger's `info` looks like."""

    def __call__(self, event: str, /, *values: object) -> object: ...


def run_agent_task(
    agent: JsonClient,
    *,
    verb: Literal["seal", "deliver"],
    name: str,
    run_id: str,
    progress: Progress,
    patience_s: float = 0,
) -> Published:
    """Have an agent seal or deliver, and wait. Asked again for the same run it answers with the same version.

    Args:
        agent: a client of it.
        verb: what it shall do.
        name: of the dataset, in the agent's own file.
        run_id: the broker's.
        progress: told how far it is.
        patience_s: how long an agent that does not answer, or cannot do it now, is asked anew.

    Raises:
        PpmlError: what the agent refused, of the class that it had there.
        UnavailableError: the agent does not answer, or is done without saying with what.
    """
    task, task_id = AgentTask(verb=verb, name=name, run_id=run_id), ""

    def ask() -> AgentTaskView:
        nonlocal task_id
        try:
            if task_id:
                view = agent.call("GET", f"/v1/tasks/{task_id}", into=AgentTaskView)
            else:
                view = agent.call("POST", "/v1/tasks", body=task, into=AgentTaskView)
            if view.state == "failed":
                raise BY_KIND.get(view.kind, PpmlError)(view.reason, code=view.code, hint=view.hint)
        except UnavailableError:
            task_id = ""  # the agent is away or forgot the task by a restart: it is asked for anew
            raise
        task_id = view.task_id
        return view

    view = patiently(ask, seconds=patience_s)
    pause_s, shown = FIRST_PAUSE_S, -1
    while view.state == "running":
        if view.percent > shown:
            shown = view.percent
            progress("%s %s: %d %%", verb, name, shown)
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)
        view = patiently(ask, seconds=patience_s)
    if view.published is None:
        raise UnavailableError(f"agent is done with {verb} {name} but names no version")
    progress("%s %s: version %d, %s", verb, name, view.published.version, view.published.manifest)
    if view.location:
        progress("%s %s: opened at %s", verb, name, view.location)
    return view.published
