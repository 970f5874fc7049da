"""Guests in containers: started by image id, with nothing but what they need, each known by one connection to a socket.

    /                 the image, read-only; no capabilities, no new privileges, no network, not root
    /private          memory: the guest's private directory, gone with the container
    /run/ppml         `guest.sock`, which takes one connection and is then removed, before any job code is there;
                      `broker.sock`, which leads to the broker
    /storage/DATASET  sealed inputs read-only, sealed outputs and the sealed log writable

The measurement is the id of the image as the daemon says it, never what a request says.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Approval, Limits, Run, Step
from ppml_airflow.domain.jobs import require_step
from ppml_airflow.enclaves.containers.daemon import connect, docker_errors
from ppml_airflow.enclaves.containers.images import measure_container_image
from ppml_airflow.enclaves.measurement import Measurement
from ppml_airflow.enclaves.quoting.container_guest import ContainerGuest, remove_container
from ppml_airflow.enclaves.quoting.meeting import Meeting
from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from ppml_airflow.errors import ConfigurationError, PpmlError
from ppml_airflow.protocol.messages import LaunchRequest
from ppml_airflow.units import MIB
from ppml_airflow.users import Users

if TYPE_CHECKING:
    from docker import APIClient

_log = logging.getLogger(__name__)
LABEL = "ppml.installation"
_MEETING, _STORAGE, _PRIVATE = "/run/ppml", "/storage", "/private"
_ROOTS_GUEST = 10001
"""User, and group, that images name for a guest whose service runs as root; else a guest has the service's own."""
_PIDS = 2048
_GUEST_MIB = 512
"""What the guest itself takes, beside its job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What a container is given for one step."""

    limits: Limits
    reads: frozenset[str]
    writes: frozenset[str]


class ContainerHost:
    """The containers of one installation, at the daemon that DOCKER_HOST names.

    Args:
        images: PPML_HOME/images.
        storage: the folder of sealed datasets, the only one that is mounted.
        broker: its address, the only one that is led to.
        folders: where the sockets of guests lie.
        users: whose group for the storage guests get. Containers keep guests apart from each other.
        daemon: gives a client of the daemon, when first needed.
    """

    def __init__(
        self,
        *,
        images: Path,
        storage: Path,
        broker: str | None,
        folders: PrivateFolders,
        users: Users | None = None,
        daemon: Callable[[], APIClient] = connect,
    ) -> None:
        self._images = images
        self._storage = storage.resolve()
        self._broker = broker
        self._folders = folders
        self._daemon = daemon
        self._connected: APIClient | None = None
        self._connecting = threading.Lock()
        root, group = os.getuid() == 0, users.storage_group if users else _ROOTS_GUEST
        self._user = (_ROOTS_GUEST, group) if root else (os.getuid(), os.getgid())
        self._shares_by_group = users is not None

    @property
    def _client(self) -> APIClient:
        with self._connecting:
            if self._connected is None:
                self._connected = self._daemon()
            return self._connected

    @property
    def _label(self) -> str:
        return self._folders.root.name

    def measure(self, name: str) -> Measurement:
        """Measure the container image of this name now.

        Raises:
            ConfigurationError: it is not there. It is never pulled.
            UnavailableError: no daemon.
        """
        return measure_container_image(self._client, name, images=self._images)

    def start(self, request: LaunchRequest, *, measurement: Measurement) -> ContainerGuest:
        """Start a guest from the image of this measurement.

        Raises:
            PpmlError: the request names another storage, or what Docker refused.
        """
        if self._broker is None:
            raise ConfigurationError("the quoting service was not told a broker, which containers need: --broker")
        if Path(request.storage).resolve() != self._storage:
            raise ConfigurationError(f"storage {request.storage} is not this installation's, {self._storage}")
        step = _step(request)
        meeting = Meeting(self._folders.make(in_memory=False), user=self._user, broker=self._broker)
        try:
            with docker_errors(image=request.image):
                container = self._create(request, step, measurement=measurement, meeting=meeting.folder)
        except BaseException:
            meeting.close(self._folders)
            raise
        return ContainerGuest(self._client, container, measurement=measurement, meeting=meeting, folders=self._folders)

    def line_for(self, request: LaunchRequest) -> bytes:
        """The request as a container gets it: with storage and broker where they are in there."""
        inside = msgspec.structs.replace(request, storage=_STORAGE, broker=f"unix:{_MEETING}/broker.sock")
        return canonical.encode(inside)

    def sweep_all(self) -> None:
        """Remove every container of this installation: at the start of the service, when none can be in use."""
        try:
            with docker_errors():
                found = self._client.containers(all=True, filters={"label": f"{LABEL}={self._label}"})
        except PpmlError as error:
            _log.info("no containers to sweep: %s", error)
            return
        for container in found:
            _log.info("removing container %s, left by a crash", container["Id"][:12])
            remove_container(self._client, container["Id"])

    def _create(self, request: LaunchRequest, step: _Step, *, measurement: Measurement, meeting: Path) -> str:
        client = self._client
        binds = {str(meeting): {"bind": _MEETING, "mode": "ro"}}
        for name in sorted(step.reads | step.writes):
            folder = self._storage / name
            _give(folder, user=-1 if self._shares_by_group else self._user[0], group=self._user[1])
            binds[str(folder)] = {"bind": f"{_STORAGE}/{name}", "mode": "rw" if name in step.writes else "ro"}
        host_config = client.create_host_config(
            **confinement(step.limits, user=self._user), binds=binds, log_config={"Type": "none"}
        )
        created = client.create_container(
            image=f"sha256:{measurement.hex}",
            user=":".join(map(str, self._user)),
            host_config=host_config,
            labels={LABEL: self._label, "ppml.step": request.step},
        )
        return str(created["Id"])


def confinement(limits: Limits, *, user: tuple[int, int]) -> dict[str, Any]:
    """How a container of these limits is confined, as arguments of docker-py's `create_host_config`."""
    memory = (2 * limits.memory_mib + _GUEST_MIB) * MIB  # the job, its private directory, the guest
    scratch = f"rw,exec,nosuid,nodev,mode=0700,size={limits.memory_mib}m,uid={user[0]},gid={user[1]}"
    return {
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "network_mode": "none",
        "pids_limit": _PIDS,
        "mem_limit": memory,
        "memswap_limit": memory,
        "nano_cpus": limits.cores * 10**9,
        "tmpfs": {_PRIVATE: scratch},
        "ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        "init": False,
        "privileged": False,
    }


def _step(request: LaunchRequest) -> _Step:
    """What the request's documents say of the step. Not verified here: it only chooses among what is ours."""
    step: Step = require_step(canonical.decode(request.bundle.approval.payload, into=Approval), name=request.step)
    writes = {output.dataset for output in step.outputs}
    if request.role != "preflight":
        run = canonical.decode(request.bundle.run.payload, into=Run)
        writes.add(f"logs/{run.run_id}")
    reads = frozenset(item.dataset for item in step.inputs)
    return _Step(limits=step.limits, reads=reads - writes, writes=frozenset(writes))


def _give(folder: Path, *, user: int, group: int) -> None:
    """Let a guest enter a dataset's folder, by its user or, if that is -1, by its group: what lies in it is sealed.

    Raises:
        ConfigurationError: it is a link (attack: storage that leads elsewhere).
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.resolve() != folder:
        raise ConfigurationError(f"{folder} is a link; storage holds folders")
    if os.getuid() != 0:
        return
    for path in (folder, *folder.iterdir()):
        with suppress(OSError):  # a file, a link, or gone
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                os.fchown(handle, user, group)
                if user == -1:
                    os.fchmod(handle, 0o2770)
            finally:
                os.close(handle)
