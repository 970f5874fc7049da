from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.broker.store import Store
from ppml_airflow.keys.keystore import KeystoreFile
from tests.support.broker_world import World
from tests.support.postgresql import Cluster, running_cluster, why_not


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
