"""`ppml demo`, `run` and `logs` on a fresh home: what they print, and that the answer is the query's.

The tests share one home and run in the order in which they stand; a demo is killed last, because its output stays
reserved for a while.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from tests.support.commands import PPML, Commands, processes_of
from tests.support.pi import estimate_of_pi
from tests.support.ready_images import CHECKOUT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
LAST = ("result", "passport", "verify")


@pytest.fixture(scope="module")
def ppml() -> Iterator[Commands]:
    home = Path(tempfile.mkdtemp(prefix="ppml-"))
    yield Commands(home)
    left = processes_of(home)
    shutil.rmtree(home, ignore_errors=True)
    assert left == []


def last_lines(stdout: str) -> dict[str, str]:
    """The three lines for scripts, which must be the last ones, in this order."""
    lines = stdout.splitlines()[-len(LAST) :]
    told = dict(line.split(": ", 1) for line in lines)
    assert tuple(told) == LAST
    return told


def rows(file: str) -> list[tuple[object, ...]]:
    return duckdb.sql(f"SELECT * FROM read_csv('{file}', header = true)").fetchall()  # noqa: S608


def test_the_demo_prints_a_line_per_stage_and_its_passport_verifies(ppml: Commands) -> None:
    said = ppml("demo").stdout
    for stage in ("SIMULATED domain", "signed the approval", "task encrypt_visits", "granted", "committed", "verified"):
        assert stage in said
    told = last_lines(said)
    assert len(rows(told["result"])) == 6
    assert subprocess.run(shlex.split(told["verify"]), check=False, capture_output=True).returncode == 0
    ppml("verify", told["passport"], expect=1)
    assert processes_of(ppml.home) == []


@pytest.mark.slow
def test_another_file_and_another_query_give_that_querys_answer(ppml: Commands, tmp_path: Path) -> None:
    sales, query = tmp_path / "sales.csv", tmp_path / "query.sql"
    sales.write_text("shop,amount,day\n" + "".join(f"shop{n % 7},{n}.25,2026-01-{n % 28 + 1:02}\n" for n in range(999)))
    query.write_text("SELECT shop, sum(amount) AS total, max(day) AS last FROM sales GROUP BY shop ORDER BY shop")
    before = Path(last_lines(ppml("run", str(CHECKOUT / "dags" / "nightly_analytics.py")).stdout)["result"]).stat()
    told = last_lines(ppml("demo", "--source", str(sales), "--sql", str(query)).stdout)
    expected = duckdb.sql(query.read_text().replace("sales", f"read_csv('{sales}')", 1)).fetchall()
    assert rows(told["result"]) == expected
    assert Path(told["result"]).stat().st_ino != before.st_ino, "replaced by a rename"


def test_the_sealed_log_opens_with_the_owners_key(ppml: Commands) -> None:
    newest = ppml.newest_passport()
    assert "--- aggregate-1" in ppml("logs", newest.stem).stdout


def test_an_approved_job_file_estimates_pi_by_demo_and_by_run(ppml: Commands) -> None:
    params = {"samples": 200_003, "seed": 7}
    for command in (("demo", "--dag", "spark_pi"), ("run", str(CHECKOUT / "dags" / "spark_pi.py"))):
        told = last_lines(ppml(*command, "--conf", json.dumps(params)).stdout)
        assert rows(told["result"]) == [(estimate_of_pi(**params), params["samples"])]
        assert subprocess.run(shlex.split(told["verify"]), check=False, capture_output=True).returncode == 0
        params["seed"] += 1


@pytest.mark.slow
def test_params_out_of_bounds_fail_the_demo(ppml: Commands) -> None:
    failed = ppml("demo", "--conf", '{"minimum_people": 1}', expect=1)
    assert "result:" not in failed.stdout
    assert "failed" in failed.stderr


@pytest.mark.slow
def test_a_query_that_names_no_column_is_explained_and_fails_before_any_key(ppml: Commands, tmp_path: Path) -> None:
    (tmp_path / "query.sql").write_text("SELECT nonsense FROM plans")
    failed = ppml("demo", "--sql", str(tmp_path / "query.sql"), expect=1)
    assert re.search(r"nonsense.*coinsurance", failed.stdout, flags=re.DOTALL)


@pytest.mark.slow
def test_a_file_of_the_image_that_somebody_changed_is_denied_until_the_owner_accepts(ppml: Commands) -> None:
    (ppml.home / "images" / "spark" / "image" / "README.md").open("a").write("changed\n")
    measured = ppml("image", "measure", "--diff").stdout
    assert "NOT accepted" in measured
    assert "changed: image/README.md" in measured
    assert "signed" in ppml("image", "measure", "--accept").stdout
    assert "NOT accepted" not in ppml("image", "measure").stdout


def started(ppml: Commands, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen((str(PPML), *arguments), env=ppml.environment, stdout=subprocess.PIPE, text=True)


def read_until(process: subprocess.Popen[str], beginning: str) -> str:
    """The next line of a command that begins so, without the time before it."""
    assert process.stdout is not None
    read = []
    for line in process.stdout:
        read.append(line)
        text = re.sub(r"^ *[\d.]+ s +", "", line)
        if text.startswith(beginning):
            return text
    raise AssertionError(f"ended without a line that begins with {beginning}:\n{''.join(read)}")


@pytest.mark.slow
def test_dev_runs_again_when_the_query_is_saved(ppml: Commands) -> None:
    dag = ppml.home / "dags" / "nightly_analytics.py"
    question = dag.with_suffix(".yaml")
    question.write_text("tables: [visits]\nsql: SELECT count(*) AS visits FROM visits\n")
    dev = started(ppml, "dev", str(dag))
    try:
        assert rows(read_until(dev, "result:").split()[1]) == [(20190,)]
        read_until(dev, "verify:")
        question.write_text("tables: [plans]\nsql: SELECT count(*) AS plans FROM plans\n")
        assert "nightly_analytics.yaml" in read_until(dev, "saved:")
        assert rows(read_until(dev, "result:").split()[1]) == [(6,)]
    finally:
        dev.send_signal(signal.SIGINT)
        dev.communicate(timeout=30)
    assert processes_of(ppml.home) == []


@pytest.mark.kill
@pytest.mark.slow
def test_a_demo_that_is_killed_leaves_no_process(ppml: Commands) -> None:
    demo = started(ppml, "demo")
    read_until(demo, "step aggregate: leased")
    demo.kill()
    demo.communicate()
    deadline = time.monotonic() + 30
    while processes_of(ppml.home):
        assert time.monotonic() < deadline, processes_of(ppml.home)
        time.sleep(0.2)
