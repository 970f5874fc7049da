"""Guests in real containers: what they may, what they answer, and that nothing of them is left."""

from __future__ import annotations

import os
import time

import pytest

from ppml_airflow import canonical
from ppml_airflow.enclaves.containers.images import load_record, record_file
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from ppml_airflow.protocol.launches import GuestEvent
from ppml_airflow.sealing.datasets import open_data_key, open_table
from ppml_airflow.sealing.manifest import Manifest
from tests.support.container_guests import ContainerGuests
from tests.support.small_images import wait_until

pytestmark = [
    pytest.mark.container,
    pytest.mark.timeout(1200),
    pytest.mark.skipif("DOCKER_HOST" not in os.environ, reason="no Docker daemon in DOCKER_HOST: make container"),
]


@pytest.fixture
def spark(container_guests: ContainerGuests) -> ContainerGuests:
    return container_guests


@pytest.fixture
def run_id(spark: ContainerGuests, request: pytest.FixtureRequest) -> str:
    return spark.guests.ready_run(request.node.name)


def ignore(event: GuestEvent) -> None:
    del event


class Stop(Exception):
    """Raised by tests in the middle of a guest's life."""


def test_a_gate_is_granted_to_the_image_of_the_accepted_id(spark: ContainerGuests, run_id: str) -> None:
    assert spark.runtime.run(spark.request(run_id, role="preflight"), on_event=ignore).state == "granted"
    assert spark.containers() == []
    assert spark.private_folders == []


def test_a_query_runs_in_a_confined_container_and_its_answer_is_sealed(spark: ContainerGuests, run_id: str) -> None:
    seen: dict[str, str] = {}

    def look(event: GuestEvent) -> None:
        if event.state == "leased":
            (container,) = spark.containers()
            seen.update(container=str(container), status=spark.read("/proc/1/status"), net=spark.read("/proc/net/dev"))
            seen.update(sockets=spark.read("/run/ppml/guest.sock"))

    result = spark.runtime.run(spark.request(run_id), on_event=look)
    envelope = spark.world.client.manifest(result.outputs[0].manifest)
    manifest = canonical.decode(envelope.payload, into=Manifest)
    owners = spark.world.owners
    data_key = open_data_key(
        manifest, key=owners.dataset_keys["report"], kek_id=owners.dataset_certificates["report"].kek_id
    )
    batches = open_table(manifest, folder=spark.guests.part(manifest).parent, data_key=data_key)
    assert [row for batch in batches for row in batch.to_pylist()] == [{"plan": "Smith", "visits": 3}]
    status = dict(line.split(":\t") for line in seen["status"].splitlines() if ":\t" in line)
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert set(status["Uid"].split()) == {str(os.getuid() or 10001)}
    assert [line.split(":")[0].strip() for line in seen["net"].splitlines()[2:]] == ["lo"]
    assert "No such file" in seen["sockets"]
    assert "Smith" not in seen["container"]
    assert data_key.hex() not in seen["container"]
    assert spark.containers() == []


def test_a_client_that_leaves_takes_the_container_with_it_within_five_seconds(
    spark: ContainerGuests, run_id: str
) -> None:
    def leave(event: GuestEvent) -> None:
        if event.state == "leased":
            assert len(spark.containers()) == 1
            raise Stop

    with pytest.raises(Stop):
        spark.runtime.run(spark.request(run_id), on_event=leave)
    wait_until(lambda: spark.containers() == [] and spark.private_folders == [], timeout_s=5)
    spark.world.client.cancel(run_id, "aggregate")


def test_a_watched_container_is_gone_five_seconds_after_its_watch_is_ended(spark: ContainerGuests, run_id: str) -> None:
    watch_id = spark.runtime.start(spark.request(run_id))
    wait_until(lambda: len(spark.containers()) == 1)
    spark.runtime.end(watch_id)
    wait_until(lambda: spark.containers() == [], timeout_s=5)
    spark.world.client.cancel(run_id, "aggregate")


def test_a_container_that_nobody_watches_is_gone_within_a_minute(spark: ContainerGuests, run_id: str) -> None:
    spark.runtime.start(spark.request(run_id, step="sleeping"))
    started = time.monotonic()
    wait_until(lambda: len(spark.containers()) == 1)
    wait_until(lambda: spark.containers() == [] and spark.private_folders == [], timeout_s=65)
    assert 50 < time.monotonic() - started <= 60
    spark.world.client.cancel(run_id, "sleeping")


def test_another_image_under_the_record_is_denied(spark: ContainerGuests, run_id: str) -> None:
    record = record_file(spark.image, "spark")
    before, built = record.read_bytes(), load_record(spark.image, "spark")
    assert built is not None
    made = spark.docker.create_container(image=built.image_id)
    other = spark.docker.commit(made["Id"], changes=["LABEL other=1"])["Id"]
    spark.docker.remove_container(made["Id"])
    try:
        record.write_bytes(before.replace(built.image_id.encode(), other.encode()))
        with pytest.raises(PolicyDeniedError, match="measurement"):
            spark.runtime.run(spark.request(run_id, role="preflight"), on_event=ignore)
    finally:
        record.write_bytes(before)
        spark.docker.remove_image(other)


def test_an_image_that_is_not_there_is_named_and_nothing_is_pulled(spark: ContainerGuests, run_id: str) -> None:
    record = record_file(spark.image, "spark")
    before, built = record.read_bytes(), load_record(spark.image, "spark")
    assert built is not None
    try:
        record.write_bytes(before.replace(built.image_id.encode(), b"sha256:" + b"0" * 64))
        with pytest.raises(ConfigurationError) as missing:
            spark.runtime.run(spark.request(run_id, role="preflight"), on_event=ignore)
        assert missing.value.code == "image_missing"
    finally:
        record.write_bytes(before)
    assert spark.containers() == []
