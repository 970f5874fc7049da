"""Everything that an image installs, as wheels: made on the host, where the network is, from hash-locked requirements.

pip checks every file that it fetches against its hash in the lock; what has only sources is built here, by a builder
that is locked as well. A lock of the wheels themselves (`lock_of`) then goes into the build, which has no network.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ppml_airflow import canonical
from ppml_airflow.enclaves import environments
from ppml_airflow.enclaves.containers.base_system import PYTHON, SUITE
from ppml_airflow.errors import ConfigurationError, UnavailableError

LOCK = "requirements.txt"
INSTALLER = "pip.zip"


def make_wheelhouse(requirements: Path, *, builder: Path, cache: Path, image: str, say: Callable[[str], None]) -> Path:
    """Have the wheels of a lock file, and the installer, in a folder; kept until the lock changes.

    Args:
        requirements: an image's lock file.
        builder: lock file of pip and setuptools.
        cache: folder of wheelhouses.
        image: its name, for messages.
        say: takes a line per stage.

    Raises:
        ConfigurationError: this Python is not the one of the base system.
        UnavailableError: pip failed, most often for want of a network.
    """
    if f"{sys.version_info.major}.{sys.version_info.minor}" != PYTHON:
        raise ConfigurationError(
            f"wheels for Debian {SUITE} need Python {PYTHON}; this is {platform.python_version()}",
            code="python_missing",
            hint=f"run ppml from an environment of Python {PYTHON}",
        )
    key = canonical.digest(
        [platform.machine(), *(canonical.digest_bytes(p.read_bytes()) for p in (requirements, builder))]
    )
    folder = cache / key.removeprefix("sha256:")[:32]
    if folder.is_dir():
        return folder
    making = folder.with_name(f".making-{os.getpid()}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True, mode=0o700)
    try:
        say(f"image {image}: making wheels, {_count(requirements)} packages")
        _fill(making, requirements=requirements, builder=builder)
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def lock_of(wheels: list[Path]) -> str:
    """A lock file of wheels that lie in a folder, by their own hashes."""
    lines = []
    for wheel in sorted(wheels):
        name, version = wheel.name.split("-")[:2]
        lines.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return "".join(lines)


def _fill(folder: Path, *, requirements: Path, builder: Path) -> None:
    tools = folder / "builder"
    environments.create(tools, python=Path(os.path.realpath(sys.executable)))
    environments.install(tools, requirements=builder)
    pip = [str(tools / "bin" / "python"), "-I", "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    locked = ["--require-hashes", "--no-deps"]
    _run([*pip, "wheel", *locked, "--no-build-isolation", "-w", str(folder), "-r", str(requirements)])
    installer = folder / "installer"
    _run([*pip, "download", *locked, "-d", str(installer), "-r", str(builder)])
    next(installer.glob("pip-*.whl")).rename(folder / INSTALLER)
    for leftover in (tools, installer):
        shutil.rmtree(leftover)


def _run(command: list[str]) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=kept)
    if done.returncode != 0:
        raise UnavailableError(
            f"pip failed: {(done.stderr or done.stdout).strip()[-1000:]}",
            code="wheels_failed",
            hint="wheels are made on the host, which needs a package index that pip is set up for",
        )


def _count(requirements: Path) -> int:
    return sum("==" in line for line in requirements.read_text().splitlines())
