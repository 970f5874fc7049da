"""Kill a container, its guest, its job for want of memory, the quoting service, the Docker daemon: `test_kill` has the
table of what is expected. Each time the attempt leaves no output version, and nothing of it is left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from docker import APIClient

from ppml_airflow.enclaves.containers.images import load_record
from ppml_airflow.errors import PpmlError, UnavailableError
from ppml_airflow.protocol.launches import GuestEvent, GuestResult
from tests.support.container_guests import ContainerGuests, containers_of, processes_in
from tests.support.small_images import wait_until
from tests.support.spark_guests import CHECKOUT

pytestmark = [
    pytest.mark.container,
    pytest.mark.kill,
    pytest.mark.timeout(600),
    pytest.mark.skipif("DOCKER_HOST" not in os.environ, reason="no Docker daemon in DOCKER_HOST: make container"),
]


@pytest.fixture
def spark(container_guests: ContainerGuests) -> ContainerGuests:
    return container_guests


@pytest.fixture
def run_id(spark: ContainerGuests, request: pytest.FixtureRequest) -> str:
    return spark.guests.ready_run(request.node.name)


def run(
    spark: ContainerGuests, run_id: str, *, step: str = "aggregate", once_leased: Callable[[], None] = lambda: None
) -> GuestResult:
    """Run a step, and do something once its guest holds keys."""

    def on_event(event: GuestEvent) -> None:
        if event.state == "leased":
            once_leased()

    return spark.runtime.run(spark.request(run_id, step=step), on_event=on_event)


def require_nothing_left(spark: ContainerGuests) -> None:
    wait_until(lambda: spark.containers() == [] and spark.private_folders == [], timeout_s=10)


def test_a_killed_container_and_a_killed_guest_leave_no_output_and_the_next_attempt_commits(
    spark: ContainerGuests, run_id: str
) -> None:
    def kill_container() -> None:
        spark.docker.kill(spark.containers()[0]["Id"])

    def kill_guest() -> None:
        os.kill(spark.guest(), signal.SIGKILL)

    for kill in (kill_container, kill_guest):
        with pytest.raises(UnavailableError) as ended:
            run(spark, run_id, once_leased=kill)
        assert ended.value.code == "guest_ended"
        require_nothing_left(spark)
    versions = list((spark.guests.storage / "report").glob("[0-9]*"))
    result = run(spark, run_id)
    assert (result.state, result.attempt) == ("committed", 3)
    assert len(list((spark.guests.storage / "report").glob("[0-9]*"))) == len(versions) + 1


def choose_guest_first(spark: ContainerGuests) -> None:
    """Once the job's program runs, have the kernel end the guest before it when memory runs out."""
    (container,) = spark.containers()

    def has_program(process: int) -> bool:
        try:
            return "job.py" in Path(f"/proc/{process}/cmdline").read_text()
        except OSError:
            return False

    def choose() -> None:
        wait_until(lambda: any(map(has_program, processes_in(container["Id"]))))
        Path(f"/proc/{spark.guest()}/oom_score_adj").write_text("1000")

    threading.Thread(target=choose, daemon=True).start()


@pytest.mark.parametrize("is_guest", [False, True], ids=["the-job", "the-guest"])
def test_a_job_that_wants_more_memory_than_its_container_has_says_so_and_leaves_no_output(
    is_guest: bool, spark: ContainerGuests, run_id: str
) -> None:
    with pytest.raises(PpmlError) as ended:
        run(spark, run_id, step="hungry", once_leased=lambda: choose_guest_first(spark) if is_guest else None)
    assert ended.value.code == "out_of_memory"
    assert spark.world.client.head("hungry") is None
    require_nothing_left(spark)
    if is_guest:
        spark.world.client.cancel(run_id, "hungry")
    else:
        assert spark.world.status(run_id, "hungry").code == "out_of_memory"


def test_a_killed_quoting_service_ends_its_container_and_the_next_start_removes_it(
    spark: ContainerGuests, run_id: str
) -> None:
    with pytest.raises(PpmlError) as ended:
        run(spark, run_id, step="sleeping", once_leased=spark.service.kill)
    assert ended.value.code == "service_gone"
    spark.service.wait()
    wait_until(lambda: [found["State"]["Status"] for found in spark.containers()] == ["exited"], timeout_s=5)
    spark.start_service()
    require_nothing_left(spark)
    spark.world.client.cancel(run_id, "sleeping")


@contextmanager
def another_daemon() -> Iterator[tuple[str, int]]:
    """A Docker daemon of its own: its address, and its process."""
    environment = {name: value for name, value in os.environ.items() if name != "DOCKER_HOST"}
    command = (CHECKOUT / "scripts" / "docker-daemon", "sh", "-c", 'echo "$DOCKER_HOST"; read -r _')
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as script:
        assert script.stdout is not None
        address = script.stdout.readline().strip()
        (daemon,) = [
            int(process.name)
            for process in Path("/proc").glob("[0-9]*")
            if address.encode() in _words(process) and _words(process)[0].endswith(b"dockerd")
        ]
        yield address, daemon
        script.communicate("\n")
    assert not Path(address.removeprefix("unix://")).parent.exists()


def _words(process: Path) -> list[bytes]:
    try:
        return (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return [b""]


def copy_image(spark: ContainerGuests, *, to: str) -> None:
    """Have the image, by the same id, at another daemon."""
    record = load_record(spark.image, "spark")
    assert record is not None
    with subprocess.Popen(("docker", "save", record.image_id), stdout=subprocess.PIPE) as saved:
        subprocess.run(("docker", "--host", to, "load", "--quiet"), stdin=saved.stdout, check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="a second Docker daemon needs root")
def test_a_killed_daemon_takes_its_container_along_and_the_next_attempt_commits(
    spark: ContainerGuests, run_id: str
) -> None:
    spark.stop_service()
    with another_daemon() as (address, daemon):
        copy_image(spark, to=address)
        spark.start_service(DOCKER_HOST=address)

        def kill_daemon() -> None:
            assert len(containers_of(spark.home, docker=APIClient(address))) == 1
            os.kill(daemon, signal.SIGKILL)

        with pytest.raises(UnavailableError) as ended:
            run(spark, run_id, once_leased=kill_daemon)
        assert ended.value.code == "guest_ended"
        with pytest.raises(UnavailableError) as away:
            run(spark, run_id)
        assert away.value.code == "no_docker"
        assert spark.private_folders == []
        spark.stop_service()
    spark.start_service()
    assert run(spark, run_id).attempt == 2
