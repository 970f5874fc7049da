from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.broker.service.leases import RELEASE_KEK
from ppml_airflow.keys.keystore import KeystoreFile
from tests.support.broker_world import World
from tests.support.guest_world import GuestWorld


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return SimulatedPlatform.create(tmp_path_factory.mktemp("tee") / "platform", now=datetime.now(UTC))


@pytest.fixture(scope="session")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> KeystoreFile:
    """One for all tests, because deriving its key takes a second; every world has keys of its own in it."""
    keystore = KeystoreFile.create(tmp_path_factory.mktemp("keys") / "keystore.json", passphrase=b"correct horse")
    keystore.create_key(RELEASE_KEK)
    return keystore


@pytest.fixture
def guests(tmp_path: Path, platform: SimulatedPlatform, keystore: KeystoreFile) -> GuestWorld:
    return GuestWorld(world=World(folder=tmp_path, platform=platform, keystore=keystore), folder=tmp_path)
