"""A broker in a process of its own that kills itself by SIGKILL at a chosen point, or is killed from outside.

Points are counted where its state changes hands: before each statement and each commit, before the anchor's new file is
opened and before it takes the old one's place. A kill from outside after so many seconds hits what lies between.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from ppml_airflow.broker.service.anchor import Anchor
from ppml_airflow.broker.service.api import create_app
from ppml_airflow.broker.service.recovery import require_anchored
from ppml_airflow.broker.service.serving import serve
from ppml_airflow.broker.store import Store
from tests.support.broker_world import World


class KillableBroker:
    """Starts and restarts the broker of a world, whose own store must be closed."""

    def __init__(self, world: World, *, database: str) -> None:
        self.socket = world.folder / "killable.sock"
        self.url = f"unix:{self.socket}"
        self._world = world
        self._database = database
        self._process: multiprocessing.process.BaseProcess | None = None
        self._killer: threading.Timer | None = None

    def start(self, *, points: int | None = None) -> None:
        """Start it, to die at the so-manyth point, counted from its start or, once armed, from there."""
        self.socket.unlink(missing_ok=True)
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=self._serve, args=(points,), daemon=True)
        self._process.start()

    def arm(self, *, points: int | None = None, seconds: float | None = None) -> None:
        """Let it die so many points, or seconds, from now."""
        assert self._process is not None
        assert self._process.pid is not None
        if points is not None:
            (self._world.folder / "points").write_text(str(points))
            os.kill(self._process.pid, signal.SIGUSR1)
        if seconds is not None:
            self._killer = threading.Timer(seconds, self.kill)
            self._killer.start()

    def kill(self) -> None:
        """SIGKILL, from outside."""
        if self._process is not None and self._process.pid is not None and self._process.exitcode is None:
            os.kill(self._process.pid, signal.SIGKILL)

    def wait(self) -> int | None:
        """Wait until it is dead."""
        if self._killer is not None:
            self._killer.cancel()
            self._killer = None
        assert self._process is not None
        self._process.join(30)
        return self._process.exitcode

    def wait_until_it_listens(self) -> None:
        """Wait until it answers connections, or is dead."""
        assert self._process is not None
        while self._process.is_alive():
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(self.socket))
                except OSError:
                    time.sleep(0.005)
                else:
                    return

    def _serve(self, points: int | None) -> None:
        world = self._world
        die_at(points, folder=world.folder)
        anchor = Anchor(world.folder / "anchor", key=world.owners.broker)
        broker = dataclasses.replace(world.broker, store=Store.open(self._database), anchor=anchor)
        require_anchored(broker)
        serve(create_app(broker, callers=lambda: world.callers), listen=[self.url])


def die_at(point: int | None, *, folder: Path) -> None:
    """Kill this process at the so-manyth point from now; SIGUSR1 sets the count to what the file `points` says."""
    left = point

    def count(*_: object) -> None:
        nonlocal left
        if left is not None:
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def count_files(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("open", "os.rename") and str(arguments[0]) == str(folder / "anchor.new"):
            count()

    def arm(*_: object) -> None:
        nonlocal left
        left = int((folder / "points").read_text())

    signal.signal(signal.SIGUSR1, arm)
    sa.event.listen(Engine, "before_cursor_execute", count)
    sa.event.listen(Engine, "commit", count)
    sys.addaudithook(count_files)
