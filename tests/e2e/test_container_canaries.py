"""S1 and S9 in containers: random markers in data and model, and the data keys, are nowhere outside the enclave.

Searched raw, as hex, as base64 at each alignment and as UTF-16, in the middle of the job and after it: what Docker says
(`inspect`, `top`, `logs`, `diff`, `export`), the container's writable layer, the daemon's folders of containers and
volumes, the quoting service's folders on the host, every file of the installation, arguments and environments of every
process of the machine, and what was printed.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from docker import APIClient

from tests.support.canaries import data_keys
from tests.support.commands import Commands
from tests.support.container_watch import ContainerWatch, finds, run_watched
from tests.support.inference import MODEL_CANARY, inference_run
from tests.support.installation import Installation
from tests.support.ready_images import CHECKOUT

pytestmark = [
    pytest.mark.container,
    pytest.mark.timeout(600),
    pytest.mark.skipif("DOCKER_HOST" not in os.environ, reason="no Docker daemon in DOCKER_HOST: make container"),
]
MOUNTED = ("/private", "/run", "/storage", "/dev", "/etc", "/proc", "/sys")
"""Where Docker makes places for what it mounts; nothing else in a container's own layer changes."""


def require_not_found(watch: ContainerWatch, *, home: Path, canaries: list[bytes]) -> None:
    assert len(watch.exported) == 1, "nothing was seen in the middle"
    assert [path for path in watch.changed if not path.startswith(MOUNTED)] == []
    assert b"does not support reading" in dict(watch.seen)["docker logs"]
    keys = data_keys(home)
    assert keys
    assert finds(watch, [*canaries, *keys]) == []
    assert "docker export" in finds(watch, [b"ppml_airflow"]), "the search would find nothing anywhere"


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT ward, count(*) AS people, max(name) AS last FROM people GROUP BY ward", 0),
        ("SELECT ward, sum(cast(name AS int)) AS wrong FROM people GROUP BY ward", 2),
    ],
    ids=["a-run-that-succeeds", "a-cast-error-whose-text-holds-a-value"],
)
def test_values_and_keys_of_a_query_are_nowhere_outside(
    container_installation: Installation, docker: APIClient, tmp_path: Path, sql: str, code: int
) -> None:
    prefix = f"canary{secrets.token_hex(13)}"
    source, dag = tmp_path / "people.csv", tmp_path / "nightly_analytics.py"
    source.write_text("id,name,ward\n" + "".join(f"{number},{prefix}{number},{number % 3}\n" for number in range(60)))
    dag.write_text((CHECKOUT / "dags" / dag.name).read_text().replace('"nightly_analytics"', '"canaries"'))
    dag.with_suffix(".yaml").write_text(f"tables: [people]\nsql: {sql}\n")
    ppml = container_installation.ppml
    arguments = ("run", str(dag), "--source", f"people={source}", "--runtime", "docker")
    exit_code, watch = run_watched(ppml, *arguments, docker=docker, folder=tmp_path, line="aggregate: job leased")
    assert exit_code == code, dict(watch.seen)["printed"].decode()[-3000:]
    require_not_found(watch, home=ppml.home, canaries=[prefix.encode()])
    if code == 0:
        (answer,) = (ppml.home / "agents" / "recipient" / "opened").glob("report.*")
        assert prefix in answer.read_text()


def test_a_model_its_data_and_their_keys_are_nowhere_outside(
    joint_containers: Commands, docker: APIClient, inference_sources: Path, tmp_path: Path
) -> None:
    shutil.copytree(inference_sources, tmp_path / "sources")
    rows = np.random.default_rng().integers(0, 257, (500, 2048), dtype="<i4")
    features = pa.array([row.tobytes() for row in rows], pa.binary())
    pq.write_table(
        pa.table({"sample": range(len(rows)), "features": features}), tmp_path / "sources" / "samples.parquet"
    )
    arguments = (*inference_run(tmp_path / "sources"), "--runtime", "docker")
    exit_code, watch = run_watched(
        joint_containers, *arguments, docker=docker, folder=tmp_path, line="classify: job leased"
    )
    assert exit_code == 0, dict(watch.seen)["printed"].decode()[-3000:]
    canaries = [MODEL_CANARY, *(row.tobytes()[:48] for row in rows[::250])]
    require_not_found(watch, home=joint_containers.home, canaries=canaries)
