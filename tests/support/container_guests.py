"""Real guests in real containers of the image `spark`: as `SparkGuests`, at the daemon that DOCKER_HOST names.

What takes long to fetch, base system and wheels, is shared with the checkout's own home.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from docker import APIClient
from docker.errors import NotFound

from ppml_airflow.attestation.policy import ImageReference
from ppml_airflow.cli.image import build_wheel
from ppml_airflow.enclaves.containers.daemon import connect
from ppml_airflow.enclaves.containers.images import Sources, build_image, measure_container_image
from ppml_airflow.enclaves.quoting.containers import LABEL
from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from ppml_airflow.enclaves.runtimes.docker import DockerRuntime
from tests.support.ready_images import share_container_parts
from tests.support.small_images import wait_until
from tests.support.spark_guests import CHECKOUT, SparkGuests


def containers_of(home: Path, *, docker: APIClient) -> list[dict[str, Any]]:
    """The containers of an installation, as Docker describes them."""
    label = f"{LABEL}={PrivateFolders.of_home(home).root.name}"
    found = []
    for container in docker.containers(all=True, filters={"label": label}):
        with suppress(NotFound):  # it is being removed
            found.append(docker.inspect_container(container["Id"]))
    return found


def first_process(container: str) -> int:
    """The first process of a container, which is its guest, as this machine counts its processes."""
    (found,) = [process for process in processes_in(container) if _number_inside(process) == "1"]
    return found


def processes_in(container: str) -> list[int]:
    """All processes of a container; in its cgroup, whose name holds the container's id."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if container in (process / "cgroup").read_text():
                found.append(int(process.name))
    return found


def _number_inside(process: int) -> str:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(line.split()[-1] for line in lines if line.startswith("NSpid:"))


class ContainerGuests(SparkGuests):
    """An installation with the container image `spark`, its services running while entered."""

    runtime: DockerRuntime  # type: ignore[assignment]  # the other runtime

    def set_up(self, folder: Path) -> None:
        self.docker = connect()
        self.image = self.home / "images"
        share_container_parts(self.home)
        sources = Sources(
            checkout=CHECKOUT,
            domain=self.world.owners.domain,
            wheel=build_wheel(CHECKOUT, into=folder / "wheels"),
            base=None,
        )
        build_image(self.docker, "spark", sources=sources, images=self.image, say=print)
        self.accept_measurement()
        self.runtime = DockerRuntime(self.socket)

    def accept_measurement(self) -> None:
        """What `ppml image measure --runtime docker --accept` does."""
        envelope = self.world.client.policy("standard")
        assert envelope is not None
        version = msgspec.json.decode(envelope.payload)["version"] + 1
        measured = measure_container_image(self.docker, "spark", images=self.image).hex
        policy = self.world.policy(version=version, images={"spark": ImageReference(measurements=(measured,))})
        self.world.client.put_policy(self.world.owners.root.sign(policy))

    def start_service(self, **environment: str) -> None:
        """Start the quoting service, with this in its environment, and wait until it listens."""
        self.socket.unlink(missing_ok=True)
        command = [sys.executable, "-m", "ppml_airflow.enclaves.quoting", "--home", str(self.home)]
        command += ["--socket", str(self.socket), "--storage", str(self.guests.storage)]
        command += ["--broker", f"unix:{self._broker_socket}"]
        self.service = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | environment)
        wait_until(self.socket.exists)

    def stop_service(self) -> None:
        """Stop the quoting service in good order."""
        self.service.terminate()
        self.service.wait(20)

    def containers(self) -> list[dict[str, Any]]:
        """The containers of this installation, as Docker describes them."""
        return containers_of(self.home, docker=self.docker)

    def read(self, path: str) -> str:
        """A file as the only container's own user reads it."""
        (container,) = self.containers()
        started = self.docker.exec_create(container["Id"], ["cat", path])
        return bytes(self.docker.exec_start(started["Id"])).decode()

    def guest(self) -> int:
        """The guest of the only container, as this machine counts its processes."""
        (container,) = self.containers()
        return first_process(container["Id"])
