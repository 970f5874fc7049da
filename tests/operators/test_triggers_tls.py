"""A triggerer and a real broker that serves TLS under a private CA."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
import pytest
import uvicorn

from ppml_airflow.broker.service.callers import Caller, hash_token
from ppml_airflow.errors import MalformedInputError
from ppml_airflow.operators.async_broker import ask_status
from ppml_airflow.operators.triggers import StepTrigger
from ppml_airflow.protocol.listening import listening_socket
from tests.broker.test_service import free_port, issue
from tests.support.broker_world import PIPELINE, World, make_keystore
from tests.support.fake_pipeline import TOKEN, connect
from tests.support.simulated_run import make_platform


@pytest.fixture
def world(tmp_path):
    world = World(folder=tmp_path, platform=make_platform(tmp_path / "tee"), keystore=make_keystore(tmp_path))
    world.callers[hash_token(TOKEN)] = Caller(name="triggerer", pipelines=(PIPELINE,))
    yield world
    world.broker.store.close()


@pytest.fixture
def authority(world, tmp_path, monkeypatch):
    """The CA's file of a broker that serves while a test runs; `ppml_default` leads there."""
    path, url = issue(tmp_path, name="own"), f"https://127.0.0.1:{free_port()}"
    files = {"ssl_certfile": str(tmp_path / "tls.pem"), "ssl_keyfile": str(tmp_path / "tls.key")}
    server = uvicorn.Server(uvicorn.Config(world.app, log_level="error", lifespan="off", **files))
    with listening_socket(url) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        connect(monkeypatch, broker=url, agent="http://127.0.0.1:1", folder=tmp_path, patience_s=30)
        try:
            yield path
        finally:
            server.should_exit = True
            thread.join(timeout=10)
            assert not thread.is_alive()


def woken(world):
    waiting = StepTrigger(ppml_conn_id="ppml_default", run_id=world.ready_run(), step="aggregate", until="granted")

    async def first():
        gate = asyncio.ensure_future(anext(waiting.run()))
        await asyncio.sleep(1.5)
        if not gate.done():  # it waits, so the broker was believed
            await asyncio.to_thread(world.pass_gate, waiting.run_id)
        return (await gate).payload

    return asyncio.run(asyncio.wait_for(first(), 20))


def test_a_gate_wakes_at_a_broker_whose_ca_is_named(world, authority, monkeypatch):
    monkeypatch.setenv("PPML_CA_FILE", str(authority))
    assert woken(world) == {"woken": "settled", "until": "granted"}


@pytest.mark.parametrize("named", ["another", "none"])
def test_a_gate_says_at_once_that_nobody_vouches_for_its_broker(world, authority, monkeypatch, tmp_path, named):
    (tmp_path / "elsewhere").mkdir()
    if named == "none":
        monkeypatch.delenv("PPML_CA_FILE", raising=False)
    else:
        monkeypatch.setenv("PPML_CA_FILE", str(issue(tmp_path / "elsewhere", name="own")))
    began = time.monotonic()
    event = woken(world)
    assert (event["woken"], event["kind"], event["code"]) == ("refused", "VerificationError", "untrusted_server")
    assert "PPML_CA_FILE" in event["hint"]
    assert time.monotonic() - began < 10  # not after the patience that a broker has that does not answer


def test_an_answer_in_a_broken_encoding_is_an_error_of_ours_and_ends_no_watch():
    def answer(_request):
        return httpx.Response(200, headers={"content-encoding": "gzip"}, content=b"no gzip")

    async def ask():
        transport = httpx.MockTransport(answer)
        async with httpx.AsyncClient(base_url="http://local", transport=transport) as client:
            await ask_status(client, run_id="d" * 32, step="count")

    with pytest.raises(MalformedInputError, match="broken encoding"):
        asyncio.run(ask())
