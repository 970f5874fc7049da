"""The guest's end of the socket on which job processes ask for keys and contents, `guest.sock`.

One JSON object a line. A process may ask for the key of a granted part (`read`) or of a part of an output (`write`);
for the files (`open`) or the rows (`table`) of an input, or for a file to write (`create`), each a descriptor of a
file in memory; in a set, send something to the other members (`mail`, `post`) or wait for it (`hear`); disclose a
count, say how it failed, or, once, offer itself for control. It never gets a data key; before the lease, and for
whatever else it names, it gets `refused`. Messages and vectors: `jvm/README.md`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import re
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ppml_airflow.errors import ConfigurationError, MalformedInputError, PolicyDeniedError, VerificationError
from ppml_airflow.units import KIB, MIB
from ppml_airflow.workloads.contents import TABLE, Contents
from ppml_airflow.workloads.job import FileKey, JobKeys, TableInput, WorkloadJob
from ppml_airflow.workloads.mailbox import Mailbox

SOCKET_NAME = "guest.sock"
_MAX_LINE = MIB
_MAX_CONNECTIONS = 256
_WRITTEN = re.compile(
    r"(?:_temporary/\d+/_temporary/attempt_\w+/)?part-(\d{5})-[0-9a-f-]{36}-c000(?:\.[a-z0-9]+)?\.parquet"
)


class Answer(NamedTuple):
    """An answer, and the descriptor that goes with it, which whoever sends it closes."""

    message: Mapping[str, Any]
    descriptor: int | None = None


class Connection:
    """One connection, read and written by lines of JSON."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._reader = channel.makefile("rb", buffering=64 * KIB)

    def send(self, message: Mapping[str, Any], *, descriptor: int | None = None) -> None:
        """Write one message, with a copy of a descriptor."""
        line = json.dumps(message).encode() + b"\n"
        if descriptor is not None:
            line = line[socket.send_fds(self._channel, [line], [descriptor]) :]
        self._channel.sendall(line)

    def receive(self, *, timeout_s: float | None = None) -> dict[str, Any] | None:
        """Read one message; None at the end.

        Raises:
            TimeoutError: nothing came in time.
            MalformedInputError: what came is not a JSON object on a line of at most 1 MiB.
        """
        self._channel.settimeout(timeout_s)
        try:
            line = self._reader.readline(_MAX_LINE)
        except ConnectionError:
            return None
        if not line:
            return None
        try:
            message = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise MalformedInputError("message of a job process is not JSON") from error
        if not line.endswith(b"\n") or not isinstance(message, dict):
            raise MalformedInputError("message of a job process is not one JSON object on a line")
        return message

    def close(self) -> None:
        """Close both directions."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self._reader.close()
        self._channel.close()


class GuestSocket:
    """Listens in a private directory and answers job processes, from its own threads."""

    def __init__(self, private: Path, *, job: WorkloadJob) -> None:
        self.control: queue.Queue[Connection] = queue.Queue()
        self.contents = Contents(job)
        self.mailbox = Mailbox(job)
        self.disclosed: dict[str, int] = {}
        self.failure: object = None
        self._private = private
        self._inputs = {table.view: table.parts for table in job.inputs}
        self._links = input_links(private, inputs=job.inputs)
        self._outputs = {output.dataset: output.files for output in job.outputs}
        self._keys: JobKeys | None = None
        self._to_open = len(self._links) + len(job.files)
        self._opened: set[Path | str] = set()
        self._on_progress: Callable[[int], None] = lambda percent: None
        self._lock = threading.Lock()
        self._listener = _listen(private)
        threading.Thread(target=self._accept, name="guest-socket", daemon=True).start()

    def arm(self, keys: JobKeys, *, on_progress: Callable[[int], None]) -> None:
        """Give out keys and contents from now on."""
        self.contents.arm(keys)
        self.mailbox.arm(keys.cluster)
        with self._lock:
            self._keys, self._on_progress = keys, on_progress

    def close(self) -> None:
        """Stop listening; forget the keys and all contents."""
        self.contents.close()
        self.mailbox.close()
        with self._lock:
            self._keys = None
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        (self._private / SOCKET_NAME).unlink(missing_ok=True)

    def _accept(self) -> None:
        slots = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        while True:
            slots.acquire()
            try:
                channel, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(Connection(channel), slots), daemon=True).start()

    def _serve(self, connection: Connection, slots: threading.BoundedSemaphore) -> None:
        try:
            message = connection.receive(timeout_s=60)
            if message is not None and message.get("op") == "control":
                self.control.put(connection)
                return
            answer = self.answer(message or {})
            try:
                connection.send(answer.message, descriptor=answer.descriptor)
            finally:
                if answer.descriptor is not None:
                    os.close(answer.descriptor)
        except (MalformedInputError, OSError):
            pass  # A process that does not speak properly, or is gone, gets no answer.
        finally:
            slots.release()
        connection.close()

    def answer(self, message: Mapping[str, Any]) -> Answer:
        """Answer one message of a job process."""
        match message:
            case {"op": "read", "path": str(path)}:
                return _key_answer(self._read_key(Path(path)))
            case {"op": "write", "path": str(path)}:
                return _key_answer(self._write_key(Path(path)))
            case {"op": "open" | "table" | "create", "dataset": str()}:
                return self._contents_answer(message)
            case {"op": "mail" | "post" | "hear"}:
                return self._mail_answer(message)
            case {"op": "disclose", "name": str(name), "value": int(value)}:
                self.disclosed[name] = value
                return Answer({"done": True})
            case {"op": "failed", "code": str(code)}:
                self.failure = self.failure or code
                return Answer({"done": True})
        return Answer({"refused": "malformed"})

    def _contents_answer(self, message: Mapping[str, Any]) -> Answer:
        try:
            return self._content(message)
        except PolicyDeniedError as error:
            return Answer({"refused": error.code})
        except VerificationError:
            self.failure = "input_corrupt"
        except ConfigurationError as error:
            self.failure = error.code
        return Answer({"refused": self.failure})

    def _mail_answer(self, message: Mapping[str, Any]) -> Answer:
        try:
            match message:
                case {"op": "mail"}:
                    mail, descriptor = self.mailbox.new()
                    return Answer({"mail": mail}, descriptor)
                case {"op": "post", "mail": int(mail), "turn": int(turn)}:
                    self.mailbox.post(mail, turn=turn)
                    return Answer({"done": True})
                case {"op": "hear", "turn": int(turn), "sender": int(sender)}:
                    return _sized_answer(self.mailbox.hear(turn=turn, sender=sender))
        except PolicyDeniedError as error:
            return Answer({"refused": error.code})
        except (VerificationError, ConfigurationError) as error:
            self.failure = "input_corrupt" if isinstance(error, VerificationError) else error.code
            return Answer({"refused": self.failure})
        return Answer({"refused": "malformed"})

    def _content(self, message: Mapping[str, Any]) -> Answer:
        match message:
            case {"op": "open", "dataset": dataset, "file": str(name)}:
                return _sized_answer(self.contents.open_file(dataset, name=name))
            case {"op": "open", "dataset": dataset} if "file" not in message:
                names = self.contents.file_names(dataset)
                self._tell_opened(dataset)
                return Answer({"files": names})
            case {"op": "table", "dataset": dataset}:
                descriptor = self.contents.open_table(dataset)
                self._tell_opened(*self._inputs[dataset])
                return _sized_answer(descriptor)
            case {"op": "create", "dataset": dataset, "file": str(name)}:
                return Answer({"done": True}, self.contents.create(dataset, name=name))
            case {"op": "create", "dataset": dataset} if "file" not in message:
                return Answer({"done": True}, self.contents.create(dataset, name=TABLE))
        return Answer({"refused": "malformed"})

    def _read_key(self, path: Path) -> FileKey | None:
        part = self._links.get(path)
        with self._lock:
            key = self._keys.read.get(part) if part is not None and self._keys is not None else None
        if key is not None and part is not None:
            self._tell_opened(part)
        return key

    def _tell_opened(self, *inputs: Path | str) -> None:
        with self._lock:
            if self._opened.issuperset(inputs):
                return
            self._opened.update(inputs)
            percent = 100 * (len(self._opened) - 1) // self._to_open
            with contextlib.suppress(Exception):  # Progress that nobody takes is no reason to fail.
                self._on_progress(percent)

    def _write_key(self, path: Path) -> FileKey | None:
        """The committer's temporary folders are no part of the name; a partition folder would be, and is refused."""
        for dataset, files in self._outputs.items():
            folder = self._private / "output" / dataset
            keys = self._keys
            if keys is not None and path.is_relative_to(folder):
                written = _WRITTEN.fullmatch(path.relative_to(folder).as_posix())
                if written and int(written[1]) < files:
                    return keys.write(dataset, part_name(int(written[1])))
        return None


def input_links(private: Path, *, inputs: tuple[TableInput, ...]) -> dict[Path, Path]:
    """The path by which a job sees each part, and the part itself."""
    return {
        private / "inputs" / table.view / part_name(index): part
        for table in inputs
        for index, part in enumerate(table.parts)
    }


def part_name(index: int) -> str:
    """The final relative path of a part."""
    return f"part-{index:05d}"


def _key_answer(key: FileKey | None) -> Answer:
    if key is None:
        return Answer({"refused": "not_granted"})
    return Answer({"key": base64.b64encode(key.key).decode(), "aad": base64.b64encode(key.aad).decode()})


def _sized_answer(descriptor: int) -> Answer:
    return Answer({"size": os.fstat(descriptor).st_size}, descriptor)


def _listen(private: Path) -> socket.socket:
    """Bind through a descriptor of the folder: the address of a Unix socket has at most 108 bytes."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(private, os.O_PATH | os.O_DIRECTORY)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{SOCKET_NAME}")
    finally:
        os.close(folder)
    (private / SOCKET_NAME).chmod(0o600)
    listener.listen(_MAX_CONNECTIONS)
    return listener
