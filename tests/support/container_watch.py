"""What an outsider who commands the Docker daemon sees of a container while it computes: kept, to be searched.

The container is paused meanwhile, so that it is seen in the middle of its work, with its keys in its memory.
"""

from __future__ import annotations

import json
import mmap
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from docker import APIClient
from docker.errors import APIError

from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from tests.support.canaries import Watch, places, spellings
from tests.support.commands import PPML, Commands
from tests.support.container_guests import containers_of


class ContainerWatch:
    """Looks at the containers of a home.

    Attributes:
        seen: what was seen, by where.
        exported: file systems of containers, as `docker export` gives them.
        changed: what `docker diff` listed.
    """

    def __init__(self, home: Path, *, docker: APIClient, folder: Path) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self.exported: list[Path] = []
        self.changed: list[str] = []
        self._home, self._docker, self._folder = home, docker, folder

    def look_in_the_middle(self) -> None:
        """Pause the only container, look at everything of it, and let it go on."""
        (container,) = containers_of(self._home, docker=self._docker)
        found = container["Id"]
        self._docker.pause(found)
        try:
            self._look(found)
        finally:
            self._docker.unpause(found)

    def look_around(self) -> None:
        """Look at what is there without a container, too: its host's folders and the daemon's."""
        self.seen += places(self._home)
        for folder in (PrivateFolders.of_home(self._home).root, *self._daemon_folders()):
            self.seen += _files(folder)

    def _look(self, container: str) -> None:
        described = self._docker.inspect_container(container)
        self.seen.append(("docker inspect", json.dumps(described).encode()))
        self.seen.append(("docker top", json.dumps(self._docker.top(container)).encode()))
        self.seen.append(("docker logs", self._logs(container)))
        self.changed += [entry["Path"] for entry in self._docker.diff(container) or ()]
        upper = Path(described["GraphDriver"]["Data"]["UpperDir"])
        self.seen += [*_files(upper), *_files(Path(described["ResolvConfPath"]).parent)]
        self.look_around()
        file = self._folder / f"{len(self.exported)}.tar"
        with file.open("wb") as target:
            subprocess.run(("docker", "export", container), stdout=target, check=True)
        self.exported.append(file)

    def _logs(self, container: str) -> bytes:
        try:
            return bytes(self._docker.logs(container))
        except APIError as error:  # there is no log to read
            return str(error).encode()

    def _daemon_folders(self) -> list[Path]:
        root = Path(self._docker.info()["DockerRootDir"])
        return [root / "containers", root / "volumes"]


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield str(path), path.read_bytes()


def run_watched(
    ppml: Commands, *arguments: str, docker: APIClient, folder: Path, line: str
) -> tuple[int, ContainerWatch]:
    """Run a command, look at its container once it says that line, and around when it has ended. Its exit code."""
    watch = ContainerWatch(ppml.home, docker=docker, folder=folder)
    printed: list[str] = []
    with (
        Watch(_all_processes) as processes,
        subprocess.Popen(
            (PPML, *arguments), env=ppml.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for said in process.stdout:
            printed.append(said)
            if line in said and not watch.exported:
                watch.look_in_the_middle()
    watch.look_around()
    watch.seen.append(("printed", "".join(printed).encode()))
    watch.seen += [("process", text) for text in processes.seen]
    return process.returncode, watch


def _all_processes() -> Iterable[str]:
    return [path.name for path in Path("/proc").glob("[0-9]*")]


def finds(watch: ContainerWatch, secrets: Iterable[bytes]) -> list[str]:
    """Where one of these was seen, in any spelling; in exported file systems, which are large, raw or as hex."""
    spelled = [spellings(secret) for secret in secrets]
    needles = [needle for found in spelled for needle in found]
    found = {place for place, content in watch.seen if any(needle in content for needle in needles)}
    for file in watch.exported:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if any(content.find(needle) >= 0 for raw, as_hex, *_ in spelled for needle in (raw, as_hex)):
                found.add("docker export")
    return sorted(found)
