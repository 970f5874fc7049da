"""Trusted images as container images: built without network, known by their image id, which is their measurement.

1. a base system by debootstrap (`base_system`), or one of a registry by digest
2. a wheelhouse from the image's hash-locked requirements (`wheelhouse`), and this package as a wheel
3. a context of Dockerfile, wheels and `image/` (images/<name>, `domain.json`, the jar), built with no network
4. a record beside the image's folder: PPML_HOME/images/<name>.container.json

The id is the digest of the image's configuration, which names every layer by digest, so it covers all that runs. Who
changes the record or the daemon's images gets another id, and no key. Refuses images with an engine of its own.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ppml_airflow import canonical
from ppml_airflow.canonical import Document
from ppml_airflow.domain.documents import Domain
from ppml_airflow.enclaves import environments
from ppml_airflow.enclaves.containers.base_system import PYTHON, import_base
from ppml_airflow.enclaves.containers.daemon import docker_errors
from ppml_airflow.enclaves.containers.wheelhouse import INSTALLER, LOCK, lock_of, make_wheelhouse
from ppml_airflow.enclaves.images import digest_of_wheel
from ppml_airflow.enclaves.installation import DOMAIN
from ppml_airflow.enclaves.measurement import Measurement
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.units import Digest

if TYPE_CHECKING:
    from docker import APIClient

_SPARK_JAR = "ppml-spark.jar"
_BUILD_TIMEOUT_S = 1800


class ContainerImage(Document, frozen=True, kw_only=True):
    """The record of a container image that was built here."""

    image_id: Digest
    inputs: Digest
    """Of everything that it was built from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What an image is built from.

    Attributes:
        checkout: with `images/` and `jvm/`.
        domain: whose image it becomes.
        wheel: this package.
        base: an image that the daemon has, by tag or digest; None for one made here.
    """

    checkout: Path
    domain: Domain
    wheel: Path
    base: str | None

    def folder(self, name: str) -> Path:
        """The folder of an image."""
        return self.checkout / "images" / name

    def dockerfile(self, name: str) -> Path:
        """The image's own Dockerfile, else the one of all images."""
        own = self.folder(name) / "Dockerfile"
        return own if own.is_file() else self.folder("base") / "Dockerfile"

    def packages(self, name: str) -> list[str]:
        """The Debian packages that an image needs."""
        files = [self.folder(part) / "packages.txt" for part in ("base", name)]
        return [word for file in files if file.is_file() for word in file.read_text().split()]


def build_image(
    client: APIClient, name: str, *, sources: Sources, images: Path, say: Callable[[str], None]
) -> ContainerImage:
    """Build an image, or leave it as it is if nothing has changed and the daemon still has it.

    Args:
        client: of a Docker daemon.
        name: of the image.
        sources: what it is built from.
        images: PPML_HOME/images.
        say: takes a line per stage.

    Raises:
        ConfigurationError: no such image, one with an engine of its own, or the build failed; says where.
        UnavailableError: no daemon, or nothing can be fetched.
    """
    if (sources.folder(name) / "engine").is_dir():
        raise ConfigurationError(
            f"image {name} has an engine of its own, which the docker runtime cannot build",
            code="engine_unsupported",
            hint='use runtime="process" for it',
        )
    inputs = _inputs(name, sources=sources)
    found = load_record(images, name)
    if found is not None and found.inputs == inputs and _is_there(client, found):
        say(f"image {name}: container image unchanged")
        return found
    base = sources.base or import_base(client, packages=sources.packages(name), cache=images / ".bases", say=say)
    wheels = make_wheelhouse(
        sources.folder(name) / LOCK,
        builder=sources.folder("base") / LOCK,
        cache=images / ".wheelhouses",
        image=name,
        say=say,
    )
    with tempfile.TemporaryDirectory(dir=images, prefix=f".{name}.context-") as folder:
        context = Path(folder) / "context.tar"
        _write_context(context, name=name, sources=sources, wheels=wheels, scratch=Path(folder))
        say(f"image {name}: building, without network")
        image_id = _build(client, context, name=name, base=base, say=say)
    record = ContainerImage(image_id=image_id, inputs=inputs)
    record_file(images, name).write_bytes(canonical.encode(record))
    say(f"image {name}: built, image id {image_id[:23]}…")
    return record


def record_file(images: Path, name: str) -> Path:
    """Where the record of a container image lies."""
    return images / f"{name}.container.json"


def load_record(images: Path, name: str) -> ContainerImage | None:
    """The record of a container image; None if none was built."""
    try:
        return canonical.decode(record_file(images, name).read_bytes(), into=ContainerImage)
    except FileNotFoundError:
        return None


def measure_container_image(client: APIClient, name: str, *, images: Path) -> Measurement:
    """Measure the container image of this name as the daemon has it: its image id, as the daemon says it.

    Raises:
        ConfigurationError: none was built, or the daemon does not have it. It is not pulled.
    """
    record = load_record(images, name)
    if record is None:
        raise ConfigurationError(
            f"container image {name} is not built", code="image_missing", hint=f"ppml image build {name}"
        )
    with docker_errors(image=name):
        found = client.inspect_image(record.image_id)
    layers = {f"layer/{index:03d}": digest for index, digest in enumerate(found["RootFS"]["Layers"])}
    settings = {f"config/{key}": json.dumps(value, sort_keys=True) for key, value in found["Config"].items() if value}
    return Measurement(
        digest=bytes.fromhex(str(found["Id"]).removeprefix("sha256:")),
        listing={**layers, **settings},
        files=len(layers),
        size=int(found["Size"]),
    )


def _is_there(client: APIClient, record: ContainerImage) -> bool:
    with docker_errors():
        return record.image_id in client.images(quiet=True)


def _inputs(name: str, *, sources: Sources) -> Digest:
    parts = [name, sources.domain.domain_id, sources.base or "", digest_of_wheel(sources.wheel)]
    parts += sources.packages(name)
    files = [sources.dockerfile(name), sources.folder("base") / LOCK, *_files(sources.folder(name))]
    parts += [canonical.digest([path.name, canonical.digest_bytes(path.read_bytes())]) for path in files]
    parts += [canonical.digest_bytes(path.read_bytes()) for path in _files(sources.checkout / "jvm")]
    return canonical.digest(parts)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not {"__pycache__", "build"} & set(path.relative_to(folder).parts):
            yield path


def _write_context(target: Path, *, name: str, sources: Sources, wheels: Path, scratch: Path) -> None:
    with tarfile.open(target, "w") as archive:
        archive.add(sources.dockerfile(name), "Dockerfile")
        archive.add(wheels / INSTALLER, f"wheels/{INSTALLER}", filter=_plain)
        for part, files in (("wheels", sorted(wheels.glob("*.whl"))), ("package", [sources.wheel])):
            for path in files:
                archive.add(path, f"{part}/{path.name}", filter=_plain)
            _add_bytes(archive, f"{part}/{LOCK}", lock_of(files).encode())
        for path in _files(sources.folder(name)):
            archive.add(path, f"image/{path.relative_to(sources.folder(name))}", filter=_plain)
        _add_bytes(archive, f"image/{DOMAIN}", canonical.encode(sources.domain))
        jar = _spark_jar(wheels, jvm=sources.checkout / "jvm", scratch=scratch)
        if jar is not None:
            archive.add(jar, f"image/{_SPARK_JAR}", filter=_plain)


def _spark_jar(wheels: Path, *, jvm: Path, scratch: Path) -> Path | None:
    """The jar from `jvm/`, built against the Spark of the wheelhouse; None without one."""
    spark = next(wheels.glob("pyspark-*.whl"), None)
    if spark is None:
        return None
    packages = scratch / "lib" / f"python{PYTHON}" / "site-packages"
    with zipfile.ZipFile(spark) as archive:
        for entry in archive.namelist():
            if entry.startswith("pyspark/jars/"):
                archive.extract(entry, packages)
    jar = scratch / _SPARK_JAR
    environments.build_jar(jvm, engine="spark", env=scratch, java_home=environments.find_java_home(), target=jar)
    shutil.rmtree(packages)
    return jar


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same file whoever built it, and when."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.isdir() else 0o644
    return entry


def _add_bytes(archive: tarfile.TarFile, path: str, content: bytes) -> None:
    entry = tarfile.TarInfo(path)
    entry.size = len(content)
    archive.addfile(_plain(entry), io.BytesIO(content))


def _build(client: APIClient, context: Path, *, name: str, base: str, say: Callable[[str], None]) -> Digest:
    said = [""]
    with context.open("rb") as file, docker_errors(image=name):
        for line in client.build(
            fileobj=file,
            custom_context=True,
            tag=f"ppml-{name}",
            buildargs={"BASE_IMAGE": base, "NAME": name},
            network_mode="none",
            pull=False,
            rm=True,
            forcerm=True,
            decode=True,
            timeout=_BUILD_TIMEOUT_S,
        ):
            if "error" in line:
                raise ConfigurationError(
                    f"building image {name} failed: {' | '.join([*said[-3:], str(line['error'])])}", code="build_failed"
                )
            text = str(line.get("stream", "")).strip()
            said += [text] if text else []
            if text.startswith("Step "):
                say(f"image {name}: {text.partition(' : ')[0]}")
        return str(client.inspect_image(f"ppml-{name}")["Id"])
