"""A home with a simulated domain, and an approval of a small pipeline."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ppml_airflow import canonical
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.simulated import ensure_simulated_domain
from ppml_airflow.domain.documents import Approval, Input, IntegerParam, Limits, Output, Slots, Step
from ppml_airflow.units import format_instant

NOW = datetime.now(UTC)
QUERY = b"SELECT 1"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("PPML_HOME", str(tmp_path / "home"))
    return Home.default()


@pytest.fixture
def owner(home: Home) -> Owner:
    return ensure_simulated_domain(home, now=NOW)


@pytest.fixture
def approval(owner: Owner) -> Approval:
    """One step that reads `visits` and `plans` and writes `report` for `analyst`."""
    step = Step(
        name="aggregate",
        kind="fixed",
        image="spark",
        workload="spark-sql",
        code={"query.sql": canonical.digest_bytes(QUERY)},
        argv=("query.sql",),
        params={"people": IntegerParam(minimum=1, maximum=9, default=5)},
        environment={},
        inputs=(Input(dataset="visits", version="this-run"), Input(dataset="plans", version="head")),
        outputs=(Output(dataset="report", body="table", recipients=("analyst",), files=1),),
        log_recipients=("owner",),
        disclosed=(),
        gates=("before", "after"),
        policy="default",
        members=1,
        replacements=0,
        attempts=2,
        limits=Limits(wall_s=60, memory_mib=1024, cores=1),
    )
    return Approval(
        domain_id=owner.domain.domain_id,
        pipeline="nightly",
        replaces=None,
        steps=(step,),
        edges=(),
        slots=Slots(period="day", zone="Europe/Berlin", window_hours=24, backfill=0),
        runs_per_slot=1,
        valid_from=format_instant(NOW),
        valid_until=format_instant(NOW + timedelta(days=90)),
    )
