from __future__ import annotations

from pathlib import Path

import pytest

from ppml_airflow.workloads.installation import ImageInstallation
from tests.support.flink_jobs import StreamWorld, build_installation


@pytest.fixture(scope="session")
def flink(tmp_path_factory: pytest.TempPathFactory) -> ImageInstallation:
    return build_installation(tmp_path_factory.mktemp("flink-jar"))


@pytest.fixture
def world(tmp_path: Path) -> StreamWorld:
    return StreamWorld(folder=tmp_path)
