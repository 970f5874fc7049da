"""One guest in a container: started by image id, with nothing but what it needs, known by one connection to one socket.

    /                 the image, read-only; no capabilities, no new privileges, no network, not root
    /private          memory: the guest's private directory, gone with the container
    /run/ppml         `guest.sock`, which takes one connection and is then removed, before any job code is there;
                      `broker.sock`, which leads to the broker
    /storage/DATASET  sealed inputs read-only, sealed outputs and the sealed log writable

What a container prints goes to no log file: Docker would keep it on disk. Its last lines are told only if it ends
before a quote was made for it. The measurement is the id of the image as the daemon says it, never what a request says.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
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
from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from ppml_airflow.enclaves.quoting.relay import Relay
from ppml_airflow.errors import ConfigurationError, PpmlError, UnavailableError
from ppml_airflow.protocol.launches import LineSocket
from ppml_airflow.protocol.messages import LaunchRequest
from ppml_airflow.units import MIB

if TYPE_CHECKING:
    from docker import APIClient

_log = logging.getLogger(__name__)
LABEL = "ppml.installation"
_MEETING, _STORAGE, _PRIVATE = "/run/ppml", "/storage", "/private"
_ROOTS_GUEST = (10001, 10001)
"""User and group of a guest whose service runs as root; else a guest has the service's own."""
_START_S = 60.0
_PIDS = 2048
_GUEST_MIB = 512
"""What the guest itself takes, beside its job."""
_SAID_CHUNKS = 50
_SAID_BYTES = 2000


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
        daemon: gives a client of the daemon, when first needed.
    """

    def __init__(
        self,
        *,
        images: Path,
        storage: Path,
        broker: str | None,
        folders: PrivateFolders,
        daemon: Callable[[], APIClient] = connect,
    ) -> None:
        self._images = images
        self._storage = storage.resolve()
        self._broker = broker
        self._folders = folders
        self._daemon = daemon
        self._connected: APIClient | None = None
        self._connecting = threading.Lock()
        self._user = _ROOTS_GUEST if os.getuid() == 0 else (os.getuid(), os.getgid())

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
        meeting = _Meeting(self._folders.make(in_memory=False), user=self._user, broker=self._broker)
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
            _remove(self._client, container["Id"])

    def _create(self, request: LaunchRequest, step: _Step, *, measurement: Measurement, meeting: Path) -> str:
        client = self._client
        binds = {str(meeting): {"bind": _MEETING, "mode": "ro"}}
        for name in sorted(step.reads | step.writes):
            folder = self._storage / name
            _give(folder, user=self._user)
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


class ContainerGuest:
    """A running guest in a container; the same to the service as one that is a process.

    Attributes:
        measurement: the id of its image, as the daemon said it just before the start.
        channel: the service's end of the one connection, once `meet` has returned.
        has_quote: whether a quote was made, and so whether the guest may hold secrets.
    """

    def __init__(
        self, client: APIClient, container: str, *, measurement: Measurement, meeting: _Meeting, folders: PrivateFolders
    ) -> None:
        self.measurement = measurement
        self.has_quote = False
        self.channel: LineSocket
        self._client = client
        self._container = container
        self._meeting = meeting
        self._folders = folders
        self._said: deque[bytes] = deque(maxlen=_SAID_CHUNKS)
        self._exit: tuple[int, bool] | None = None
        try:
            with docker_errors():
                output = client.attach(container, stdout=True, stderr=True, stream=True)
                threading.Thread(target=self._listen, args=(output,), daemon=True).start()
                client.start(container)
        except BaseException:
            self.finish()
            raise

    def meet(self) -> None:
        """Wait for the guest's one connection.

        Raises:
            UnavailableError: it ended before that, or took too long.
        """
        until = time.monotonic() + _START_S
        while (connection := self._meeting.accept(timeout_s=0.2)) is None:
            if time.monotonic() > until or self._state() is not None:
                raise UnavailableError(f"the container did not start a guest{self._reason()}", code="guest_ended")
        self.channel = LineSocket(connection)

    def kill(self) -> None:
        """End the guest and everything that it started, at once. Safe from any thread, any number of times."""
        from docker.errors import APIError

        try:
            with docker_errors(), suppress(APIError):  # it has ended, or was removed
                self._client.kill(self._container)
        except PpmlError as error:
            _log.warning("container %s was not killed: %s", self._container[:12], error)

    def finish(self, *, patience_s: float = 0) -> int:
        """Wait a little for the guest to end by itself, then remove its container and folder. Returns its exit code."""
        until = time.monotonic() + patience_s
        while time.monotonic() < until and self._state() is None:
            time.sleep(0.05)
        self._state()
        _remove(self._client, self._container)
        if hasattr(self, "channel"):
            self.channel.close()
        self._meeting.close(self._folders)
        return self._exit[0] if self._exit else -9

    def last_words(self) -> str:
        """The end of what the guest printed, if no quote was made for it: without a quote it was given no secret."""
        if self.has_quote:
            return ""
        return b"".join(self._said)[-_SAID_BYTES:].decode(errors="replace").strip()

    @property
    def is_out_of_memory(self) -> bool:
        """Whether the kernel killed the guest for want of memory."""
        return self._exit is not None and self._exit[1]

    def _reason(self) -> str:
        words = self.last_words()
        return f", exit code {self._exit[0]}{f': {words}' if words else ''}" if self._exit else ""

    def _listen(self, output: Iterable[bytes]) -> None:
        with suppress(Exception):  # the container is removed while its output is read
            self._said.extend(output)

    def _state(self) -> tuple[int, bool] | None:
        """Exit code and whether memory ran out, once the container has ended."""
        if self._exit is None:
            with suppress(PpmlError), docker_errors():
                state = self._client.inspect_container(self._container)["State"]
                if state["Status"] in ("exited", "dead"):
                    self._exit = (int(state["ExitCode"]), bool(state["OOMKilled"]))
        return self._exit


class _Meeting:
    """The folder in which one container finds its sockets."""

    def __init__(self, folder: Path, *, user: tuple[int, int], broker: str) -> None:
        self.folder = folder
        self._user = user
        folder.chmod(0o755)
        self._listener = self._listen("guest.sock", backlog=1)
        self._relay = Relay(self._listen("broker.sock", backlog=16), address=broker)

    def accept(self, *, timeout_s: float) -> socket.socket | None:
        """The guest's connection, the only one there will ever be: the socket is removed with it."""
        self._listener.settimeout(timeout_s)
        try:
            connection, _ = self._listener.accept()
        except TimeoutError:
            return None
        except OSError as error:
            raise UnavailableError("the guest was ended before it began", code="guest_ended") from error
        connection.settimeout(None)
        (self.folder / "guest.sock").unlink(missing_ok=True)
        self._listener.close()
        _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user != self._user[0]:
            connection.close()
            raise UnavailableError("somebody else than the guest took its socket", code="guest_ended")
        return connection

    def close(self, folders: PrivateFolders) -> None:
        """End both sockets and remove the folder."""
        self._listener.close()
        self._relay.close()
        folders.sweep(self.folder)

    def _listen(self, name: str, *, backlog: int) -> socket.socket:
        path = self.folder / name
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        path.chmod(0o600)
        os.chown(path, *self._user)
        listener.listen(backlog)
        return listener


def _step(request: LaunchRequest) -> _Step:
    """What the request's documents say of the step. Not verified here: it only chooses among what is ours."""
    step: Step = require_step(canonical.decode(request.bundle.approval.payload, into=Approval), name=request.step)
    writes = {output.dataset for output in step.outputs}
    if request.role == "job":
        run = canonical.decode(request.bundle.run.payload, into=Run)
        writes.add(f"logs/{run.run_id}")
    reads = frozenset(item.dataset for item in step.inputs)
    return _Step(limits=step.limits, reads=reads - writes, writes=frozenset(writes))


def _give(folder: Path, *, user: tuple[int, int]) -> None:
    """Let a guest's user enter a dataset's folder: what lies in it is sealed.

    Raises:
        ConfigurationError: it is a link (attack: storage that leads elsewhere).
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.resolve() != folder:
        raise ConfigurationError(f"{folder} is a link; storage holds folders")
    if os.getuid() != 0:
        return
    for path in (folder, *folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            os.chown(path, *user, follow_symlinks=False)


def _remove(client: APIClient, container: str) -> None:
    from docker.errors import APIError

    try:
        with docker_errors(), suppress(APIError):  # it is gone already
            client.remove_container(container, force=True, v=True)
    except PpmlError as error:
        _log.warning("container %s was not removed: %s", container[:12], error)
