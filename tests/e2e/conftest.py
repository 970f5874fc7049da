"""One home for the pipelines that need none of their own, and one running installation: images are set up once.

The same for tests of the docker runtime, whose images are built for each domain.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker import APIClient

from ppml_airflow.enclaves.containers.daemon import connect
from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from tests.support.commands import Commands, processes_of
from tests.support.container_guests import ContainerGuests, containers_of
from tests.support.inference import write_sources
from tests.support.installation import Installation, installed
from tests.support.ready_images import ready_images, share_container_parts, take_over_images


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


@pytest.fixture(scope="session")
def docker() -> APIClient:
    """The daemon that DOCKER_HOST names."""
    return connect()


@pytest.fixture(scope="session")
def container_guests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerGuests]:
    """Guests in containers of the image `spark`."""
    with ContainerGuests(tmp_path_factory.mktemp("containers")) as guests:
        yield guests
    require_nothing_left(guests.home, docker=guests.docker)


@pytest.fixture(scope="session")
def container_installation(docker: APIClient) -> Iterator[Installation]:
    """What `ppml up` starts where enclaves are containers, with the images `spark` and `python`."""
    with installed(PPML_RUNTIME="docker", DOCKER_HOST=os.environ["DOCKER_HOST"]) as found:
        found.ppml("image", "build", "python")
        yield found
    require_nothing_left(found.home, docker=docker)


@pytest.fixture(scope="session")
def joint_containers(docker: APIClient) -> Iterator[Commands]:
    """A home of two owners, whose enclaves are containers of the image `inference`."""
    home = Path(tempfile.mkdtemp(prefix="ppml-"))
    share_container_parts(home)
    commands = Commands(home, {"DOCKER_HOST": os.environ["DOCKER_HOST"]})
    commands("domain", "create", "--owners", "2", "--threshold", "2")
    yield commands
    left = processes_of(home)
    shutil.rmtree(home, ignore_errors=True)
    assert left == []
    require_nothing_left(home, docker=docker)


@pytest.fixture(scope="session")
def inference_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and data for it."""
    return write_sources(tmp_path_factory.mktemp("inference"))


def require_nothing_left(home: Path, *, docker: APIClient) -> None:
    """No container, and no private directory."""
    assert containers_of(home, docker=docker) == []
    root = PrivateFolders.of_home(home).root
    assert list(root.iterdir()) == []
    root.rmdir()


@pytest.fixture(autouse=True)
def _sources_of_its_own(request: pytest.FixtureRequest) -> None:
    """Agents keep the sources that were named once; here no test has those of another."""
    if "ppml" in request.fixturenames:
        home: Path = request.getfixturevalue("ppml").home
        for file in home.glob("agents/*/agent.yaml"):
            file.unlink()
