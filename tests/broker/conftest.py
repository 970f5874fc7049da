from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.broker.store import Store
from ppml_airflow.keys.keystore import KeystoreFile
from tests.support.broker_world import World, make_keystore
from tests.support.postgresql import Cluster, running_cluster, why_not
from tests.support.simulated_run import make_platform


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return make_platform(tmp_path_factory.mktemp("tee") / "platform")


@pytest.fixture(scope="session")
def keystore_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the keystore lies."""
    return tmp_path_factory.mktemp("keys") / "keystore.json"


@pytest.fixture(scope="session")
def keystore(keystore_file: Path) -> KeystoreFile:
    """One for all tests; every world has keys of its own in it."""
    return make_keystore(keystore_file.parent)


@pytest.fixture(autouse=True)
def _no_keys_of_other_tests(keystore_file: Path, keystore: KeystoreFile) -> Iterator[None]:
    """Each use of a keystore reads all of it."""
    before = keystore_file.read_bytes()
    yield
    keystore_file.write_bytes(before)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server of this session's own."""
    if reason := why_not():
        pytest.skip(reason)
    with running_cluster() as cluster:
        Store.open(cluster.create_database("broker")).close()
        yield cluster


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Whatever needs a broker's store is tested with both kinds, unless its module says `STORES`."""
    stores = {
        "sqlite": pytest.param("sqlite"),
        "postgresql": pytest.param("postgresql", marks=pytest.mark.postgresql),
        "postgresql, slow": pytest.param("postgresql", marks=[pytest.mark.postgresql, pytest.mark.slow]),
    }
    if "database_kind" in metafunc.fixturenames:
        wanted = getattr(metafunc.module, "STORES", ("sqlite", "postgresql"))
        metafunc.parametrize("database_kind", [stores[name] for name in wanted])


@pytest.fixture
def database(database_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The address of a new store."""
    if database_kind == "sqlite":
        return str(tmp_path / "broker.db")
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.create_database(template="broker")


@pytest.fixture
def world(tmp_path: Path, platform: SimulatedPlatform, keystore: KeystoreFile, database: str) -> Iterator[World]:
    world = World(folder=tmp_path, platform=platform, keystore=keystore, database=database)
    yield world
    world.broker.store.close()
