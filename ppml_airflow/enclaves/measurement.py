"""The measurement of a trusted image in the `process` runtime: one SHA-256 over everything that it runs.

Covered, as a sorted list of (label/path, mode, content): the image's own files with `domain.json` (`image/`), its
environments (`env/`, and `engine/` where an engine has one of its own), their compiled bytecode (`bytecode/`),
interpreters and standard libraries (`python/`) and the JDK (`java/`). A symbolic link counts by its target; where it
leads out of its tree (Debian keeps a JDK's settings in /etc) what lies there counts too. Not covered: the kernel and
the shared libraries of the host; a simulation does not claim them.

Left out, because a guest never reads them: `__pycache__` folders of the standard library (guests run with
`-X pycache_prefix`, so files that others leave there neither run nor count) and its `site-packages` (an environment
does not see them).
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ppml_airflow.enclaves.installation import SET_UP_HINT, Installation, load_installation
from ppml_airflow.errors import ConfigurationError

_LABEL = b"ppml/v1/measurement\0"
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was measured. `listing` says for each path its mode and its digest or link target."""

    digest: bytes = field(repr=False)
    listing: Mapping[str, str] = field(repr=False)
    files: int
    size: int

    @property
    def hex(self) -> str:
        """The digest as 64 lower-case hex digits, as policies and quotes name it."""
        return self.digest.hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference between two listings."""

    path: str
    kind: Literal["added", "removed", "changed"]
    before: str
    after: str


class FileDigestCache:
    """Digests of files, kept while device, inode, size, mtime and ctime stay as they were. Lives in memory only.

    A file that changed within the last two seconds is read again next time: its timestamps could not yet tell a
    further change.
    """

    def __init__(self) -> None:
        self._known: dict[_Version, str] = {}

    def digests(self, files: Iterable[tuple[Path, os.stat_result]]) -> list[str]:
        """The SHA-256 (hex) of each file, in order; what is not known is read by two threads.

        Raises:
            ConfigurationError: a file cannot be read.
        """
        versions = [(path, _version(status)) for path, status in files]
        unknown = {version: path for path, version in versions if version not in self._known}
        by_size = sorted(unknown.items(), key=lambda item: item[0][2])
        read: dict[_Version, str] = {}
        with ThreadPoolExecutor(max_workers=2) as pool:
            for digests in pool.map(_read, (by_size[0::2], by_size[1::2])):
                read.update(digests)
        settled = time.time_ns() - _SETTLED_NS
        self._known.update((version, found) for version, found in read.items() if max(version[3:]) < settled)
        return [read.get(version) or self._known[version] for _, version in versions]


_Version = tuple[int, int, int, int, int]
"""Device, inode, size, mtime and ctime in nanoseconds."""


def _version(status: os.stat_result) -> _Version:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _read(files: Iterable[tuple[_Version, Path]]) -> dict[_Version, str]:
    found = {}
    for version, path in files:
        try:
            with path.open("rb") as file:
                found[version] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ConfigurationError(f"file {path} of a trusted image cannot be read: {error.strerror}") from error
    return found


def measure(folder: Path, *, cache: FileDigestCache) -> Measurement:
    """Measure an image that was set up in this folder (PPML_HOME/images/<name>), as it is now.

    Raises:
        ConfigurationError: it is not set up, was set up with another interpreter, or holds a device, pipe or socket.
    """
    installation = load_installation(folder)
    entries = dict(_entries(folder, installation))
    files = sorted(label for label, (_, status, target) in entries.items() if target is None)
    digests = dict(zip(files, cache.digests((entries[label][0], entries[label][1]) for label in files), strict=True))
    total = hashlib.sha256(_LABEL)
    listing: dict[str, str] = {}
    for label in sorted(entries):
        _, status, target = entries[label]
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        content = f"-> {target}" if target is not None else digests[label]
        listing[label] = f"{mode} {content}"
        total.update(b"\0".join((os.fsencode(label), mode.encode(), os.fsencode(content), b"")))
    size = sum(entries[label][1].st_size for label in files)
    return Measurement(digest=total.digest(), listing=listing, files=len(listing), size=size)


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    """What differs between two listings, by path."""
    changes = []
    for path in sorted(set(before) | set(after)):
        old, new = before.get(path, ""), after.get(path, "")
        if old != new:
            kind: Literal["added", "removed", "changed"] = "changed" if old and new else "added" if new else "removed"
            changes.append(Change(path=path, kind=kind, before=old, after=new))
    return tuple(changes)


_Entry = tuple[Path, os.stat_result, str | None]
"""Path, its status, and the target if it is a symbolic link."""


def _entries(folder: Path, installation: Installation) -> Iterator[tuple[str, _Entry]]:
    for label in ("image", "bytecode", *installation.environments):
        yield from _tree(folder / label, label)
    for name, interpreter in installation.environments.items():
        yield from _tree(Path(interpreter.standard_library), f"python/{name}/lib", is_standard_library=True)
        for path in (interpreter.executable, *interpreter.libraries):
            yield f"python/{name}{path}", (Path(path), _status(Path(path)), None)
    if installation.java_home is not None:
        yield from _tree(Path(installation.java_home), "java")


def _tree(root: Path, label: str, *, is_standard_library: bool = False) -> Iterator[tuple[str, _Entry]]:
    inside = os.path.realpath(root)
    seen = {inside}
    waiting = [(Path(inside), label)]
    while waiting:
        folder, prefix = waiting.pop()
        for entry in _scan(folder):
            path, name = Path(entry.path), f"{prefix}/{entry.name}"
            if is_standard_library and (
                entry.name == "__pycache__" or (folder == Path(inside) and entry.name.endswith("-packages"))
            ):
                continue
            status = entry.stat(follow_symlinks=False)
            if entry.is_symlink():
                yield name, (path, status, str(path.readlink()))
                yield from _outside(path, name=name, inside=inside, seen=seen, waiting=waiting)
            elif entry.is_dir():
                waiting.append((path, name))
            else:
                yield name, (path, _require_file(path, status), None)


def _outside(
    path: Path, *, name: str, inside: str, seen: set[str], waiting: list[tuple[Path, str]]
) -> Iterator[tuple[str, _Entry]]:
    """What a link leads to, if it leads out of its tree; folders join the waiting list, each once."""
    target = Path(os.path.realpath(path))
    if target.is_relative_to(inside) or str(target) in seen or not target.exists():
        return
    seen.add(str(target))
    if target.is_dir():
        waiting.append((target, f"{name}/*"))
    else:
        yield f"{name}/*", (target, _status(target), None)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise ConfigurationError(
            f"folder {folder} of a trusted image cannot be read: {error.strerror}", hint=SET_UP_HINT
        ) from error


def _status(path: Path) -> os.stat_result:
    try:
        return _require_file(path, path.stat())
    except OSError as error:
        raise ConfigurationError(
            f"file {path} of a trusted image cannot be read: {error.strerror}", hint=SET_UP_HINT
        ) from error


def _require_file(path: Path, status: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"{path} is neither a file, a folder nor a link; a trusted image holds nothing else")
    return status
