from __future__ import annotations

import json

import pytest

from ppml_airflow.enclaves.runtimes.docker import DockerRuntime
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators import PpmlHook
from tests.support.fake_pipeline import TOKEN, connect


def connection(monkeypatch, **changes):
    monkeypatch.setenv("AIRFLOW_CONN_PPML_DEFAULT", json.dumps({"conn_type": "ppml"} | changes))
    return PpmlHook()


@pytest.mark.usefixtures("connected")
def test_the_button_asks_every_service(quoting, tmp_path):
    (tmp_path / "storage").mkdir()
    works, words = PpmlHook().test_connection()
    assert works, words
    assert "trust: SIMULATED" in words
    for name in ("owner_agent", "recipient_agent", "quoting", "storage"):
        assert f"{name} ok" in words


@pytest.mark.usefixtures("connected")
def test_the_button_names_the_service_that_is_away(broker, agent):
    assert PpmlHook().test_connection()[1].startswith("quoting ")
    agent.is_down = True
    assert PpmlHook().test_connection() == (False, "service is down")
    broker.is_down = True
    assert PpmlHook().test_connection()[0] is False


def test_the_button_refuses_a_wrong_token(broker, monkeypatch):
    hook = connection(monkeypatch, host=broker.url, password="wrong")
    assert hook.test_connection() == (False, "caller has no valid token")


def test_the_button_says_what_the_connection_lacks(monkeypatch):
    works, words = connection(monkeypatch).test_connection()
    assert not works
    assert "connection ppml_default has no host" in words


def test_a_connection_of_a_broker_alone_is_good_enough_for_sensors_after_a_step(broker, monkeypatch):
    works, words = connection(monkeypatch, host=broker.url, password=TOKEN).test_connection()
    assert works, words


def test_an_unknown_runtime_is_refused(broker, agent, tmp_path, monkeypatch):
    connect(monkeypatch, broker=broker.url, agent=agent.url, folder=tmp_path)
    with pytest.raises(ConfigurationError, match="runtime moon is unknown"):
        PpmlHook().runtime("moon", image="spark")


def test_an_image_that_the_connections_runtime_cannot_start_is_refused(monkeypatch):
    hook = connection(monkeypatch, extra={"quoting": "/nowhere", "runtime": "docker"})
    assert isinstance(hook.runtime(image="spark"), DockerRuntime)
    with pytest.raises(ConfigurationError) as refused:
        hook.runtime(image="flink")
    assert refused.value.code == "engine_unsupported"


@pytest.mark.parametrize("name", ["storage", "passports"])
def test_a_missing_extra_is_named(monkeypatch, name):
    with pytest.raises(ConfigurationError, match=f"no extra {name}"):
        getattr(connection(monkeypatch), name)


def test_patience_has_a_default(monkeypatch):
    assert connection(monkeypatch).patience_s == 300
    assert connection(monkeypatch, extra={"patience_s": "5"}).patience_s == 5


def test_a_patience_that_is_no_number_is_refused(monkeypatch):
    with pytest.raises(ConfigurationError, match="not a number"):
        _ = connection(monkeypatch, extra={"patience_s": "long"}).patience_s
