from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ppml_airflow.attestation.collateral.cache import CollateralCache
from ppml_airflow.attestation.collateral.memory import SeenFile
from ppml_airflow.attestation.collateral.service import CollateralService
from ppml_airflow.attestation.collateral.source import CachedCollateral
from ppml_airflow.attestation.collateral.statements import PlatformFamily, family_of
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.attestation.schemes.simulated_collateral import Conditions
from tests.attestation.conftest import NOW
from tests.support.pccs import Pccs, serving


@dataclass
class Vendor:
    """Says what it says of the simulated platform, as of `now`."""

    platform: SimulatedPlatform
    conditions: Conditions = field(default_factory=Conditions)
    now: Any = NOW

    def collateral(self, **conditions: Any) -> bytes:
        return self.platform.collateral(self.now, conditions=replace(self.conditions, **conditions))


@pytest.fixture
def vendor(platform: SimulatedPlatform) -> Vendor:
    return Vendor(platform)


@pytest.fixture(scope="session")
def family(quote: bytes) -> PlatformFamily:
    return family_of(quote)


@pytest.fixture
def cache(tmp_path: Path, platform: SimulatedPlatform) -> CollateralCache:
    seen = SeenFile(tmp_path / "seen.json")
    return CollateralCache(folder=tmp_path / "cache", roots=(platform.root,), seen=seen)


@pytest.fixture
def pccs(tmp_path: Path, vendor: Vendor) -> Iterator[Pccs]:
    with serving(tmp_path / "pccs", collateral=vendor.collateral) as service:
        yield service


@pytest.fixture
def source(cache: CollateralCache, pccs: Pccs) -> CachedCollateral:
    service = CollateralService(url=pccs.url, ca_file=pccs.ca_file)
    return CachedCollateral(cache=cache, service=service, refresh_after=timedelta(hours=24))
