from __future__ import annotations

from pathlib import Path

import pytest

from ppml_airflow.workloads.installation import ImageInstallation
from tests.support.spark_jobs import JobWorld, build_installation


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> ImageInstallation:
    return build_installation(tmp_path_factory.mktemp("jar"))


@pytest.fixture
def world(tmp_path: Path) -> JobWorld:
    return JobWorld(folder=tmp_path)
