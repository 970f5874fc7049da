from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from tests.support.simulated_run import SimulatedRun, complete_run, start_run


@pytest.fixture(scope="session")
def finished(platform: SimulatedPlatform) -> SimulatedRun:
    """A complete run; nobody may change it."""
    return complete_run(platform)


@pytest.fixture
def night(platform: SimulatedPlatform) -> SimulatedRun:
    """A complete run to change before it is closed."""
    return complete_run(platform)


@pytest.fixture
def fresh(platform: SimulatedPlatform) -> SimulatedRun:
    """A run with its inputs and nothing else."""
    return start_run(platform)


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)
