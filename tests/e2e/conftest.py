"""One home for the pipelines that need none of their own, and one running installation: images are set up once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import Commands, processes_of
from tests.support.installation import Installation, installed
from tests.support.ready_images import ready_images, take_over_images


@pytest.fixture(scope="session")
def ppml() -> Iterator[Commands]:
    """The command line on that home; at the end no process of it is left."""
    home = Path(tempfile.mkdtemp(prefix="ppml-"))
    take_over_images(home, *ready_images())
    yield Commands(home)
    left = processes_of(home)
    shutil.rmtree(home, ignore_errors=True)
    assert left == []


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """What `ppml up` starts: Airflow's services, broker, agents; nothing is approved in it."""
    with installed() as found:
        yield found


@pytest.fixture(autouse=True)
def _sources_of_its_own(request: pytest.FixtureRequest) -> None:
    """Agents keep the sources that were named once; here no test has those of another."""
    if "ppml" in request.fixturenames:
        home: Path = request.getfixturevalue("ppml").home
        for file in home.glob("agents/*/agent.yaml"):
            file.unlink()
