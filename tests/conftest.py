"""Airflow's home is a throw-away folder, set before any test imports Airflow. What takes long to make is made once."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
    from ppml_airflow.keys.keystore import KeystoreFile

AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="ppml-airflow-home-"))
atexit.register(shutil.rmtree, AIRFLOW_HOME, ignore_errors=True)
(AIRFLOW_HOME / "dags").mkdir()
os.environ.update(
    AIRFLOW_HOME=str(AIRFLOW_HOME),
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__DAGS_FOLDER=str(AIRFLOW_HOME / "dags"),
    AIRFLOW__CORE__FERNET_KEY="",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{AIRFLOW_HOME}/airflow.db",
)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    """A simulated platform; nobody may change it."""
    from tests.support.simulated_run import make_platform

    return make_platform(tmp_path_factory.mktemp("platform") / "tee")


@pytest.fixture(scope="session")
def keystore_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the keystore lies."""
    return tmp_path_factory.mktemp("keys") / "keystore.json"


@pytest.fixture(scope="session")
def keystore(keystore_file: Path) -> KeystoreFile:
    """One for all tests; every world has keys of its own in it."""
    from tests.support.broker_world import make_keystore

    return make_keystore(keystore_file.parent)


@pytest.fixture(autouse=True)
def _no_keys_of_other_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each use of a keystore reads all of it."""
    if "keystore_file" not in request.fixturenames:
        yield
        return
    request.getfixturevalue("keystore")
    file: Path = request.getfixturevalue("keystore_file")
    before = file.read_bytes()
    yield
    file.write_bytes(before)


SHARE_AN_INSTALLATION = {f"tests/e2e/test_{name}.py" for name in ("browser", "kill", "nightly")}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests run in several processes, those of a file share one, and so do the files of the one installation."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]  # xdist tells no types
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "installation" if file in SHARE_AN_INSTALLATION else file

    return Scheduling(config, log)
