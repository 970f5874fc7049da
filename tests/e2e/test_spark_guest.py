"""Guests of the real Spark image, from launch to commit, and everything of them gone afterwards."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ppml_airflow import canonical
from ppml_airflow.enclaves.measurement import FileDigestCache, difference, measure
from ppml_airflow.enclaves.runtimes.long_lived import LongLivedGuest
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, VerificationError
from ppml_airflow.protocol.launches import GuestEvent
from ppml_airflow.sealing.datasets import open_data_key, open_table
from ppml_airflow.sealing.manifest import Manifest
from tests.support.small_images import wait_until
from tests.support.spark_guests import CASTING, SQL, UNKNOWN_COLUMN, SparkGuests

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkGuests]:
    with SparkGuests(tmp_path_factory.mktemp("spark")) as guests:
        yield guests


@pytest.fixture
def run_id(spark: SparkGuests, request: pytest.FixtureRequest) -> str:
    return spark.guests.ready_run(request.node.name)


def ignore(event: GuestEvent) -> None:
    del event


class Stop(Exception):
    """Raised by tests in the middle of a guest's life."""


def test_a_gate_is_granted_to_the_accepted_image(spark: SparkGuests, run_id: str) -> None:
    assert spark.runtime.run(spark.request(run_id, role="preflight"), on_event=ignore).state == "granted"
    assert spark.world.status(run_id).granted
    assert spark.private_folders == []


def test_a_query_runs_in_an_enclave_and_its_answer_is_sealed(spark: SparkGuests, run_id: str) -> None:
    events: list[GuestEvent] = []
    result = spark.runtime.run(spark.request(run_id), on_event=events.append)
    assert result.state == "committed"
    assert [event.state for event in events if event.state != "running"] == [
        "measuring",
        "starting",
        "verifying",
        "preparing",
        "attesting",
        "leased",
        "sealing",
        "committed",
    ]
    envelope = spark.world.client.manifest(result.outputs[0].manifest)
    manifest = canonical.decode(envelope.payload, into=Manifest)
    owners = spark.world.owners
    data_key = open_data_key(
        manifest, key=owners.dataset_keys["report"], kek_id=owners.dataset_certificates["report"].kek_id
    )
    batches = open_table(manifest, folder=spark.guests.part(manifest).parent, data_key=data_key)
    assert [row for batch in batches for row in batch.to_pylist()] == [{"plan": "Smith", "visits": 3}]
    assert spark.processes() == []
    assert spark.private_folders == []


def test_one_long_lived_guest_does_the_jobs_of_two_runs_and_ends_with_its_connection(
    spark: SparkGuests, request: pytest.FixtureRequest
) -> None:
    runs = [spark.guests.ready_run(f"{request.node.name}-{number}") for number in range(2)]
    with LongLivedGuest(spark.socket, spark.request(runs[0]), on_event=ignore) as guest:
        (process,) = spark.processes()
        for run_id in runs:
            assert guest.run(spark.request(run_id), on_event=ignore).state == "committed"
            assert spark.processes() == [process]
        with pytest.raises(VerificationError) as refused:
            guest.run(spark.request(runs[1], step="casting", sql=CASTING), on_event=ignore)
        assert refused.value.code == "other_enclave_session"
    wait_until(lambda: spark.processes() == [])
    wait_until(lambda: spark.private_folders == [])


def test_a_python_job_leaves_the_image_as_it_was_measured(spark: SparkGuests, run_id: str) -> None:
    before = measure(spark.image, cache=FileDigestCache()).listing
    result = spark.runtime.run(spark.request(run_id, step="python"), on_event=ignore)
    assert [output.dataset for output in result.outputs] == ["survey"]
    assert difference(before, measure(spark.image, cache=FileDigestCache()).listing) == ()


def test_processes_of_the_job_do_not_hold_the_socket_on_which_quotes_are_made(spark: SparkGuests, run_id: str) -> None:
    seen: list[tuple[str, bool]] = []

    def look(event: GuestEvent) -> None:
        if event.state != "leased":
            return
        processes = {process: Path(f"/proc/{process}/cmdline").read_text().split("\0") for process in spark.processes()}
        guest = next(process for process, words in processes.items() if "--channel" in words)
        number = processes[guest][processes[guest].index("--channel") + 1]
        channel = Path(f"/proc/{guest}/fd/{number}").readlink()
        for process, words in processes.items():
            held = [path.readlink() for path in Path(f"/proc/{process}/fd").iterdir()]
            seen.append((Path(words[0]).name, channel in held))

    spark.runtime.run(spark.request(run_id), on_event=look)
    assert [holds for name, holds in seen if name == "java"] == [False]
    assert sum(holds for _, holds in seen) == 1


def test_one_changed_token_of_the_query_is_refused(spark: SparkGuests, run_id: str) -> None:
    with pytest.raises(VerificationError) as refused:
        spark.runtime.run(spark.request(run_id, sql=SQL.replace(b"<", b">")), on_event=ignore)
    assert refused.value.code == "code_changed"


def test_a_mistake_in_the_query_is_told_in_full_before_the_lease(spark: SparkGuests, run_id: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        spark.runtime.run(spark.request(run_id, step="mistaken", sql=UNKNOWN_COLUMN), on_event=ignore)
    assert refused.value.code == "unknown_column"
    assert "names" in str(refused.value)
    assert "name" in str(refused.value).replace("names", "")
    assert spark.world.status(run_id, "mistaken").attempt == 0


def test_a_value_that_breaks_the_query_does_not_leave_with_the_error(spark: SparkGuests, run_id: str) -> None:
    with pytest.raises(ConfigurationError) as failed:
        spark.runtime.run(spark.request(run_id, step="casting", sql=CASTING), on_event=ignore)
    assert failed.value.code == "cast_error"
    assert "Smith" not in str(failed.value)
    assert spark.world.status(run_id, "casting").code == "cast_error"


def test_a_changed_file_of_the_environment_is_denied_until_it_is_accepted(spark: SparkGuests, run_id: str) -> None:
    stray = spark.image / "env" / "stray.py"
    stray.write_text("")
    try:
        with pytest.raises(PolicyDeniedError) as denied:
            spark.runtime.run(spark.request(run_id, role="preflight"), on_event=ignore)
        assert "measurement" in str(denied.value)
    finally:
        stray.unlink()
    assert spark.runtime.run(spark.request(run_id, role="preflight"), on_event=ignore).state == "granted"


def test_a_client_that_leaves_takes_guest_java_and_plaintext_with_it(spark: SparkGuests, run_id: str) -> None:
    alive: list[int] = []

    def leave(event: GuestEvent) -> None:
        if event.state == "leased":
            alive.extend(spark.processes())
            raise Stop

    with pytest.raises(Stop):
        spark.runtime.run(spark.request(run_id), on_event=leave)
    assert len(alive) >= 3
    wait_until(lambda: spark.processes() == [] and spark.private_folders == [])
    spark.world.client.cancel(run_id, "aggregate")


@pytest.mark.kill
def test_killing_the_service_kills_guest_and_java_and_the_next_start_sweeps(spark: SparkGuests, run_id: str) -> None:
    def kill(event: GuestEvent) -> None:
        if event.state == "leased":
            spark.service.send_signal(signal.SIGKILL)
            raise Stop

    with pytest.raises(Stop):
        spark.runtime.run(spark.request(run_id), on_event=kill)
    spark.service.wait()
    wait_until(lambda: spark.processes() == [])
    assert len(spark.private_folders) == 1
    spark.start_service()
    assert spark.private_folders == []
