from __future__ import annotations

from pathlib import Path

import pytest

from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.keys.keystore import KeystoreFile
from tests.support.broker_world import World
from tests.support.guest_world import GuestWorld


@pytest.fixture
def world(tmp_path: Path, platform: SimulatedPlatform, keystore: KeystoreFile) -> World:
    return World(folder=tmp_path, platform=platform, keystore=keystore)


@pytest.fixture
def guests(world: World, tmp_path: Path) -> GuestWorld:
    return GuestWorld(world=world, folder=tmp_path)
