"""Kill a process with SIGKILL: what ends, what is left, and what a second try gives.

`make kill` runs them all (`pytest -m "kill and not container"`), `make container` those of containers, among others.

| process | expected end | where |
|---|---|---|
| driver (Java) | the attempt fails with a code, no output version; the next attempt commits | here |
| Python worker | the same | here |
| guest | the attempt stays open, its Java dies with it; the next attempt fences it and commits | here |
| owner's agent | started again; the seal goes on, one version for the run | here |
| broker | started again; guest and operators ask again, the run succeeds once | here |
| triggerer | started again; the gate that it watched opens | here |
| Flink's TaskManager | `out_of_memory`, no output, no process left | `workloads/flink/test_sql_job.py` |
| process that holds a model | `out_of_memory`; the next run commits | `e2e/test_inference.py` |
| agent, while sealing | no half dataset; asked again it seals once | `agent/test_process.py` |
| agent, before and after it publishes | one version, or the one that was committed | `agent/test_process.py` |
| agent, while delivering | the previous result stands | `agent/test_process.py` |
| broker, at any moment, hundreds of times | what it answered stands | `broker/test_kill.py` |
| `ppml demo` | no process is left | `e2e/test_demo.py` |
| quoting service | guest and Java die with it; its next start sweeps | `e2e/test_spark_guest.py` |
| container; its guest | `guest_ended`, no output version; the next attempt commits | `e2e/test_container_kills.py` |
| its job or guest, for want of memory | `out_of_memory`, no output version | `e2e/test_container_kills.py` |
| its quoting service | it ends by itself; the next start removes it | `e2e/test_container_kills.py` |
| Docker daemon | `guest_ended`, then `no_docker`; later the next attempt commits | `e2e/test_container_kills.py` |
| its triggerer, for good | the container is gone within a minute | `e2e/test_container_pipelines.py` |
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ppml_airflow import canonical
from ppml_airflow.errors import PpmlError, UnavailableError
from ppml_airflow.protocol.launches import GuestEvent, GuestResult
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.sealing.versions import load_envelope
from tests.support.airflow_api import until
from tests.support.installation import Installation, changed
from tests.support.small_images import wait_until
from tests.support.spark_guests import CASTING, SQL, SparkGuests

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.kill, pytest.mark.timeout(900)]
DAG = "nightly_analytics"


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkGuests]:
    with SparkGuests(tmp_path_factory.mktemp("spark")) as guests:
        yield guests


@pytest.fixture(scope="module")
def approved(installation: Installation) -> Installation:
    installation.approve(DAG, "--runs-per-slot", "20", "--backfill", "1")
    return installation


def is_java(words: list[str]) -> bool:
    return Path(words[0]).name == "java"


def is_worker(words: list[str]) -> bool:
    """A Python worker is forked by pyspark's daemon and keeps its command line."""
    return "pyspark.daemon" in words


def is_guest(words: list[str]) -> bool:
    return "ppml_airflow.guest" in words


def run_and_kill(
    spark: SparkGuests, run_id: str, *, step: str, which: Callable[[list[str]], bool], sql: bytes = SQL
) -> GuestResult:
    """Run a step and kill its newest process of that kind once the lease is there."""
    killed = threading.Event()

    def kill() -> None:
        while not killed.wait(0.02):
            for process in sorted(spark.processes(), reverse=True):
                try:
                    words = Path(f"/proc/{process}/cmdline").read_text().split("\0")
                except OSError:
                    continue
                if which(words):
                    os.kill(process, signal.SIGKILL)
                    killed.set()
                    return

    def on_event(event: GuestEvent) -> None:
        if event.state == "leased":
            threading.Thread(target=kill, daemon=True).start()

    try:
        return spark.runtime.run(spark.request(run_id, step=step, sql=sql), on_event=on_event)
    finally:
        assert killed.is_set(), "nothing was killed"
        wait_until(lambda: spark.processes() == [] and spark.private_folders == [])


def require_next_attempt_commits(spark: SparkGuests, run_id: str, *, step: str, output: str) -> None:
    assert spark.world.client.head(output) is None
    result = spark.runtime.run(spark.request(run_id, step=step), on_event=lambda event: None)
    assert (result.state, result.attempt) == ("committed", 2)


def test_a_killed_driver_fails_the_attempt_and_the_next_one_commits(spark: SparkGuests) -> None:
    run_id = spark.guests.ready_run("driver")
    with pytest.raises(PpmlError) as failed:
        run_and_kill(spark, run_id, step="aggregate", which=is_java)
    assert failed.value.code in ("out_of_memory", "job_failed")
    assert spark.world.status(run_id).code == failed.value.code
    require_next_attempt_commits(spark, run_id, step="aggregate", output="report")


def test_a_killed_python_worker_fails_the_attempt_and_the_next_one_commits(spark: SparkGuests) -> None:
    run_id = spark.guests.ready_run("worker")
    with pytest.raises(PpmlError) as failed:
        run_and_kill(spark, run_id, step="working", which=is_worker)
    assert failed.value.code == "job_failed"
    require_next_attempt_commits(spark, run_id, step="working", output="working")


def test_a_killed_guest_takes_java_with_it_and_the_next_attempt_fences_it(spark: SparkGuests) -> None:
    run_id = spark.guests.ready_run("guest")
    with pytest.raises(UnavailableError) as failed:
        run_and_kill(spark, run_id, step="casting", which=is_guest, sql=CASTING)
    assert failed.value.code == "guest_ended"
    assert spark.world.status(run_id, "casting").attempt == 1
    with pytest.raises(PpmlError) as second:  # of this very step: a value that breaks its query
        spark.runtime.run(spark.request(run_id, step="casting", sql=CASTING), on_event=lambda event: None)
    assert second.value.code == "cast_error"
    assert spark.world.status(run_id, "casting").attempt == 2


def runs_of_versions(installation: Installation, dataset: str) -> list[str | None]:
    """The run of each version in the storage, sorted. Unpausing the DAG starts its latest scheduled run, too."""
    folders = (installation.home / "storage" / dataset).glob("[0-9]*")
    return sorted(canonical.decode(load_envelope(folder).payload, into=Manifest).run_id for folder in folders)


def require_one_version_of_each_run(installation: Installation, dataset: str, *, before: list[str | None]) -> None:
    found = runs_of_versions(installation, dataset)
    assert len(found) > len(before)
    assert sorted(set(found)) == found


def run_and_kill_service(installation: Installation, name: str, *, while_state: tuple[str, ...], task: str) -> str:
    """Trigger the pipeline, kill a service while a task is in one of these states, wait for its end."""
    airflow = installation.airflow
    run = airflow.trigger(DAG)
    airflow.wait_for_task(DAG, run, task, *while_state)
    before = installation.service(name)
    assert before is not None
    os.kill(before, signal.SIGKILL)
    until(lambda: installation.service(name) not in (None, before), seconds=60)
    assert airflow.wait_for_run(DAG, run, seconds=400) == "success", airflow.task_states(DAG, run)
    return run


def test_a_killed_agent_seals_once(approved: Installation) -> None:
    before = runs_of_versions(approved, "visits")
    states = ("scheduled", "queued", "running", "success")
    run_and_kill_service(approved, "owner-agent", while_state=states, task="encrypt_visits")
    require_one_version_of_each_run(approved, "visits", before=before)


def test_a_killed_broker_loses_nothing_that_it_issued(approved: Installation) -> None:
    before = runs_of_versions(approved, "report")
    run = run_and_kill_service(approved, "broker", while_state=("running",), task="aggregate")
    require_one_version_of_each_run(approved, "report", before=before)
    passport = approved.airflow.xcom(DAG, run, "passport")["path"]
    approved.ppml("verify", passport, "--trust", approved.told["trust"])


def test_a_killed_triggerer_watches_its_gates_again(approved: Installation) -> None:
    """The gate after the step stands beside it here, so that it waits from the start."""
    old = "        >> aggregate\n        >> AttestationSensor(after=aggregate)\n"
    new = "        >> [aggregate, AttestationSensor(after=aggregate)]\n"
    with changed(approved, f"{DAG}.py", old, new):
        until(lambda: len(_after(approved, "gate_before_aggregate")) == 2, seconds=90)
        gate = "gate_after_aggregate"
        run_and_kill_service(approved, "airflow-triggerer", while_state=("deferred",), task=gate)


def _after(installation: Installation, task: str) -> list[str]:
    found: list[str] = installation.airflow.http.get(f"/api/v2/dags/{DAG}/tasks/{task}").json()["downstream_task_ids"]
    return found
