from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.keys.keystore import KeystoreFile
from tests.support.broker_world import World, make_keystore
from tests.support.guest_world import GuestWorld
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


@pytest.fixture
def world(tmp_path: Path, platform: SimulatedPlatform, keystore: KeystoreFile) -> World:
    return World(folder=tmp_path, platform=platform, keystore=keystore)


@pytest.fixture
def guests(world: World, tmp_path: Path) -> GuestWorld:
    return GuestWorld(world=world, folder=tmp_path)
