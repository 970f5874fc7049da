from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import cast

import pytest
from docker import APIClient

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Domain
from ppml_airflow.enclaves.containers.base_system import import_base
from ppml_airflow.enclaves.containers.daemon import connect, docker_errors
from ppml_airflow.enclaves.containers.images import (
    ContainerImage,
    Sources,
    build_image,
    load_record,
    measure_container_image,
    record_file,
)
from ppml_airflow.enclaves.containers.wheelhouse import INSTALLER, lock_of
from ppml_airflow.errors import ConfigurationError, UnavailableError
from tests.support.fake_docker import IMAGE_ID, FakeDocker
from tests.support.small_images import DOMAIN, make_wheel

CHECKOUT = Path(__file__).resolve().parents[3]


def ignore(line: str) -> None:
    del line


def client(docker: FakeDocker) -> APIClient:
    return cast(APIClient, docker)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """A checkout with the image `plain`, and a base that the daemon has."""
    for name in ("plain", "base"):
        folder = tmp_path / "checkout" / "images" / name
        folder.mkdir(parents=True)
        (folder / "requirements.txt").write_text("# nothing\n")
    (tmp_path / "checkout" / "images" / "base" / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "checkout" / "jvm").mkdir()
    wheel = make_wheel(tmp_path, files={"ppml_airflow/__init__.py": ""}, name="ppml_airflow")
    return Sources(checkout=tmp_path / "checkout", domain=DOMAIN, wheel=wheel, base="registry/base@sha256:00")


@pytest.fixture
def images(tmp_path: Path, sources: Sources) -> Path:
    """PPML_HOME/images with the wheelhouse of `plain` made already."""
    folder = tmp_path / "images"
    lock = sources.folder("plain") / "requirements.txt"
    digest = canonical.digest_bytes(lock.read_bytes())
    import platform

    key = canonical.digest([platform.machine(), digest, digest]).removeprefix("sha256:")[:32]
    wheelhouse = folder / ".wheelhouses" / key
    wheelhouse.mkdir(parents=True)
    (wheelhouse / INSTALLER).write_bytes(b"pip")
    return folder


def build(docker: FakeDocker, sources: Sources, images: Path) -> ContainerImage:
    return build_image(client(docker), "plain", sources=sources, images=images, say=ignore)


python_of_the_base = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="wheels are made for Python 3.11")


@python_of_the_base
def test_a_build_has_no_network_and_pulls_nothing(sources: Sources, images: Path) -> None:
    docker = FakeDocker()
    build(docker, sources, images)
    assert docker.build_options["network_mode"] == "none"
    assert docker.build_options["pull"] is False
    assert docker.build_options["buildargs"] == {"BASE_IMAGE": "registry/base@sha256:00", "NAME": "plain"}


@python_of_the_base
def test_the_domain_and_a_lock_of_this_very_wheel_go_into_the_image(sources: Sources, images: Path) -> None:
    docker = FakeDocker()
    build(docker, sources, images)
    assert canonical.decode(docker.built["image/domain.json"], into=Domain) == DOMAIN
    digest = hashlib.sha256(sources.wheel.read_bytes()).hexdigest()
    assert docker.built["package/requirements.txt"].decode() == f"ppml_airflow==1.0 --hash=sha256:{digest}\n"


@python_of_the_base
def test_an_image_is_built_again_only_when_something_changed_or_the_daemon_lost_it(
    sources: Sources, images: Path
) -> None:
    docker = FakeDocker()
    first = build(docker, sources, images)
    docker.built.clear()
    assert build(docker, sources, images) == first
    assert docker.built == {}
    (sources.folder("plain") / "README.md").write_text("changed")
    assert build(docker, sources, images) != first
    assert docker.built
    docker.built.clear()
    docker.images_there.clear()
    build(docker, sources, images)
    assert docker.built


@python_of_the_base
def test_a_build_that_fails_says_where_and_leaves_no_record(sources: Sources, images: Path) -> None:
    docker = FakeDocker()
    docker.build_error = "pip returned 1"
    with pytest.raises(ConfigurationError, match=r"Step 1/2.*pip returned 1") as failed:
        build(docker, sources, images)
    assert failed.value.code == "build_failed"
    assert load_record(images, "plain") is None


def test_an_image_with_an_engine_of_its_own_is_refused(sources: Sources, images: Path) -> None:
    (sources.folder("plain") / "engine").mkdir()
    with pytest.raises(ConfigurationError) as refused:
        build(FakeDocker(), sources, images)
    assert refused.value.code == "engine_unsupported"


def test_the_measurement_is_the_id_that_the_daemon_says(images: Path) -> None:
    docker = FakeDocker(IMAGE_ID)
    record_file(images, "plain").write_bytes(canonical.encode(ContainerImage(image_id=IMAGE_ID, inputs=IMAGE_ID)))
    measurement = measure_container_image(client(docker), "plain", images=images)
    assert measurement.digest == bytes.fromhex("1f" * 32)
    assert measurement.listing["layer/001"] == "sha256:bb"


@pytest.mark.parametrize("is_recorded", [False, True])
def test_an_image_that_is_not_there_is_named_and_not_pulled(images: Path, is_recorded: bool) -> None:
    if is_recorded:
        record_file(images, "plain").write_bytes(canonical.encode(ContainerImage(image_id=IMAGE_ID, inputs=IMAGE_ID)))
    with pytest.raises(ConfigurationError, match="plain") as missing:
        measure_container_image(client(FakeDocker()), "plain", images=images)
    assert missing.value.code == "image_missing"
    assert missing.value.hint == "ppml image build plain"


def test_a_base_that_the_daemon_has_is_not_made_again(tmp_path: Path) -> None:
    key = canonical.digest(["bookworm", "python3"]).removeprefix("sha256:")[:16]
    docker = FakeDocker(f"ppml-base:{key}")
    assert import_base(client(docker), packages=["python3"], cache=tmp_path, say=ignore) == f"ppml-base:{key}"
    assert list(tmp_path.iterdir()) == []


def test_a_base_whose_tarball_is_there_is_imported(tmp_path: Path) -> None:
    key = canonical.digest(["bookworm", "python3"]).removeprefix("sha256:")[:16]
    (tmp_path / f"bookworm-{key}.tar").write_bytes(b"")
    docker = FakeDocker()
    import_base(client(docker), packages=["python3"], cache=tmp_path, say=ignore)
    assert docker.images_there == [f"ppml-base:{key}"]


def test_a_base_without_debootstrap_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.getuid", lambda: 0)
    with pytest.raises(ConfigurationError) as refused:
        import_base(client(FakeDocker()), packages=["python3"], cache=tmp_path / "cache", say=ignore)
    assert refused.value.code == "no_debootstrap"


def test_a_base_made_by_somebody_else_than_root_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 1000)
    with pytest.raises(ConfigurationError) as refused:
        import_base(client(FakeDocker()), packages=["python3"], cache=tmp_path / "cache", say=ignore)
    assert refused.value.code == "needs_root"


def test_no_daemon_is_an_unavailable_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/absent.sock")
    with pytest.raises(UnavailableError) as away:
        connect()
    assert away.value.code == "no_docker"
    assert "scripts/docker-daemon" in away.value.hint


def test_what_a_daemon_refuses_keeps_its_words() -> None:
    from docker.errors import APIError

    from tests.support.fake_docker import answered

    for status, kind in ((400, ConfigurationError), (500, UnavailableError)):
        with pytest.raises(kind, match="some words"), docker_errors():
            raise APIError("x", response=answered(status), explanation="some words")


def test_a_lock_of_wheels_names_each_by_its_hash(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, files={"a.py": ""}, name="some_name")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert lock_of([wheel]) == f"some_name==1.0 --hash=sha256:{digest}\n"


def test_the_shared_dockerfile_starts_from_nothing_that_could_be_pulled_unseen() -> None:
    lines = (CHECKOUT / "images" / "base" / "Dockerfile").read_text().splitlines()
    starts = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert set(starts) == {"${BASE_IMAGE}"}
    assert not any(line.startswith(("ADD ", "# syntax=")) for line in lines)
