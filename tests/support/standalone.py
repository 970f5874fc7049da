"""A whole Airflow of processes: scheduler, triggerer, DAG processor and API server, in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

HEALTHY = ("metadatabase", "scheduler", "triggerer", "dag_processor")


class Standalone:
    """`airflow standalone` while entered; `api` talks to it as its administrator."""

    def __init__(self, home: Path, *, dags: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__PARALLELISM": "3",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
            **environment,
        }
        self._log = home / "standalone.log"

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                (sys.executable, "-m", "airflow", "standalone"),
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self.until(self._is_healthy, seconds=120)
            self.api = httpx.Client(base_url=self.url, timeout=30, headers=self._log_in())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    # ---------------------------------------------------------------- runs

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run as the UI's button does; return its id."""
        self.until(lambda: self.api.get(f"/api/v2/dags/{dag_id}").is_success, seconds=60)
        self.api.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).raise_for_status()
        body = {"logical_date": None, "conf": dict(conf or {})}
        answer = self.api.post(f"/api/v2/dags/{dag_id}/dagRuns", json=body)
        answer.raise_for_status()
        return str(answer.json()["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Where a run is."""
        return str(self.api.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}").json()["state"])

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Where its tasks are."""
        found = self.api.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances").json()["task_instances"]
        return {task["task_id"]: task["state"] for task in found}

    def wait_for_run(self, dag_id: str, run_id: str, *, seconds: float = 180) -> str:
        """The state in which a run ends."""
        self.until(lambda: self.run_state(dag_id, run_id) in ("success", "failed"), seconds=seconds)
        return self.run_state(dag_id, run_id)

    def wait_for_task(self, dag_id: str, run_id: str, task: str, state: str, *, seconds: float = 60) -> None:
        """Wait until a task is in a state."""
        self.until(lambda: self.task_states(dag_id, run_id).get(task) == state, seconds=seconds)

    def set_task_state(self, dag_id: str, run_id: str, task: str, state: str) -> None:
        """Set a task's state by hand, as the UI does."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task}"
        self.api.patch(path, json={"new_state": state}).raise_for_status()

    def task_log(self, dag_id: str, run_id: str, task: str, *, attempt: int = 1) -> str:
        """What a task has logged."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task}/logs/{attempt}"
        return json.dumps(self.api.get(path, params={"full_content": True}).json())

    # ---------------------------------------------------------------- starting

    def _is_healthy(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"airflow ended: {self._log.read_text()[-2000:]}")
        try:
            health = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=5).json()
        except (httpx.TransportError, ValueError):
            return False
        return all(health.get(part, {}).get("status") == "healthy" for part in HEALTHY)

    def _log_in(self) -> dict[str, str]:
        passwords = json.loads((self.home / "simple_auth_manager_passwords.json.generated").read_text())
        body = {"username": "admin", "password": passwords["admin"]}
        token = httpx.post(f"{self.url}/auth/token", json=body).json()["access_token"]
        return {"Authorization": f"Bearer {token}"}

    def until(self, is_so: Callable[[], bool], *, seconds: float) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds} s; airflow says: {self._log.read_text()[-3000:]}")
            time.sleep(0.5)
