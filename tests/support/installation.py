"""What `ppml up` starts on a home of its own: Airflow's services, broker, agents, quoting service."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.airflow_api import AirflowApi
from tests.support.commands import Commands, processes_of
from tests.support.ready_images import share_container_parts, take_over_images


class Installation:
    """What `ppml up` says of a home."""

    def __init__(self, ppml: Commands) -> None:
        self.ppml = ppml
        self.home = ppml.home
        said = self.ppml("up").stdout
        self.told = dict(re.findall(r"^(\S+): (.*)$", said, flags=re.MULTILINE))
        self.airflow = AirflowApi(self.told["ui"], password_file=Path(self.told["password-file"]))

    def service(self, name: str) -> int | None:
        """The process of a service, or None between its end and its next start."""
        file = self.home / "run" / f"{name}.pid"
        return int(file.read_text() or 0) or None if file.exists() else None

    def approve(self, pipeline: str, *options: str) -> None:
        """Approve a pipeline as its owner."""
        compiled = self.home / f"{pipeline}.json"
        self.ppml("compile", str(self.home / "dags" / f"{pipeline}.py"), "--out", str(compiled), *options)
        self.ppml("approve", str(compiled), "--yes")


@contextmanager
def installed(**environment: str) -> Iterator[Installation]:
    """An installation while the block runs, with this in its environment; afterwards no process of it is left."""
    home = Path(tempfile.mkdtemp(prefix="ppml-"))
    if environment.get("PPML_RUNTIME") == "docker":
        share_container_parts(home)
    else:
        take_over_images(home, "spark")
    try:
        found = Installation(Commands(home, environment))
        try:
            yield found
        finally:
            found.ppml("down")
            assert processes_of(home) == []
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def changed(installation: Installation, file: str, old: str, new: str) -> Iterator[None]:
    """A file among the DAGs with one text replaced by another."""
    path = installation.home / "dags" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    try:
        yield
    finally:
        path.write_text(text)
