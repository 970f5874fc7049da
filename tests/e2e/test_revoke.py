"""A revocation while a real enclave works with the keys that it was given on what is revoked."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from ppml_airflow.cli.home import Home
from ppml_airflow.cli.owner import Owner
from tests.support.commands import PPML, Commands, processes_of
from tests.support.ready_images import CHECKOUT, take_over_images

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]
DAG_FILE = CHECKOUT / "dags" / "enclave_task.py"
WORK = "    import pandas as pd\n\n    from ppml_airflow.workloads.job_api"


@pytest.fixture(scope="module")
def ppml() -> Iterator[Commands]:
    """A home whose image is revoked at the end."""
    home = Path(tempfile.mkdtemp(prefix="ppml-"))
    take_over_images(home, "python")
    yield Commands(home)
    left = processes_of(home)
    shutil.rmtree(home, ignore_errors=True)
    assert left == []


def slow_pipeline(folder: Path) -> tuple[Path, Path]:
    """The shipped pipeline with a function that takes longer than a broker needs to be asked again, and a source."""
    file, visits = folder / "slow_task.py", folder / "visits.csv"
    slowly = DAG_FILE.read_text().replace(WORK, f"    import time\n\n    time.sleep(60)\n{WORK}", 1)
    file.write_text(slowly.replace('"enclave_task"', '"slow_task"'))
    pd.DataFrame({"mdvis": range(100), "disea": [n % 5 for n in range(100)]}).to_csv(visits, index=False)
    return file, visits


def measurement_of(home: Path) -> str:
    """What the owner accepts of the image."""
    owner = Owner(Home(home), domain=Home(home).load_domain(), keys=())
    (accepted,) = owner.policies()["default"].images["python"].measurements
    return accepted


def test_an_enclave_that_works_when_its_image_is_revoked_commits_nothing_and_no_other_one_starts(
    ppml: Commands, tmp_path: Path
) -> None:
    file, visits = slow_pipeline(tmp_path)
    command = (str(PPML), "run", str(file), "--source", f"visits={visits}")
    with subprocess.Popen(
        command, env=ppml.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        assert run.stdout is not None
        before = []
        for line in run.stdout:
            before.append(line)
            if "running" in line:
                break
        subject = ("measurement", measurement_of(ppml.home))
        told = json.loads(
            ppml("revoke", *subject, "--reason", "a hole in the image", "--yes", "--json").stdout.splitlines()[-1]
        )
        rest = run.stdout.read()
        assert run.wait() != 0
    assert "committed" not in rest, "".join(before) + rest
    assert "what the lease stands on was revoked" in rest
    assert [(one["step"], one["outcome"], one["outputs"]) for one in told["attempts"]] == [
        ("group_by_diseases", "revoked", [])
    ]
    assert not list((ppml.home / "storage" / "groups").glob("[0-9]*"))
    assert not (ppml.home / "agents" / "recipient" / "opened" / "groups.csv").exists()
    again = ppml("run", str(file), "--source", f"visits={visits}", expect=1)
    assert "a hole in the image" in again.stdout + again.stderr
    assert "running" not in again.stdout
