"""`ppml` on a home of its own, and what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PPML = Path(sys.executable).with_name("ppml")


@dataclass(frozen=True)
class Commands:
    """The command line on one home."""

    home: Path
    more: Mapping[str, str] = field(default_factory=dict)
    """Of the environment, beside what everybody has."""

    @property
    def environment(self) -> dict[str, str]:
        """As a new user has it, nothing of this test process; only what installers need and find here is shared."""
        own = {"PATH": f"{os.defpath}:/usr/sbin:/sbin", "HOME": str(self.home), "PPML_HOME": str(self.home)}
        own |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))}
        shared = {"UV_CACHE_DIR": Path.home() / ".cache" / "uv", "PYENV_ROOT": Path.home() / ".pyenv"}
        return own | {name: os.environ.get(name) or str(path) for name, path in shared.items()} | dict(self.more)

    def __call__(self, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            (str(PPML), *arguments), env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == expect, f"ppml {arguments}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def newest_passport(self) -> Path:
        """The file of the passport that was made last."""
        return max((self.home / "passports").glob("*.json"), key=lambda path: path.stat().st_mtime)


def processes_in(folder: Path, *, named: bytes = b"") -> list[int]:
    """Processes whose working directory is this one, with such words in their command."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder:
                found += [int(entry.name)] if named in (entry / "cmdline").read_bytes() else []
    return found


def processes_of(home: Path) -> list[str]:
    """Processes that were started for this home."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if str(home).encode() in told:
            found.append(process.name)
    return found
