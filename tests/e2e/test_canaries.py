"""S1 and S9: random markers in the data, and the data keys themselves, are nowhere but at the two ends.

Searched raw, as hex, as base64 at each alignment and as UTF-16: every file of the installation (Airflow's database,
logs, rendered templates, XCom and trigger rows among them), arguments and environments of its processes while it runs,
and what was printed. Left out are the owner's sources, the recipient's reports, and the owner's and broker's keys.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from tests.support.canaries import Watch, data_keys, places, spellings
from tests.support.commands import PPML, Commands, processes_of
from tests.support.ready_images import take_over_images

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def ppml() -> Iterator[Commands]:
    home = Path(tempfile.mkdtemp(prefix="ppml-"))
    take_over_images(home, "spark")
    yield Commands(home)
    left = processes_of(home)
    shutil.rmtree(home, ignore_errors=True)
    assert left == []


def write_source(folder: Path, canaries: list[str]) -> Path:
    source = folder / "people.csv"
    lines = [f"{number},{canary},{number % 3}" for number, canary in enumerate(canaries)]
    source.write_text("\n".join(["id,name,ward", *lines]) + "\n")
    return source


def run_demo(ppml: Commands, source: Path, *, sql: str, folder: Path) -> tuple[int, bytes, set[bytes]]:
    query = folder / "question.sql"
    query.write_text(sql)
    with Watch(lambda: processes_of(ppml.home)) as watch:
        done = subprocess.run(
            (PPML, "demo", "--source", source, "--sql", query), env=ppml.environment, capture_output=True, check=False
        )
    return done.returncode, done.stdout + done.stderr, watch.seen


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT ward, count(*) AS people, max(name) AS last FROM people GROUP BY ward", 0),
        ("SELECT ward, sum(cast(name AS int)) AS wrong FROM people GROUP BY ward", 1),
    ],
    ids=["a-run-that-succeeds", "a-cast-error-whose-text-holds-a-value"],
)
def test_canaries_are_nowhere_outside_the_enclave_and_the_agents(
    ppml: Commands, tmp_path: Path, sql: str, code: int
) -> None:
    canaries = [f"canary{secrets.token_hex(13)}" for _ in range(6)]
    source = write_source(tmp_path, canaries)
    exit_code, printed, processes = run_demo(ppml, source, sql=sql, folder=tmp_path)
    assert exit_code == code, printed.decode()[-3000:]
    if code == 0:
        opened = b"".join(path.read_bytes() for path in (ppml.home / "agents/recipient/opened").glob("report.*"))
        assert any(canary.encode() in opened for canary in canaries), "the search would find nothing anywhere"
    keys = data_keys(ppml.home)
    assert keys
    needles = [spelling for canary in canaries for spelling in spellings(canary.encode())]
    needles += [spelling for key in keys for spelling in spellings(key)]
    for place, content in [("printed", printed), *(("process", text) for text in processes), *places(ppml.home)]:
        found = [needle for needle in needles if needle in content]
        assert found == [], f"{len(found)} canaries in {place}"
    private = PrivateFolders.of_home(ppml.home).root
    assert list(private.iterdir()) == [], "a private directory was not swept"
