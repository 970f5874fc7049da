"""A trusted DAG, and a broker and an agent to run it against."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def airflow_database():
    """An initialised metadata database, for tests that need one."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.utils.db import initdb

    initdb()
    DagBundlesManager().sync_bundles_to_db()


@pytest.fixture
def dag():
    """A trusted DAG of one step."""
    from tests.support.nightly import nightly

    return nightly()


@pytest.fixture
def broker(dag):
    """A broker that has the DAG's approval."""
    from tests.support.fake_pipeline import FakePipelineBroker
    from tests.support.nightly import approval

    with FakePipelineBroker(approval(dag)) as broker:
        yield broker


@pytest.fixture
def agent():
    """An agent that seals and delivers at once."""
    from tests.support.fake_pipeline import FakeAgent

    with FakeAgent() as agent:
        yield agent


@pytest.fixture
def quoting(tmp_path):
    """A quoting service whose guests do as a test says."""
    from tests.support.fake_pipeline import FakeQuotingService

    with FakeQuotingService(tmp_path / "quoting.sock") as quoting:
        yield quoting


@pytest.fixture
def connected(broker, agent, tmp_path, monkeypatch):
    """The connection `ppml_default` leads to the fakes."""
    from tests.support.fake_pipeline import connect

    connect(monkeypatch, broker=broker.url, agent=agent.url, folder=tmp_path)
