"""Set up a trusted image on this machine: PPML_HOME/images/<name>/{env,engine,image,bytecode}, all of it measured.

1. `env/`       the guest's environment, from the image's hash-locked requirements.txt, with this package as a wheel
2. `engine/`    where images/<name>/engine/ is there: an environment of the engine's own, for an engine whose pins do
                not go with ours. Jobs run in it; of this package it holds the modules that job authors import.
                Either is of the Python that a `.python-version` beside its requirements names
3. `image/`     a copy of images/<name>, `domain.json`, the jar built from `jvm/` for Spark or Flink if it is there,
                and what of the host belongs to the image (`installation.json`)
4. `bytecode/`  environments and standard libraries compiled with unchecked hashes: guests and jobs run with it as
                pycache prefix, so that bytecode which others leave beside sources is never read

Built aside and renamed when whole. What is there already is kept only if it still measures as it did when it was set
up, so a file that somebody changed does not survive the next set-up. Refuses requirements without hashes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ppml_airflow import canonical
from ppml_airflow.canonical import Document
from ppml_airflow.domain.documents import Domain
from ppml_airflow.enclaves import environments
from ppml_airflow.enclaves.installation import DOMAIN, INSTALLATION, Installation
from ppml_airflow.enclaves.measurement import FileDigestCache, measure
from ppml_airflow.errors import ConfigurationError, PpmlError
from ppml_airflow.units import Digest, HexId

Progress = Callable[[str], None]
_RECORD = "set-up.json"
_HEARTBEAT_S = 20.0
_JAVA_PACKAGES = ("pyspark", "pyflink")
_JARS = (("env", "pyspark", "spark"), ("engine", "pyflink", "flink"))
"""Where which package calls for which engine's jar."""


class SetUp(Document, frozen=True, kw_only=True):
    """What an image was made from, and how it then measured. Lies beside what is measured."""

    inputs: Digest
    environments: Mapping[str, Digest]
    measurement: str
    build: HexId
    """Random: tells a new build from the one before, even where both measure alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Environment:
    """An environment to be made: `env` or `engine`."""

    name: str
    requirements: Path
    python: Path

    @property
    def digest(self) -> Digest:
        return _digest_of(self.requirements, text=environments.describe_python(self.python))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    name: str
    source: Path
    jvm: Path
    folder: Path
    domain: Domain
    wheel: Path
    progress: Progress

    @property
    def building(self) -> Path:
        return self.folder.with_name(f".{self.name}.building")

    def environments(self) -> Iterator[_Environment]:
        engine = self.source / "engine"
        yield _environment("env", self.source)
        if engine.is_dir():
            yield _environment("engine", engine)

    def say(self, text: str) -> None:
        self.progress(f"image {self.name}: {text}")


def set_up_image(
    name: str, *, source: Path, home: Path, domain: Domain, wheel: Path, progress: Progress = lambda _: None
) -> Path:
    """Set up an image, or leave it as it is if nothing has changed.

    Args:
        name: of the image.
        source: the folder images/<name> of a checkout; `jvm/` is looked for beside `images/`.
        home: PPML_HOME.
        domain: whose image it becomes.
        wheel: this package.
        progress: takes a line per stage.

    Returns:
        The image's folder, for `measure` and `ProcessRuntime`.

    Raises:
        ConfigurationError: files are missing, or an installer or compiler failed; says which.
    """
    plan = _Plan(
        name=name,
        source=source,
        jvm=source.parent.parent / "jvm",
        folder=home / "images" / name,
        domain=domain,
        wheel=wheel,
        progress=progress,
    )
    engine = [source / "engine" / "requirements.txt"] if (source / "engine").is_dir() else []
    for needed in (source / "requirements.txt", *engine, wheel):
        if not needed.is_file():
            raise ConfigurationError(f"image {name} needs {needed}, which is missing")
    plan.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with image_lock(plan.building, exclusive=True):
        _set_up(plan)
    return plan.folder


@contextmanager
def image_lock(folder: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold an image still: guests share the lock while they live; set-up waits for them before it puts a new one in."""
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield


def _environment(name: str, folder: Path) -> _Environment:
    version = folder / ".python-version"
    here = Path(os.path.realpath(sys.executable))
    python = environments.find_python(version.read_text().strip()) if version.is_file() else here
    return _Environment(name=name, requirements=folder / "requirements.txt", python=python)


def _set_up(plan: _Plan) -> None:
    wanted = {environment: environment.digest for environment in plan.environments()}
    digests = {environment.name: digest for environment, digest in wanted.items()}
    inputs = _inputs(plan, digests=digests)
    found = _intact(plan)
    if found is not None and found.inputs == inputs:
        plan.say("unchanged")
        return
    shutil.rmtree(plan.building, ignore_errors=True)
    if found is not None:
        _copy(plan, "bytecode")
    for environment, digest in wanted.items():
        if found is not None and found.environments.get(environment.name) == digest:
            plan.say(f"keeping {environment.name}")
            _copy(plan, environment.name)
        else:
            _install(plan, environment)
    plan.say("installing ppml_airflow")
    environments.install_wheel(plan.building / "env", wheel=plan.wheel)
    environments.strip(plan.building / "env")
    if "engine" in digests:
        environments.install_job_apis(plan.building / "engine", wheel=plan.wheel)
    _fill_image_folder(plan, names=tuple(digests))
    _compile(plan, names=tuple(digests))
    _put_in_place(plan)
    measurement = measure(plan.folder, cache=FileDigestCache())
    record = SetUp(inputs=inputs, environments=digests, measurement=measurement.hex, build=secrets.token_hex(16))
    (plan.folder / _RECORD).write_bytes(canonical.encode(record))
    plan.say(f"set up, {measurement.files} files, measurement {measurement.hex[:16]}…")


def _copy(plan: _Plan, part: str) -> None:
    shutil.copytree(plan.folder / part, plan.building / part, symlinks=True, copy_function=os.link)


def _install(plan: _Plan, environment: _Environment) -> None:
    folder = plan.building / environment.name
    lines = environment.requirements.read_text().splitlines()
    plan.say(f"installing {environment.name}, {sum('==' in line for line in lines)} packages")
    folder.parent.mkdir(parents=True, exist_ok=True)
    environments.create(folder, python=environment.python)
    with ThreadPoolExecutor(max_workers=1) as pool:
        began = time.monotonic()
        installing = pool.submit(environments.install, folder, requirements=environment.requirements)
        while wait([installing], timeout=_HEARTBEAT_S).not_done:
            plan.say(f"still installing {environment.name}, {time.monotonic() - began:.0f} s")
        installing.result()
    environments.strip(folder)


def _compile(plan: _Plan, *, names: tuple[str, ...]) -> None:
    bytecode, wanted = plan.building / "bytecode", set[Path]()
    bytecode.mkdir(exist_ok=True)
    for name in names:
        plan.say(f"compiling {name}")
        wanted |= environments.compile_sources(plan.building / name, installed_at=plan.folder / name, bytecode=bytecode)
    for stale in [path for path in bytecode.rglob("*.pyc") if path not in wanted]:
        stale.unlink()


def _fill_image_folder(plan: _Plan, *, names: tuple[str, ...]) -> None:
    folder, found = plan.building / "image", {name: plan.building / name for name in names}
    shutil.copytree(plan.source, folder, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    (folder / DOMAIN).write_bytes(canonical.encode(plan.domain))
    java_home: Path | None = None
    if any(environments.holds(env, package) for env in found.values() for package in _JAVA_PACKAGES):
        java_home = environments.find_java_home()
    for name, package, engine in _JARS:
        if java_home is not None and name in found and environments.holds(found[name], package):
            plan.say(f"building the jar for {engine}")
            target = folder / f"ppml-{engine}.jar"
            environments.build_jar(plan.jvm, engine=engine, env=found[name], java_home=java_home, target=target)
    installation = Installation(
        name=plan.name,
        environments={name: environments.ask_interpreter(env) for name, env in found.items()},
        java_home=None if java_home is None else str(java_home),
    )
    (folder / INSTALLATION).write_bytes(canonical.encode(installation))


def _put_in_place(plan: _Plan) -> None:
    old = plan.folder.with_name(f".{plan.name}.old")
    with image_lock(plan.folder, exclusive=True):
        shutil.rmtree(old, ignore_errors=True)
        if plan.folder.exists():
            plan.folder.rename(old)
        plan.building.rename(plan.folder)
    shutil.rmtree(old, ignore_errors=True)


def _intact(plan: _Plan) -> SetUp | None:
    """The record of a set-up that still measures as it did; None if there is none or somebody changed it since."""
    try:
        record = canonical.decode((plan.folder / _RECORD).read_bytes(), into=SetUp)
        if measure(plan.folder, cache=FileDigestCache()).hex == record.measurement:
            return record
        plan.say("changed since it was set up; building it anew")
    except OSError:
        pass
    except PpmlError as error:
        plan.say(f"{error.message}; building it anew")
    return None


def _inputs(plan: _Plan, *, digests: Mapping[str, Digest]) -> Digest:
    parts = [*digests.values(), plan.domain.domain_id, digest_of_wheel(plan.wheel), environments.describe_java()]
    for root in (plan.source, plan.jvm):
        for path in sorted(root.rglob("*")) if root.is_dir() else ():
            if path.is_file() and "__pycache__" not in path.parts and "build" not in path.relative_to(root).parts[:1]:
                parts.append(_digest_of(path, text=str(path.relative_to(root))))
    return canonical.digest(parts)


def _digest_of(path: Path, *, text: str) -> Digest:
    return canonical.digest([text, canonical.digest_bytes(path.read_bytes())])


def digest_of_wheel(wheel: Path) -> Digest:
    """Of what a wheel holds; building it again changes its timestamps only."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in sorted(archive.namelist())}
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"{wheel} is not a wheel") from error
    return canonical.digest(members)
