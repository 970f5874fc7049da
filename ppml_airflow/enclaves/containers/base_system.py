"""The base of container images: a Debian made by debootstrap from Debian's signed packages, and from nothing else.

Kept as a tarball under PPML_HOME, one per list of packages, and imported as `ppml-base:<key>`. Who has a registry names
an image of it by digest instead (`ppml image build --base`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ppml_airflow import canonical
from ppml_airflow.enclaves.containers.daemon import docker_errors
from ppml_airflow.errors import ConfigurationError, UnavailableError

if TYPE_CHECKING:
    from docker import APIClient

SUITE = "bookworm"
PYTHON = "3.11"
"""What the suite has, and so what wheels have to be for."""
_MIRROR = "http://deb.debian.org/debian"
_LEFT_OUT = (
    *("var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "var/lib/apt/lists/*", "var/log/*", "tmp/*", "dev/*"),
    *("usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*", "usr/share/info/*"),
)


def import_base(client: APIClient, *, packages: Iterable[str], cache: Path, say: Callable[[str], None]) -> str:
    """Have the base with these packages at the daemon.

    Args:
        client: of the daemon.
        packages: Debian packages beside the essential ones.
        cache: folder of tarballs.
        say: takes a line per stage.

    Returns:
        Its tag.

    Raises:
        ConfigurationError: debootstrap is missing, may not run, or failed.
        UnavailableError: the daemon does not answer, or Debian's packages cannot be fetched.
    """
    wanted = sorted(set(packages))
    key = canonical.digest([SUITE, *wanted]).removeprefix("sha256:")[:16]
    tag = f"ppml-base:{key}"
    with docker_errors():
        if client.images(name=tag, quiet=True):
            return tag
    tarball = cache / f"{SUITE}-{key}.tar"
    if not tarball.is_file():
        _make(tarball, packages=wanted, say=say)
    say("importing the base system")
    with docker_errors():
        client.import_image_from_file(str(tarball), repository="ppml-base", tag=key, changes=['CMD ["/bin/sh"]'])
    return tag


def _make(tarball: Path, *, packages: list[str], say: Callable[[str], None]) -> None:
    if os.getuid() != 0:
        raise ConfigurationError(
            "making a base system needs root",
            code="needs_root",
            hint="run `ppml image build` as root once, or name an image of your registry by digest with --base",
        )
    if shutil.which("debootstrap") is None:
        raise ConfigurationError("debootstrap is missing", code="no_debootstrap", hint="apt-get install debootstrap")
    say(f"making the base system with debootstrap, some minutes: Debian {SUITE} with {', '.join(packages)}")
    tarball.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=tarball.parent, prefix=".making-") as making:
        root, packed = Path(making) / "root", Path(making) / "base.tar"
        _debootstrap(root, packages=packages, debs=tarball.parent / "debs", say=say)
        for path in (path for pattern in _LEFT_OUT for path in root.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        options = ["--sort=name", "--mtime=@0", "--numeric-owner", "--one-file-system"]
        subprocess.run(["tar", "-C", str(root), *options, "-cf", str(packed), "."], check=True)
        packed.rename(tarball)


def _debootstrap(root: Path, *, packages: list[str], debs: Path, say: Callable[[str], None]) -> None:
    """Run debootstrap, which checks the signatures of Debian's archive; a line per stage."""
    debs.mkdir(exist_ok=True)
    command = ["debootstrap", "--variant=minbase", f"--cache-dir={debs}", f"--include={','.join(packages)}"]
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    lines, stage = [""], ""
    with subprocess.Popen(
        [*command, SUITE, str(root), _MIRROR],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            lines.append(line.strip())
            words = line.split()
            if len(words) > 1 and words[0] == "I:" and words[1] != stage and words[1] in _STAGES:
                stage = words[1]
                say(f"base system: {stage.lower()} packages")
    if process.returncode != 0:
        raise UnavailableError(
            f"debootstrap failed: {' | '.join(lines[-3:])}",
            code="debootstrap_failed",
            hint=f"is {_MIRROR} within reach? An image of your registry goes by digest with --base",
        )


_STAGES = ("Retrieving", "Unpacking", "Configuring")
