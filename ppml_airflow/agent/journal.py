"""What an agent has begun and not ended: a note per dataset and run, so that a crash leaves nothing behind.

Between the moment when a sealed version lies whole in the storage and the moment when the answer to PUBLISH has come,
only the broker knows whether the version counts. The note is written before and removed after; whoever finds one asks
the broker, and removes what was never published. A version is not removed on a mere guess: the broker may have
committed it although its answer was lost, and a committed version without its files would be worse than a stray folder.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ppml_airflow import canonical
from ppml_airflow.canonical import Document
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.units import KIB, HexId, Name


class Unfinished(Document, frozen=True, kw_only=True):
    """A seal that was begun: any version of this dataset for this run may be a stray one."""

    dataset: Name
    run_id: HexId


class Journal:
    """The notes of one agent, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "unfinished"
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def begin(self, entry: Unfinished) -> None:
        """Write the note, durably."""
        path = self._path(entry)
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(canonical.encode(entry))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(self._folder)

    def end(self, entry: Unfinished) -> None:
        """Remove the note."""
        self._path(entry).unlink(missing_ok=True)

    def unfinished(self) -> list[Unfinished]:
        """The notes that were not removed."""
        return [
            canonical.decode(path.read_bytes(), into=Unfinished, max_bytes=4 * KIB)
            for path in sorted(self._folder.glob("*.json"))
        ]

    def _path(self, entry: Unfinished) -> Path:
        return self._folder / f"{entry.dataset}-{entry.run_id}.json"


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder as the only living agent. The lock ends with the process, however it ends.

    Raises:
        ConfigurationError: another agent runs with the same configuration.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(
                f"another agent runs with {folder}", code="already_running", hint="stop it first"
            ) from error
        yield


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
