"""The guest's end of the socket on which job processes ask for keys: `guest.sock` in the private directory.

One JSON object a line. A process may ask for the key of a granted part (`read`) or of a part of an output (`write`),
disclose a count, say how it failed, or, once, offer itself for control. It gets the key of a file, never a data key;
before the lease, and for any other path, it gets `refused`. Messages and vectors: `jvm/README.md`.
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
from typing import Any

from ppml_airflow.errors import MalformedInputError
from ppml_airflow.units import KIB, MIB
from ppml_airflow.workloads.job import FileKey, JobKeys, TableInput, TableOutput

SOCKET_NAME = "guest.sock"
_MAX_LINE = MIB
_MAX_CONNECTIONS = 256
_WRITTEN = re.compile(
    r"(?:_temporary/\d+/_temporary/attempt_\w+/)?part-(\d{5})-[0-9a-f-]{36}-c000(?:\.[a-z0-9]+)?\.parquet"
)


class Connection:
    """One connection, read and written by lines of JSON."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._reader = channel.makefile("rb", buffering=64 * KIB)

    def send(self, message: Mapping[str, Any]) -> None:
        """Write one message."""
        self._channel.sendall(json.dumps(message).encode() + b"\n")

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

    def __init__(self, private: Path, *, inputs: tuple[TableInput, ...], outputs: tuple[TableOutput, ...]) -> None:
        self.control: queue.Queue[Connection] = queue.Queue()
        self.disclosed: dict[str, int] = {}
        self.failure: object = None
        self._private = private
        self._links = input_links(private, inputs=inputs)
        self._outputs = {output.dataset: output.files for output in outputs}
        self._keys: JobKeys | None = None
        self._opened: set[Path] = set()
        self._on_progress: Callable[[int], None] = lambda percent: None
        self._lock = threading.Lock()
        self._listener = _listen(private)
        threading.Thread(target=self._accept, name="guest-socket", daemon=True).start()

    def arm(self, keys: JobKeys, *, on_progress: Callable[[int], None]) -> None:
        """Give out keys from now on."""
        with self._lock:
            self._keys, self._on_progress = keys, on_progress

    def close(self) -> None:
        """Stop listening and forget the keys."""
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
            connection.send(self.answer(message or {}))
        except (MalformedInputError, OSError):
            pass  # A process that does not speak properly, or is gone, gets no answer.
        finally:
            slots.release()
        connection.close()

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one message of a job process."""
        with self._lock:
            match message:
                case {"op": "read", "path": str(path)}:
                    return _key_answer(self._read_key(Path(path)))
                case {"op": "write", "path": str(path)}:
                    return _key_answer(self._write_key(Path(path)))
                case {"op": "disclose", "name": str(name), "value": int(value)}:
                    self.disclosed[name] = value
                    return {"done": True}
                case {"op": "failed", "code": str(code)}:
                    self.failure = self.failure or code
                    return {"done": True}
        return {"refused": "malformed"}

    def _read_key(self, path: Path) -> FileKey | None:
        part = self._links.get(path)
        if part is None or self._keys is None or part not in self._keys.read:
            return None
        if part not in self._opened:
            self._opened.add(part)
            with contextlib.suppress(Exception):  # Progress that nobody takes is no reason to fail.
                self._on_progress(100 * (len(self._opened) - 1) // len(self._links))
        return self._keys.read[part]

    def _write_key(self, path: Path) -> FileKey | None:
        """The committer's temporary folders are no part of the name; a partition folder would be, and is refused."""
        for dataset, files in self._outputs.items():
            folder = self._private / "output" / dataset
            if self._keys is not None and path.is_relative_to(folder):
                written = _WRITTEN.fullmatch(path.relative_to(folder).as_posix())
                if written and int(written[1]) < files:
                    return self._keys.write(dataset, part_name(int(written[1])))
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


def _key_answer(key: FileKey | None) -> dict[str, str]:
    if key is None:
        return {"refused": "not_granted"}
    return {"key": base64.b64encode(key.key).decode(), "aad": base64.b64encode(key.aad).decode()}


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
