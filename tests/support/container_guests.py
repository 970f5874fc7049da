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
from docker.errors import NotFound

from ppml_airflow.attestation.policy import ImageReference
from ppml_airflow.cli.image import build_wheel
from ppml_airflow.enclaves.containers.daemon import connect
from ppml_airflow.enclaves.containers.images import Sources, build_image, measure_container_image
from ppml_airflow.enclaves.quoting.containers import LABEL
from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from ppml_airflow.enclaves.runtimes.docker import DockerRuntime
from tests.support.small_images import wait_until
from tests.support.spark_guests import CHECKOUT, SparkGuests


class ContainerGuests(SparkGuests):
    """An installation with the container image `spark`, its services running while entered."""

    runtime: DockerRuntime  # type: ignore[assignment]  # the other runtime

    def set_up(self, folder: Path) -> None:
        self.docker = connect()
        self.image = self.home / "images"
        self._share_caches()
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

    def start_service(self) -> None:
        """Start the quoting service and wait until it listens."""
        self.socket.unlink(missing_ok=True)
        command = [sys.executable, "-m", "ppml_airflow.enclaves.quoting", "--home", str(self.home)]
        command += ["--socket", str(self.socket), "--storage", str(self.guests.storage)]
        command += ["--broker", f"unix:{self._broker_socket}"]
        self.service = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until(self.socket.exists)

    def containers(self) -> list[dict[str, Any]]:
        """The containers of this installation, as Docker describes them."""
        label = f"{LABEL}={PrivateFolders.of_home(self.home).root.name}"
        found = []
        for container in self.docker.containers(all=True, filters={"label": label}):
            with suppress(NotFound):  # it is being removed
                found.append(self.docker.inspect_container(container["Id"]))
        return found

    def read(self, path: str) -> str:
        """A file as the only container's own user reads it."""
        (container,) = self.containers()
        started = self.docker.exec_create(container["Id"], ["cat", path])
        return bytes(self.docker.exec_start(started["Id"])).decode()

    def _share_caches(self) -> None:
        self.image.mkdir(parents=True)
        shared = Path(os.environ.get("PPML_HOME", CHECKOUT / ".ppml")) / "images"
        for name in (".bases", ".wheelhouses"):
            (shared / name).mkdir(parents=True, exist_ok=True)
            (self.image / name).symlink_to(shared / name)
