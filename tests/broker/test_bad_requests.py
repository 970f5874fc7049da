"""Requests spoilt by hand: a refusal that can be told, never a failure of the broker, and nothing in the store."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from ppml_airflow import canonical
from ppml_airflow.attestation.report_data import public_jwk
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.broker import store
from ppml_airflow.broker.settings import ResourceSettings
from ppml_airflow.keys.keystore import KeystoreFile
from ppml_airflow.protocol.messages import Problem
from tests.support.bad_input import brief, changed, rewritten
from tests.support.broker_world import Guest, World

STORES = ("sqlite",)
BINDING = "sha256:" + "ab" * 32
AUTH = canonical.encode({"extra-params": {"binding": BINDING}, "tee": "sgx", "version": "0.4.0"})
STOCK_AUTH = canonical.encode(
    {"extra-params": {"supported-hash-algorithms": ["sha384"]}, "tee": "sgx", "version": "0.4.0"}
)


@pytest.fixture(scope="module")
def spoilt(
    tmp_path_factory: pytest.TempPathFactory, platform: SimulatedPlatform, keystore: KeystoreFile
) -> Iterator[World]:
    """A broker that all bad requests go to; what is refused leaves no trace, so they may share it."""
    folder: Path = tmp_path_factory.mktemp("broker")
    world = World(folder=folder, platform=platform, keystore=keystore)
    (folder / "resource").write_bytes(b"content")
    marked = ResourceSettings(file=folder / "resource", policy="standard", image="spark")
    world.use(replace(world.broker, resources={"default/config/agent": marked}))
    yield world
    world.broker.store.close()


@pytest.fixture(scope="module")
def guest(spoilt: World) -> Guest:
    run_id = spoilt.ready_run()
    spoilt.pass_gate(run_id)
    guest = Guest(spoilt, run_id=run_id)
    guest.auth()
    return guest


@pytest.fixture(scope="module")
def evidence(guest: Guest) -> bytes:
    """A good `attest` of the guest's session."""
    return canonical.encode(
        {
            "init-data": None,
            "runtime-data": {"nonce": guest.nonce, "tee-pubkey": public_jwk(guest.key.public)},
            "tee-evidence": {
                "additional_evidence": "",
                "primary_evidence": {"quote": base64.b64encode(guest.quote()).decode()},
            },
        }
    )


@pytest.fixture(scope="module")
def asked(guest: Guest) -> bytes:
    """A good request for the guest's lease."""
    return canonical.encode(guest.request())


def rows(world: World) -> Mapping[str, list[Any]]:
    """Everything in the store."""
    with world.broker.store.transaction() as connection:
        return {table.name: list(connection.execute(table.select())) for table in store.SCHEMA.sorted_tables}


def connect(world: World, **headers: str) -> TestClient:
    return TestClient(world.app, base_url="https://local", headers=headers, raise_server_exceptions=False)


def require_told(answer: httpx.Response) -> None:
    assert 400 <= answer.status_code < 500, answer.text
    assert canonical.decode(answer.content, into=Problem).code != "internal"


@brief
@given(body=changed(AUTH) | changed(STOCK_AUTH) | rewritten(AUTH) | rewritten(STOCK_AUTH))
def test_no_spoilt_auth_breaks_the_broker_or_is_kept(spoilt: World, body: bytes) -> None:
    before = rows(spoilt)
    answer = connect(spoilt).post("/kbs/v0/auth", content=body)
    if answer.is_success:
        # what is still a request is answered as what it says, which is said once
        said = json.loads(body, object_pairs_hook=once)
        assert said["version"] == "0.4.0"
        return
    require_told(answer)
    assert answer.status_code == 401
    assert answer.json()["type"].endswith("/errors/AttestationError")
    assert rows(spoilt) == before


def once(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(fields)) == len(fields)
    return dict(fields)


@brief
@given(data=st.data())
def test_no_spoilt_evidence_is_kept_in_place_of_the_guest_s(
    spoilt: World, guest: Guest, evidence: bytes, data: st.DataObject
) -> None:
    body = data.draw(rewritten(evidence) | st.binary(max_size=100) | st.just(b"[" * 60_000))
    value = refused_as_json(body)
    before = rows(spoilt)
    answer = guest.client._http.post("/kbs/v0/attest", content=body)
    if answer.is_success:
        assert value is not None
        assert value | {"init-data": None} == json.loads(evidence)
        forget(spoilt, guest)
        return
    require_told(answer)
    assert rows(spoilt) == before


def refused_as_json(body: bytes) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found


def forget(world: World, guest: Guest) -> None:
    """Take good evidence back, so that the session is as it was."""
    with world.broker.store.transaction() as connection:
        store.update(connection, store.session, where={"nonce": guest.nonce}, quote=None, tee_pubkey=None)


@pytest.mark.parametrize("path", ["/kbs/v0/auth", "/kbs/v0/attest", "/ppml/v1/lease", "/ppml/v1/certificates"])
def test_what_is_longer_than_is_read_is_refused_by_its_length(spoilt: World, path: str) -> None:
    before = rows(spoilt)
    answer = connect(spoilt).post(path, content=b" " * (300 * 1024))
    require_told(answer)
    assert answer.status_code == 413
    assert rows(spoilt) == before


HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=80)


@brief
@given(token=HEADER, cookie=HEADER, kind=HEADER)
def test_no_header_breaks_the_broker_or_opens_a_route(
    spoilt: World, guest: Guest, token: str, cookie: str, kind: str
) -> None:
    before = rows(spoilt)
    headers = {
        b"authorization": token.encode("latin-1"),
        b"cookie": b"kbs-session-id=" + cookie.encode("latin-1"),
        b"content-type": kind.encode("latin-1"),
    }
    run = f"/ppml/v1/runs/{guest.job.run_id}"
    for method, path in (("GET", run), ("POST", f"{run}/close"), ("GET", "/metrics")):
        require_told(connect(spoilt).request(method, path, headers=headers))
    for method, path in (("POST", "/ppml/v1/lease"), ("POST", "/kbs/v0/attest"), ("GET", "/kbs/v0/resource/a/b/c")):
        require_told(connect(spoilt).request(method, path, headers=headers, content=b"{}"))
    assert rows(spoilt) == before


@brief
@given(data=st.data())
def test_no_spoilt_request_for_a_lease_is_answered_by_one(
    spoilt: World, guest: Guest, asked: bytes, data: st.DataObject
) -> None:
    body = data.draw(changed(asked) | rewritten(asked))
    assume(body != asked)
    before = rows(spoilt)
    answer = guest.client._http.post("/ppml/v1/lease", content=body)
    require_told(answer)
    if answer.json()["kind"] == "MalformedInputError":
        assert rows(spoilt) == before
    assert not [row for row in rows(spoilt)["attempt"] if row.outcome == "open"]
