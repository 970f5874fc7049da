"""A set of real guests: what three enclaves find together is what pandas computes; one that is killed is replaced."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import AttemptRecord, Receipt, RunClosed
from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from ppml_airflow.provenance.passport import parse_passport
from tests.support.commands import Commands, processes_in, processes_of
from tests.support.ready_images import CHECKOUT
from tests.support.small_images import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
DAG_FILE = CHECKOUT / "dags" / "enclave_set.py"
SLOWLY = "    import io\n"


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(12)
    file = tmp_path_factory.mktemp("source") / "visits.csv"
    people = pd.DataFrame({"mdvis": random.poisson(4, 5000), "disea": random.gamma(2, 6, 5000).clip(0, 58)})
    people.to_csv(file, index=False)
    return file


def require_answer(said: str, *, visits: Path, minimum_people: int) -> None:
    """The opened answer is what pandas computes outside, in one piece."""
    result = next(line for line in said.splitlines() if line.startswith("result: ")).removeprefix("result: ")
    found = pd.read_csv(result)
    people = pd.read_csv(visits)
    labels = pd.cut(people["disea"], bins=range(0, 64, 4), right=False, labels=range(0, 60, 4)).astype("int64")
    grouped = people.assign(diseases=labels).groupby("diseases")
    wanted = pd.DataFrame({"people": grouped.size(), "visits": grouped["mdvis"].sum()})
    wanted = wanted[wanted["people"] >= minimum_people].reset_index()
    assert found.to_dict("records") == wanted.to_dict("records")


def newest_passport(ppml: Commands) -> tuple[tuple[AttemptRecord, ...], Receipt]:
    """The attempts of members, and the leader's receipt."""
    newest = ppml.newest_passport()
    passport = parse_passport(newest.read_bytes())
    closed = canonical.decode(passport.closed.payload, into=RunClosed)
    receipt = canonical.decode(passport.contents.receipts[-1].payload, into=Receipt)
    return tuple(one for one in closed.attempts if one.role == "member"), receipt


def test_three_enclaves_find_what_pandas_computes(ppml: Commands, visits: Path) -> None:
    conf = json.dumps({"minimum_people": 20})
    said = ppml("run", str(DAG_FILE), "--source", f"visits={visits}", "--conf", conf).stdout
    require_answer(said, visits=visits, minimum_people=20)
    members, receipt = newest_passport(ppml)
    assert [(one.attempt, one.index, one.outcome) for one in members] == [
        (1, 0, "committed"), (1, 1, "ended"), (1, 2, "ended"),
    ]  # fmt: skip
    assert [member.index for member in receipt.members] == [0, 1, 2]
    assert not list((ppml.home / "storage" / "sets").glob("*"))
    assert processes_of(ppml.home) == []


def test_a_member_that_is_killed_is_replaced_and_the_answer_is_the_same(
    ppml: Commands, visits: Path, tmp_path: Path
) -> None:
    file = tmp_path / "slow_set.py"
    slowly = DAG_FILE.read_text().replace(SLOWLY, f"{SLOWLY}    import time\n\n    time.sleep(8)\n", 1)
    file.write_text(slowly.replace('"enclave_set"', '"slow_set"'))
    killer = threading.Thread(target=kill_member, args=(ppml.home,), kwargs={"index": 1})
    killer.start()
    said = ppml("run", str(file), "--source", f"visits={visits}", "--conf", json.dumps({"minimum_people": 20})).stdout
    killer.join()
    require_answer(said, visits=visits, minimum_people=20)
    members, receipt = newest_passport(ppml)
    assert [(one.index, one.outcome) for one in members] == [
        (0, "committed"), (1, "replaced"), (2, "ended"), (1, "ended"),
    ]  # fmt: skip
    assert [(one.index, one.is_replacement) for one in receipt.members][-1] == (1, True)
    assert processes_of(ppml.home) == []


ENGINE_SET = """
import pendulum
from airflow.sdk import DAG

from ppml_airflow.operators import DecryptOperator, EncryptOperator, PassportOperator, {operator}

with DAG("engine_set", schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), max_active_runs=1):
    count = {operator}(
        task_id="count",
        sql="SELECT mdvis AS visits, count(*) AS people FROM visits GROUP BY mdvis",
        inputs=["visits"],
        outputs={{"counts": ["analyst"]}},
        members=3,
        {limits},
    )
    EncryptOperator(dataset="visits") >> count >> DecryptOperator(dataset="counts") >> PassportOperator()
"""
ENGINES = {
    "TrustedSparkSubmitOperator": "driver_memory='1100m', cores=1",
    "TrustedFlinkOperator": "memory='1536m', cores=1",
}


@pytest.mark.slow
@pytest.mark.parametrize("operator", ENGINES)
def test_an_engine_in_three_enclaves_counts_what_pandas_counts(
    operator: str, ppml: Commands, visits: Path, tmp_path: Path
) -> None:
    file = tmp_path / "engine_set.py"
    file.write_text(ENGINE_SET.format(operator=operator, limits=ENGINES[operator]))
    said = ppml("run", str(file), "--source", f"visits={visits}").stdout
    result = next(line for line in said.splitlines() if line.startswith("result: ")).removeprefix("result: ")
    wanted = pd.read_csv(visits).groupby("mdvis").size()
    assert pd.read_csv(result).set_index("visits")["people"].to_dict() == wanted.to_dict()
    members, receipt = newest_passport(ppml)
    assert [(one.index, one.outcome) for one in members] == [(0, "committed"), (1, "ended"), (2, "ended")]
    assert [member.index for member in receipt.members] == [0, 1, 2]
    assert processes_of(ppml.home) == []


def kill_member(home: Path, *, index: int) -> None:
    """Kill a member's guest once its job runs."""
    root = PrivateFolders.of_home(home).root

    def guests() -> list[int]:
        found = []
        for description in root.glob("*/job/conf/job.json"):
            told = json.loads(description.read_text() or "{}")
            running = processes_in(description.parents[1])
            if told.get("index") == index and running:
                found += processes_in(description.parents[2])
        return found

    wait_until(guests, timeout_s=300)
    for process in guests():
        os.kill(process, signal.SIGKILL)
