"""An agent as a process of its own, started as it is in production."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, Self

from ppml_airflow.protocol.client import JsonClient
from ppml_airflow.protocol.messages import AgentTask, AgentTaskView

ROOT = Path(__file__).parents[2]


class AgentProcess:
    """`python -m ppml_airflow.agent --config FILE`, ready once entered, ended on leaving."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.log = config.parent / "agent.log"
        self.address = ""

    def __enter__(self) -> Self:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ppml_airflow.agent", "--config", str(self.config)],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
            )
        assert self.process.stdout is not None
        word, _, self.address = self.process.stdout.readline().strip().partition(" ")
        assert word == "ready", self.log.read_text()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        assert self.process.stdout is not None
        code = self.process.wait(20)
        self.process.stdout.close()
        return code

    def client(self) -> JsonClient:
        return JsonClient(self.address)

    def ask(self, verb: Literal["seal", "deliver"], name: str, run_id: str) -> AgentTaskView:
        with self.client() as client:
            task = AgentTask(verb=verb, name=name, run_id=run_id)
            return client.call("POST", "/v1/tasks", body=task, into=AgentTaskView)

    def wait(self, verb: Literal["seal", "deliver"], name: str, run_id: str) -> AgentTaskView:
        """Ask, and wait until it is done or has failed."""
        view = self.ask(verb, name, run_id)
        with self.client() as client:
            for _ in range(2000):
                if view.state != "running":
                    return view
                time.sleep(0.01)
                view = client.call("GET", f"/v1/tasks/{view.task_id}", into=AgentTaskView)
        raise AssertionError("task does not end")
