"""Shipped pipelines with every enclave a container, on what `ppml up` starts: a real scheduler and a real triggerer.

Each answer is compared with one that another engine computes outside, on the owner's own files.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from docker import APIClient

from ppml_airflow.cli.processes import descendants
from tests.support.answers import (
    USE_OF_DOCTORS,
    opened,
    require_groups,
    require_nightly,
    require_pi,
    require_use_of_doctors,
    sources,
)
from tests.support.commands import Commands
from tests.support.container_guests import containers_of
from tests.support.inference import inference_run, require_kinds
from tests.support.installation import Installation
from tests.support.small_images import wait_until

pytestmark = [
    pytest.mark.container,
    pytest.mark.timeout(900),
    pytest.mark.skipif("DOCKER_HOST" not in os.environ, reason="no Docker daemon in DOCKER_HOST: make container"),
]
DAGS = ("nightly_analytics", "spark_pi", "spark_sql", "enclave_task")
ENDLESS = {"samples": 10_000_000_000, "seed": 3}
"""Params of `spark_pi` that keep it at work for much more than a minute."""


@pytest.fixture(scope="module")
def approved(container_installation: Installation) -> Installation:
    pi = container_installation.home / "dags" / "spark_pi.py"
    pi.write_text(pi.read_text().replace("maximum=100_000_000", f"maximum={ENDLESS['samples']}"))
    for dag_id in DAGS:
        container_installation.approve(dag_id, "--runs-per-slot", "5")
    return container_installation


def succeed(approved: Installation, dag_id: str, params: dict[str, int]) -> str:
    airflow = approved.airflow
    run = airflow.trigger(dag_id, params)
    assert airflow.wait_for_run(dag_id, run) == "success", airflow.task_states(dag_id, run)
    passport = airflow.xcom(dag_id, run, "passport")["path"]
    assert "SIMULATED" in approved.ppml("verify", passport, "--trust", approved.told["trust"]).stdout
    return run


def test_the_nightly_run_delivers_what_duckdb_answers_and_its_step_waits_without_a_worker(
    approved: Installation,
) -> None:
    params = {"minimum_people": 400, "minimum_diseases": 7}
    run = succeed(approved, "nightly_analytics", params)
    require_nightly(approved.home, **params)
    said = approved.airflow.task_log("nightly_analytics", run, "aggregate")
    assert "waiting for it without a worker" in said


def test_an_approved_job_file_answers_what_numpy_does(approved: Installation) -> None:
    params = {"samples": 300_007, "seed": 11}
    succeed(approved, "spark_pi", params)
    require_pi(approved.home, **params)


def test_a_query_and_the_program_after_it_answer_what_duckdb_does(approved: Installation) -> None:
    params = {"minimum_diseases": 9, "smallest_group": 500}
    succeed(approved, "spark_sql", params)
    for output in USE_OF_DOCTORS:
        require_use_of_doctors(approved.home, output, **params)


def test_a_function_answers_what_pandas_does(approved: Installation) -> None:
    params = {"minimum_people": 40, "often": 4}
    succeed(approved, "enclave_task", params)
    answer = opened(approved.home, "groups")
    require_groups(answer, visits=sources(approved.home) / "visits.csv", **params)


def test_a_model_in_a_joint_domain_answers_what_onnxruntime_does(
    joint_containers: Commands, inference_sources: Path
) -> None:
    conf = ("--runtime", "docker", "--conf", json.dumps({"minimum_score": 0.4}))
    said = joint_containers(*inference_run(inference_sources), *conf).stdout
    assert "acting as all 2 owners of the SIMULATED domain" in said
    result = next(line for line in said.splitlines() if line.startswith("result: ")).removeprefix("result: ")
    require_kinds(Path(result), sources=inference_sources, minimum_score=0.4)


def leased(approved: Installation, docker: APIClient) -> str:
    """A run of `spark_pi` whose container is at work."""
    airflow = approved.airflow
    run = airflow.trigger("spark_pi", ENDLESS)
    airflow.wait_for_task("spark_pi", run, "estimate", "deferred")
    wait_until(lambda: len(containers_of(approved.home, docker=docker)) == 1, timeout_s=30)
    return run


def seconds_until(is_so: Callable[[], bool], *, at_most: float) -> float:
    started = time.monotonic()
    wait_until(is_so, timeout_s=at_most)
    return time.monotonic() - started


def test_a_task_that_is_failed_by_hand_takes_its_container_with_it(approved: Installation, docker: APIClient) -> None:
    """Within five seconds of its watch's end (see test_containers), once Airflow's triggerer has heard of it."""
    run = leased(approved, docker)
    approved.airflow.set_task_state("spark_pi", run, "estimate", "failed")
    wait_until(lambda: containers_of(approved.home, docker=docker) == [], timeout_s=15)
    assert approved.airflow.wait_for_run("spark_pi", run) == "failed"


@pytest.mark.kill
def test_a_container_is_gone_a_minute_after_its_triggerer_died_for_good(
    approved: Installation, docker: APIClient
) -> None:
    """The supervisor would start a killed triggerer again: stopped, it is as good as dead, and not replaced."""
    run = leased(approved, docker)
    triggerer = approved.service("airflow-triggerer")
    assert triggerer is not None
    group = [triggerer, *descendants(triggerer)]
    for process in group:
        os.kill(process, signal.SIGSTOP)
    try:
        assert seconds_until(lambda: containers_of(approved.home, docker=docker) == [], at_most=60) > 40
    finally:
        for process in group:
            os.kill(process, signal.SIGCONT)
    assert approved.airflow.wait_for_run("spark_pi", run) == "failed"
