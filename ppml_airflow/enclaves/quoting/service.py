"""The quoting service of the simulated platform: a Unix socket on which runtimes launch guests.

One connection, one guest, and one launch unless the guest opens a session. The service measures the image now, starts
the guest as a process or in a container, hands it the request, answers its requests for a quote with *that*
measurement, and forwards its events. Closing the connection kills the guest; one that is watched lives as long as its
watch is renewed (`holders`).

Refuses: a request that names a measurement (there is no field for one), a second service for the same installation.

Source: the trust protocol, rule 16.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

from ppml_airflow import canonical
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.confinement import confined
from ppml_airflow.enclaves.images import image_lock
from ppml_airflow.enclaves.measurement import FileDigestCache, Measurement, measure
from ppml_airflow.enclaves.quoting.containers import ContainerHost
from ppml_airflow.enclaves.quoting.holders import Connection, Holder, Watches
from ppml_airflow.enclaves.quoting.launch import Guest, ProcessGuest
from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from ppml_airflow.errors import ConfigurationError, MalformedInputError, PpmlError, UnavailableError
from ppml_airflow.protocol.launches import (
    FromGuest,
    GuestEvent,
    GuestProblem,
    GuestResult,
    LineSocket,
    QuoteAnswer,
    QuoteRequest,
    ToService,
    WatchRequest,
    WatchStarted,
)
from ppml_airflow.protocol.messages import LaunchRequest
from ppml_airflow.protocol.peers import is_served, user_of
from ppml_airflow.users import PASSWD, Users

_log = logging.getLogger(__name__)
_DAY_S = 24 * 3600
_OUTER_WALL_S = 24 * 3600
_PATIENCE_S = 2.0


class QuotingService:
    """Serves one installation until stopped."""

    def __init__(
        self, *, home: Path, socket_path: Path, storage: Path, broker: str | None, users: Users | None = None
    ) -> None:
        self._home = home
        self._socket_path = socket_path
        self._storage = storage
        self._broker = broker
        self._users = users
        self._watches = Watches()
        self._platform = SimulatedPlatform.load(home / "tee")
        self._cache = FileDigestCache()
        self._measuring = threading.Lock()
        self._stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        self._private_folders: PrivateFolders
        self._containers: ContainerHost
        self._listener: socket.socket

    def serve(self) -> None:
        """Listen until `stop` is called; then no guest is left.

        Raises:
            ConfigurationError: a service of this installation is running already.
        """
        with ExitStack() as stack:
            self._take_lock(stack)
            self._private_folders = PrivateFolders.of_home(self._home, users=self._users)
            self._private_folders.sweep_all()
            self._containers = ContainerHost(
                images=self._home / "images",
                storage=self._storage,
                broker=self._broker,
                folders=self._private_folders,
                users=self._users,
            )
            self._containers.sweep_all()
            self._write_collateral()
            self._listen(stack)
            threading.Thread(target=self._renew_collateral, daemon=True).start()
            _log.info("listening on %s", self._socket_path)
            served = [range(user, user + 1) for user in (self._users.of("airflow"),)] if self._users else []
            threads: list[threading.Thread] = []
            while not self._stopping.is_set():
                with suppress(OSError):  # stop() shuts the listener down
                    connection, _ = self._listener.accept()
                    if not is_served(connection, users=served):
                        _log.warning("user %d is not served", user_of(connection))
                        connection.close()
                        continue
                    self._connections.add(connection)
                    threads = [thread for thread in threads if thread.is_alive()]
                    threads.append(threading.Thread(target=self._serve_connection, args=(connection,)))
                    threads[-1].start()
            for connection in list(self._connections):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)  # as if its client had gone: its guest is killed
            self._watches.end_all()
            for thread in threads:
                thread.join()
            self._private_folders.remove()

    def stop(self) -> None:
        """End all guests and return from `serve`. May be called from a signal handler."""
        self._stopping.set()
        with suppress(AttributeError, OSError):
            self._listener.shutdown(socket.SHUT_RDWR)

    def _take_lock(self, stack: ExitStack) -> None:
        (self._home / "run").mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = stack.enter_context((self._home / "run" / "quoting.lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(f"a quoting service for {self._home} is running already") from error

    def _listen(self, stack: ExitStack) -> None:
        self._socket_path.unlink(missing_ok=True)
        self._listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        before = os.umask(0o177)
        try:
            self._listener.bind(str(self._socket_path))
        except OSError as error:
            raise ConfigurationError(f"socket {self._socket_path} cannot be made: {error}") from error
        finally:
            os.umask(before)
        if self._users:
            self._socket_path.chmod(0o666)  # is_served tells who connects
        stack.callback(self._socket_path.unlink, missing_ok=True)
        self._listener.listen()

    def _write_collateral(self) -> None:
        target = self._home / "tee" / "collateral.json"
        partial = target.with_suffix(".partial")
        partial.write_bytes(self._platform.collateral(datetime.now(UTC)))
        partial.chmod(0o644)
        partial.replace(target)

    def _renew_collateral(self) -> None:
        while not self._stopping.wait(_DAY_S):
            self._write_collateral()

    def _serve_connection(self, connection: socket.socket) -> None:
        client = LineSocket(connection)
        try:
            self._answer(client)
        except PpmlError as error:
            with suppress(UnavailableError):
                client.send(GuestProblem.of(error))
        finally:
            self._connections.discard(connection)
            client.close()

    def _answer(self, client: LineSocket) -> None:
        line = client.receive_line()
        if line is None:
            return
        request: LaunchRequest | WatchRequest = canonical.decode(line, into=ToService)  # type: ignore[arg-type]  # a union
        if isinstance(request, WatchRequest):
            client.send(self._watches.answer(request))
            return
        _require_holdable(request)
        holder: Holder = Connection(client, is_session=request.role == "session")
        if request.is_watched:
            watch_id, holder = self._watches.add()
            client.send(WatchStarted(watch_id=watch_id))
            client.close()
        holder.finish(self._guest_of(request, holder=holder, line=line))

    def _guest_of(self, request: LaunchRequest, *, holder: Holder, line: bytes) -> GuestResult | GuestProblem:
        """Launch a guest and see it to its end, well or ill."""
        try:
            if request.runtime == "docker":
                return self._launch_container(request, holder=holder)
            return self._launch_process(request, holder=holder, line=line)
        except PpmlError as error:
            return GuestProblem.of(error)
        except Exception:
            _log.exception("a launch failed")
            return GuestProblem.of(UnavailableError("the quoting service failed", code="service_failed"))

    def _launch_process(self, request: LaunchRequest, *, holder: Holder, line: bytes) -> GuestResult | GuestProblem:
        folder = self._home / "images" / request.image
        folder.parent.mkdir(parents=True, exist_ok=True)
        with image_lock(folder, exclusive=False):
            holder.tell(GuestEvent(state="measuring"))
            measurement = self._measure(folder)
            holder.tell(GuestEvent(state="starting"))
            guest = ProcessGuest(
                folder,
                measurement=measurement,
                private_folders=self._private_folders,
                confine=self._confine if self._users else None,
            )
            return self._accompany(guest, holder=holder, line=line, is_session=request.role == "session")

    def _confine(self, command: Sequence[str], *, user: int, see: Sequence[Path]) -> tuple[str, ...]:
        """The command as a guest's user, who finds PPML_HOME, the sockets and what `see` names."""
        assert self._users is not None  # noqa: S101 - asked before
        return confined(
            command,
            user=user,
            groups=[self._users.storage_group],
            passwd=self._home / PASSWD,
            see=[self._home, self._socket_path.parent.parent, *see],
        )

    def _launch_container(self, request: LaunchRequest, *, holder: Holder) -> GuestResult | GuestProblem:
        holder.tell(GuestEvent(state="measuring"))
        measurement = self._containers.measure(request.image)
        _log.info("container image %s measures %s", request.image, measurement.hex)
        holder.tell(GuestEvent(state="starting"))
        guest = self._containers.start(request, measurement=measurement)
        return self._accompany(guest, holder=holder, line=self._containers.line_for(request))

    def _measure(self, folder: Path) -> Measurement:
        with self._measuring:
            measurement = measure(folder, cache=self._cache)
        _log.info("image %s measures %s", folder.name, measurement.hex)
        return measurement

    def _accompany(
        self, guest: Guest, *, holder: Holder, line: bytes, is_session: bool = False
    ) -> GuestResult | GuestProblem:
        """Serve a guest until it has said its last line, which is returned; then nothing of it is left."""
        watch = threading.Thread(target=_hand_on_or_kill, args=(holder, guest))
        wall = threading.Timer(_OUTER_WALL_S, guest.kill)
        wall.daemon = True
        wall.start()
        watch.start()
        try:
            guest.meet()
            return self._converse(guest, holder=holder, line=line, is_session=is_session)
        finally:
            wall.cancel()
            holder.release()
            guest.kill()  # or a guest that does not read would hold up who hands it a launch
            watch.join()
            guest.finish()

    def _converse(self, guest: Guest, *, holder: Holder, line: bytes, is_session: bool) -> GuestResult | GuestProblem:
        with suppress(UnavailableError):
            guest.channel.send_line(line)
        while (message := self._next(guest)) is not None:
            match message:
                case QuoteRequest():
                    guest.has_quote = True
                    quote = self._platform.quote_sgx(
                        measurement=guest.measurement.digest, report_data=message.report_data
                    )
                    guest.channel.send(QuoteAnswer(quote=quote))
                case GuestEvent():
                    holder.tell(message)
                case GuestResult() | GuestProblem() if is_session:
                    holder.finish(message)
                case GuestResult() | GuestProblem():
                    return message
        words, code = guest.last_words(), guest.finish(patience_s=_PATIENCE_S)
        if guest.is_out_of_memory:
            raise ConfigurationError(
                "the enclave needed more memory than its step allows",
                code="out_of_memory",
                hint="ask the owner to approve higher limits for the step, or let the job need less",
            )
        raise UnavailableError(
            f"the guest ended without an answer, exit code {code}{f': {words}' if words else ''}",
            code="guest_ended",
        )

    def _next(self, guest: Guest) -> FromGuest | None:
        try:
            message: FromGuest | None = guest.channel.receive(FromGuest)
        except MalformedInputError as error:
            raise MalformedInputError(
                "the guest said what no guest says; it was ended", code="guest_refused"
            ) from error
        return message


def _require_holdable(request: LaunchRequest) -> None:
    """A session takes launches from whoever holds it: by a connection, and with paths as this machine has them.

    Raises:
        ConfigurationError: code `session_unsupported`.
    """
    if request.role == "session" and (request.is_watched or request.runtime != "process"):
        raise ConfigurationError(
            "a session is held by its connection, and its enclave is a process",
            code="session_unsupported",
            hint='use runtime="process", without a watch',
        )


def _hand_on_or_kill(holder: Holder, guest: Guest) -> None:
    """Hand on what a session is to run, untrusted as the first launch; end the guest when nobody wants it any more."""
    with suppress(UnavailableError):
        while (line := holder.next_launch()) is not None:
            guest.channel.send_line(line)
    guest.kill()
