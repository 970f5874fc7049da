"""A running Airflow as its administrator sees it: start runs, watch them, set states by hand, as the UI does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

HEALTHY = ("metadatabase", "scheduler", "triggerer", "dag_processor")


class AirflowApi:
    """Airflow's REST API at this address; the password is read from the file that Airflow's auth manager keeps."""

    def __init__(self, url: str, *, password_file: Path) -> None:
        self.user, self.password = "admin", str(json.loads(password_file.read_text())["admin"])
        login = {"username": self.user, "password": self.password}
        answer = httpx.post(f"{url}/auth/token", json=login, timeout=30)
        self.http = httpx.Client(
            base_url=url, timeout=30, headers={"Authorization": f"Bearer {answer.json()['access_token']}"}
        )

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run as the UI's button does; return its id."""
        until(lambda: self.http.get(f"/api/v2/dags/{dag_id}").is_success, seconds=60)
        self.http.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).raise_for_status()
        body = {"logical_date": None, "conf": dict(conf or {})}
        answer = self.http.post(f"/api/v2/dags/{dag_id}/dagRuns", json=body)
        answer.raise_for_status()
        return str(answer.json()["dag_run_id"])

    def runs(self, dag_id: str) -> dict[str, str]:
        """The states of a DAG's runs."""
        found = self.http.get(f"/api/v2/dags/{dag_id}/dagRuns").json()["dag_runs"]
        return {run["dag_run_id"]: run["state"] for run in found}

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """The states of a run's tasks."""
        found = self.http.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances").json()["task_instances"]
        return {task["task_id"]: task["state"] for task in found}

    def wait_for_run(self, dag_id: str, run_id: str, *, seconds: float = 240) -> str:
        """The state in which a run ends."""
        until(lambda: self.runs(dag_id).get(run_id) in ("success", "failed"), seconds=seconds)
        return self.runs(dag_id)[run_id]

    def wait_for_task(self, dag_id: str, run_id: str, task: str, *states: str, seconds: float = 120) -> None:
        """Wait until a task is in one of these states."""
        until(lambda: self.task_states(dag_id, run_id).get(task) in states, seconds=seconds)

    def set_task_state(self, dag_id: str, run_id: str, task: str, state: str) -> None:
        """Set a task's state by hand."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task}"
        self.http.patch(path, json={"new_state": state}).raise_for_status()

    def clear_task(self, dag_id: str, run_id: str, task: str) -> None:
        """Have a task run again, alone."""
        body = {"dag_run_id": run_id, "task_ids": [task], "dry_run": False, "only_failed": False}
        self.http.post(f"/api/v2/dags/{dag_id}/clearTaskInstances", json=body).raise_for_status()

    def xcom(self, dag_id: str, run_id: str, task: str) -> Any:
        """What a task has returned."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task}/xcomEntries/return_value"
        return self.http.get(path).json()["value"]

    def task_log(self, dag_id: str, run_id: str, task: str, *, attempt: int = 1) -> str:
        """What a task has logged."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task}/logs/{attempt}"
        return json.dumps(self.http.get(path, params={"full_content": True}).json())


def is_healthy(url: str) -> bool:
    """Whether every part of Airflow says that it is well."""
    try:
        health = httpx.get(f"{url}/api/v2/monitor/health", timeout=5).json()
    except (httpx.TransportError, ValueError):
        return False
    return all(health.get(part, {}).get("status") == "healthy" for part in HEALTHY)


def until(is_so: Callable[[], bool], *, seconds: float, complaint: Callable[[], str] = str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s; {complaint()}")
        time.sleep(0.5)
