"""`ppml image`: set up or build trusted images on this machine, measure them, accept a measurement as the owner.

A policy's reference value is signed right after a set-up that built the image, or when a person says `--accept`; an
image that measures otherwise later is denied until then.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from ppml_airflow import canonical
from ppml_airflow.cli.home import Home, private_folder, require_checkout
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.simulated import POLICY, accept_measurement, ensure_simulated_domain
from ppml_airflow.cli.stack import Stack
from ppml_airflow.domain.documents import Approval
from ppml_airflow.enclaves.containers.daemon import connect
from ppml_airflow.enclaves.containers.images import Sources, build_image, load_record, measure_container_image
from ppml_airflow.enclaves.images import SetUp, image_lock, set_up_image
from ppml_airflow.enclaves.measurement import FileDigestCache, Measurement, difference, measure
from ppml_airflow.enclaves.runtimes.registry import require_supported
from ppml_airflow.errors import ConfigurationError

Say = Callable[[str], None]
_RECORD = "set-up.json"
_LISTING = "accepted.json"
_LEFT_OUT = {"python_missing", "build_missing"}
_BUILT_AT = "315532800"
"""The earliest time that a zip file can say, in seconds since 1970: a wheel says nothing of when it was built."""
_PACKAGED = ("ppml_airflow", "pyproject.toml", "README.md")


@click.group()
def image() -> None:
    """Set up and measure trusted images."""


@image.command("set-up")
@click.argument("names", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="Every image, but for those that this machine has no parts for.")
def set_up(names: tuple[str, ...], *, is_all: bool) -> None:
    """Set up images (spark if none is named), and accept the measurement of what was built, in a simulated domain."""
    home = Home.default()
    owner = ensure_simulated_domain(home, now=datetime.now(UTC))
    if is_all:
        ensure_all_images(home, owner=owner, say=click.echo)
        return
    for name in names or ("spark",):
        ensure_image(home, owner=owner, name=name, say=click.echo)


@image.command("build")
@click.argument("name", default="spark")
@click.option("--base", help="A base image that the daemon has, by tag or digest, instead of one made by debootstrap.")
def build(name: str, *, base: str | None) -> None:
    """Build an image for the docker runtime, and accept its image id. In a simulated domain, made if there is none."""
    home = Home.default()
    owner = ensure_simulated_domain(home, now=datetime.now(UTC))
    ensure_container_image(home, owner=owner, name=name, base=base, say=click.echo)


@image.command("measure")
@click.argument("name", default="spark")
@click.option("--runtime", type=click.Choice(["process", "docker"]), default="process", show_default=True)
@click.option("--accept", is_flag=True, help="Sign the next version of each policy that names this image.")
@click.option("--diff", "show_difference", is_flag=True, help="List what differs from the accepted image.")
def measure_(name: str, *, runtime: str, accept: bool, show_difference: bool) -> None:
    """Measure an image as it is now, on this disk or at the Docker daemon, and compare it with the policies."""
    home = Home.default()
    owner = Owner.load(home)
    measurement = measure_image(home, name, runtime=runtime)
    click.echo(f"measurement: {measurement.hex}")
    click.echo(f"files: {measurement.files}, {measurement.size} bytes")
    for policy in owner.policies().values():
        accepted = policy.images.get(name)
        if accepted is not None:
            verdict = "accepted" if measurement.hex in accepted.measurements else "NOT accepted"
            click.echo(f"policy {policy.name} version {policy.version}: {verdict}")
    if show_difference:
        click.echo("\n".join(_difference(_listing(home, name, runtime=runtime), measurement)))
    if accept:
        _accept(home, owner=owner, name=name, measurement=measurement, runtime=runtime, say=click.echo)


def ensure_image(home: Home, *, owner: Owner, name: str, say: Say) -> None:
    """Set up an image from this checkout unless it is there, and accept what was built.

    Raises:
        ConfigurationError: no checkout, or the set-up failed.
    """
    record = home.image(name) / _RECORD
    before = record.read_bytes() if record.exists() else b""
    checkout = require_checkout()
    source = _source(checkout, name)
    set_up_image(
        name,
        source=source,
        home=home.path,
        domain=owner.domain,
        wheel=build_wheel(checkout, into=home.path / "images" / ".wheels"),
        progress=say,
    )
    if record.read_bytes() != before or not _is_named(owner, name):
        measurement = measure_image(home, name)
        _accept(home, owner=owner, name=name, measurement=measurement, runtime="process", say=say)


def ensure_container_image(home: Home, *, owner: Owner, name: str, base: str | None = None, say: Say) -> None:
    """Build an image for the docker runtime from this checkout unless it is there, and accept what was built.

    Raises:
        ConfigurationError: no checkout, no root for the base system, or the build failed.
        UnavailableError: no Docker daemon, or nothing can be fetched.
    """
    checkout = require_checkout()
    _source(checkout, name)
    images = private_folder(home.path / "images")
    before = load_record(images, name)
    sources = Sources(
        checkout=checkout, domain=owner.domain, wheel=build_wheel(checkout, into=images / ".wheels"), base=base
    )
    record = build_image(connect(), name, sources=sources, images=images, say=say)
    if record != before or not _is_named(owner, name):
        measurement = measure_image(home, name, runtime="docker")
        _accept(home, owner=owner, name=name, measurement=measurement, runtime="docker", say=say)


def ensure_images(home: Home, *, owner: Owner, approval: Approval, runtime: str = "process", say: Say) -> None:
    """Have every image that a pipeline's steps name, one by one, and accept what was built.

    Raises:
        PpmlError: as `ensure_image` and `ensure_container_image`.
    """
    names = sorted({step.image for step in approval.steps})
    for name in names:
        require_supported(name, runtime=runtime)
    for name in names:
        ensure_image_for(runtime)(home, owner=owner, name=name, say=say)


def ensure_image_for(runtime: str) -> Callable[..., None]:
    """What has an image ready for a runtime."""
    return ensure_container_image if runtime == "docker" else ensure_image


def ensure_all_images(home: Home, *, owner: Owner, say: Say) -> None:
    """Set up every image of this checkout; leave out, aloud, those for which this machine has no Python or no build.

    Raises:
        ConfigurationError: a set-up failed for another reason.
    """
    for name in shipped_images():
        try:
            ensure_image(home, owner=owner, name=name, say=say)
        except ConfigurationError as error:
            if error.code not in _LEFT_OUT:
                raise
            say(f"image {name} is LEFT OUT: {error}")


def shipped_images() -> list[str]:
    """The images of this checkout, without the base of containers."""
    found = {path.parent.name for path in (require_checkout() / "images").glob("*/requirements.txt")}
    return sorted(found - {"base"})


def measure_image(home: Home, name: str, *, runtime: str = "process") -> Measurement:
    """Measure an image as it is now: on the disk, or for the docker runtime as the daemon has it.

    Raises:
        ConfigurationError: it is not set up.
        UnavailableError: no Docker daemon.
    """
    if runtime == "docker":
        return measure_container_image(connect(), name, images=home.path / "images")
    folder = home.image(name)
    if not folder.is_dir():
        raise ConfigurationError(f"image {name} is not set up", hint=f"ppml image set-up {name}")
    with image_lock(folder, exclusive=False):
        return measure(folder, cache=FileDigestCache())


def build_wheel(checkout: Path, *, into: Path) -> Path:
    """Build this package as a wheel from a copy of its sources, the same from the same; kept until they change.

    Raises:
        ConfigurationError: the build failed.
    """
    key = hashlib.sha256()
    for path in sorted(_packaged_files(checkout)):
        content = path.read_bytes()
        key.update(f"{path.relative_to(checkout)}\0{len(content)}\0".encode() + content)
    folder = into / key.hexdigest()[:32]
    found = list(folder.glob("*.whl"))
    if found:
        return found[0]
    private_folder(into)
    with tempfile.TemporaryDirectory(dir=into, prefix=".building-") as building:
        for name in _PACKAGED:
            _copy(checkout / name, Path(building) / "source" / name)
        built = Path(building) / "wheel"
        built.mkdir()
        command = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
        result = subprocess.run(
            (sys.executable, "-I", "-c", command, str(built)),
            cwd=Path(building) / "source",
            env=os.environ | {"SOURCE_DATE_EPOCH": _BUILT_AT},
            capture_output=True,
            text=True,
        )
        if result.returncode != 0:
            raise ConfigurationError(f"the wheel of ppml_airflow cannot be built: {result.stderr.strip()[-400:]}")
        shutil.rmtree(folder, ignore_errors=True)
        built.rename(folder)
    return next(folder.glob("*.whl"))


def _packaged_files(checkout: Path) -> list[Path]:
    roots = [checkout / "ppml_airflow", checkout / "operators", checkout / "plugins"]
    found = [path for root in roots for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return [*found, *(checkout / name for name in _PACKAGED if (checkout / name).is_file())]


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def _is_named(owner: Owner, name: str) -> bool:
    return any(name in policy.images for policy in owner.policies().values())


def _source(checkout: Path, name: str) -> Path:
    if name not in shipped_images():
        raise ConfigurationError(f"there is no image {name}; there are: {', '.join(shipped_images())}")
    return checkout / "images" / name


def _accept(home: Home, *, owner: Owner, name: str, measurement: Measurement, runtime: str, say: Say) -> None:
    names = [policy.name for policy in owner.policies().values() if name in policy.images] or [POLICY]
    beside = _measured_elsewhere(home, name, runtime=runtime)
    for policy in accept_measurement(
        home, owner=owner, image=name, measurement=measurement.hex, beside=beside, names=names
    ):
        say(f"policy {policy.name} version {policy.version} signed: image {name} measures {measurement.hex[:16]}…")
    _listing(home, name, runtime=runtime).write_text(json.dumps(dict(measurement.listing)))
    stack = Stack(home)
    if stack.is_running():
        with stack.broker() as broker:
            owner.publish(broker)


def _measured_elsewhere(home: Home, name: str, *, runtime: str) -> str | None:
    """How the image measures in the other runtime, by the record of its set-up; None if it has none there."""
    if runtime == "process":
        built = load_record(home.path / "images", name)
        return None if built is None else built.image_id.removeprefix("sha256:")
    record = home.image(name) / _RECORD
    return canonical.decode(record.read_bytes(), into=SetUp).measurement if record.is_file() else None


def _listing(home: Home, name: str, *, runtime: str) -> Path:
    """Where the listing of what was accepted lies."""
    if runtime == "docker":
        return home.path / "images" / f"{name}.container-{_LISTING}"
    return home.image(name) / _LISTING


def _difference(path: Path, measurement: Measurement) -> list[str]:
    if not path.exists():
        return ["no accepted listing to compare with"]
    changes = difference(json.loads(path.read_text()), measurement.listing)
    return [f"{change.kind}: {change.path}" for change in changes] or ["nothing differs"]
