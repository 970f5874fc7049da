from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
import pytest
from docker import APIClient

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Limits
from ppml_airflow.enclaves.containers.images import ContainerImage, record_file
from ppml_airflow.enclaves.quoting.container_guest import ContainerGuest
from ppml_airflow.enclaves.quoting.containers import LABEL, ContainerHost, confinement
from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from ppml_airflow.errors import ConfigurationError, UnavailableError
from ppml_airflow.protocol.messages import Bundle, LaunchRequest
from ppml_airflow.units import MIB
from tests.support.fake_docker import IMAGE_ID, FakeDocker
from tests.support.simulated_run import SimulatedRun, make_platform, start_run

LIMITS = Limits(wall_s=60, memory_mib=1024, cores=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRun:
    return start_run(make_platform(tmp_path_factory.mktemp("run") / "tee"))


@pytest.fixture
def docker() -> FakeDocker:
    return FakeDocker(IMAGE_ID)


@pytest.fixture
def folders(tmp_path: Path) -> PrivateFolders:
    return PrivateFolders(tmp_path / "g")


@pytest.fixture
def host(tmp_path: Path, docker: FakeDocker, folders: PrivateFolders) -> ContainerHost:
    images = tmp_path / "images"
    images.mkdir()
    record_file(images, "spark").write_bytes(canonical.encode(ContainerImage(image_id=IMAGE_ID, inputs=IMAGE_ID)))
    return ContainerHost(
        images=images,
        storage=tmp_path / "storage",
        broker="unix:/nowhere",
        folders=folders,
        daemon=lambda: cast(APIClient, docker),
    )


@pytest.fixture
def request_(run: SimulatedRun, tmp_path: Path) -> LaunchRequest:
    run.pin("aggregate")
    return LaunchRequest(
        image="spark",
        runtime="docker",
        role="job",
        step="aggregate",
        bundle=Bundle(
            approval=run.approval_envelope,
            certificates=(),
            run=run.run_envelope,
            pins=run.pins["aggregate"],
            manifests=(),
        ),
        code={},
        broker="unix:/var/run/docker.sock",
        storage=str(tmp_path / "storage"),
    )


@pytest.fixture
def guest(host: ContainerHost, request_: LaunchRequest) -> Iterator[ContainerGuest]:
    guest = host.start(request_, measurement=host.measure("spark"))
    yield guest
    guest.finish()


def meeting(folders: PrivateFolders) -> Path:
    (folder,) = folders.root.iterdir()
    return folder


def test_a_container_has_no_capability_no_network_no_privilege_and_limits() -> None:
    assert confinement(LIMITS, user=(10001, 10001)) == {
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "network_mode": "none",
        "pids_limit": 2048,
        "mem_limit": (2 * 1024 + 512) * MIB,
        "memswap_limit": (2 * 1024 + 512) * MIB,
        "nano_cpus": 2 * 10**9,
        "tmpfs": {"/private": "rw,exec,nosuid,nodev,mode=0700,size=1024m,uid=10001,gid=10001"},
        "ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        "init": False,
        "privileged": False,
    }


def test_it_is_started_by_the_id_that_was_measured_and_never_as_root(guest: ContainerGuest, docker: FakeDocker) -> None:
    (created,) = docker.created
    assert created["image"] == IMAGE_ID
    assert created["user"].split(":")[0] == str(os.getuid() or 10001)
    assert "command" not in created
    assert "environment" not in created


def test_it_sees_its_step_s_datasets_only_and_writes_its_outputs_only(
    guest: ContainerGuest, docker: FakeDocker, run: SimulatedRun
) -> None:
    binds = {bind.split(":")[1]: bind.split(":")[2] for bind in docker.created[0]["host_config"]["Binds"]}
    assert binds == {
        "/run/ppml": "ro",
        "/storage/plans": "ro",
        "/storage/visits": "ro",
        "/storage/report": "rw",
        f"/storage/logs/{run.run_id}": "rw",
    }


def test_what_it_prints_is_kept_in_no_log_of_docker(guest: ContainerGuest, docker: FakeDocker) -> None:
    assert docker.created[0]["host_config"]["LogConfig"]["Type"] == "none"


def test_it_is_told_where_storage_and_broker_are_inside_whatever_the_request_says(
    host: ContainerHost, request_: LaunchRequest
) -> None:
    told = canonical.decode(host.line_for(request_), into=LaunchRequest)
    assert (told.storage, told.broker) == ("/storage", "unix:/run/ppml/broker.sock")
    assert msgspec.structs.replace(told, storage=request_.storage, broker=request_.broker) == request_


def test_another_storage_is_not_mounted(host: ContainerHost, request_: LaunchRequest) -> None:
    elsewhere = msgspec.structs.replace(request_, storage="/etc")
    with pytest.raises(ConfigurationError, match="/etc is not this installation's"):
        host.start(elsewhere, measurement=host.measure("spark"))


def test_storage_that_leads_elsewhere_is_not_mounted(
    host: ContainerHost, request_: LaunchRequest, docker: FakeDocker, folders: PrivateFolders
) -> None:
    storage = Path(request_.storage)
    storage.mkdir()
    (storage / "visits").symlink_to("/etc")
    with pytest.raises(ConfigurationError, match="is a link"):
        host.start(request_, measurement=host.measure("spark"))
    assert docker.created == []
    assert list(folders.root.iterdir()) == []


def test_the_socket_takes_one_connection_and_is_gone_with_it(guest: ContainerGuest, folders: PrivateFolders) -> None:
    path = meeting(folders) / "guest.sock"
    if os.getuid() == 0:
        os.chown(path, 0, 0)
    own = socket.socket(socket.AF_UNIX)
    own.connect(str(path))
    if os.getuid() == 0:
        with pytest.raises(UnavailableError, match="somebody else"):
            guest.meet()
    else:
        guest.meet()
    assert not path.exists()
    own.close()


def test_a_container_that_ends_before_it_connects_says_why(
    guest: ContainerGuest, docker: FakeDocker, host: ContainerHost, request_: LaunchRequest
) -> None:
    docker.output = [b"no such ", b"module"]
    docker.state = {"Status": "exited", "ExitCode": 1, "OOMKilled": False}
    other = host.start(request_, measurement=host.measure("spark"))
    with pytest.raises(UnavailableError, match="exit code 1: no such module"):
        other.meet()
    other.finish()


def test_a_container_that_had_a_quote_has_no_last_words(
    docker: FakeDocker, host: ContainerHost, request_: LaunchRequest
) -> None:
    docker.output = [b"a plaintext"]
    guest = host.start(request_, measurement=host.measure("spark"))
    guest.has_quote = True
    assert guest.last_words() == ""
    guest.finish()


def test_the_end_leaves_neither_container_nor_folder(
    host: ContainerHost, request_: LaunchRequest, docker: FakeDocker, folders: PrivateFolders
) -> None:
    guest = host.start(request_, measurement=host.measure("spark"))
    docker.state = {"Status": "exited", "ExitCode": 137, "OOMKilled": True}
    assert guest.finish(patience_s=1) == 137
    assert guest.is_out_of_memory
    assert docker.removed == ["container-1"]
    assert list(folders.root.iterdir()) == []


def test_killing_a_container_that_has_ended_is_no_matter(guest: ContainerGuest, docker: FakeDocker) -> None:
    docker.state = {"Status": "exited", "ExitCode": 0, "OOMKilled": False}
    threading.Thread(target=guest.kill).start()
    guest.kill()


def test_a_container_that_does_not_start_is_removed(
    host: ContainerHost, request_: LaunchRequest, docker: FakeDocker, folders: PrivateFolders
) -> None:
    docker.start_error = OSError("connection refused")
    with pytest.raises(UnavailableError) as away:
        host.start(request_, measurement=host.measure("spark"))
    assert away.value.code == "no_docker"
    assert docker.removed == ["container-1"]
    assert list(folders.root.iterdir()) == []


def test_a_service_that_was_told_no_broker_starts_no_container(
    tmp_path: Path, docker: FakeDocker, folders: PrivateFolders, request_: LaunchRequest, host: ContainerHost
) -> None:
    blind = ContainerHost(
        images=tmp_path / "images",
        storage=tmp_path / "storage",
        broker=None,
        folders=folders,
        daemon=lambda: cast(APIClient, docker),
    )
    with pytest.raises(ConfigurationError, match="--broker"):
        blind.start(request_, measurement=host.measure("spark"))


def test_the_next_start_removes_the_containers_of_this_installation_alone(
    host: ContainerHost, docker: FakeDocker, folders: PrivateFolders
) -> None:
    docker.left = [
        {"Id": "ours", "label": f"{LABEL}={folders.root.name}"},
        {"Id": "theirs", "label": f"{LABEL}=another"},
    ]
    host.sweep_all()
    assert docker.removed == ["ours"]


def test_without_a_daemon_there_is_nothing_to_sweep(tmp_path: Path, folders: PrivateFolders) -> None:
    def absent() -> APIClient:
        raise UnavailableError("no Docker daemon answers")

    ContainerHost(images=tmp_path, storage=tmp_path, broker=None, folders=folders, daemon=absent).sweep_all()
