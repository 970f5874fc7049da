"""RCAR at the broker: what is no evidence, no session's evidence, or comes too late is refused before it is judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from ppml_airflow.broker import store
from ppml_airflow.broker.service import sessions
from ppml_airflow.errors import (
    ConfigurationError,
    MalformedInputError,
    PolicyDeniedError,
    PpmlError,
    UnavailableError,
    VerificationError,
)
from ppml_airflow.protocol.messages import ReleaseRequest
from ppml_airflow.units import Digest
from tests.support.broker_world import Guest, World
from tests.support.simulated_run import ZERO


def evidence(*, nonce: str, quote: str = "AAAA", additional: str = "") -> dict[str, Any]:
    return {
        "init-data": None,
        "runtime-data": {"nonce": nonce, "tee-pubkey": {"kty": "EC"}},
        "tee-evidence": {"primary_evidence": {"quote": quote}, "additional_evidence": additional},
    }


def start(world: World, *, binding: Digest = ZERO) -> tuple[str, str]:
    body = json.dumps({"version": "0.4.0", "tee": "sgx", "extra-params": {"binding": binding}}).encode()
    session_id, answer = sessions.auth(world.broker, body=body)
    return session_id, answer["nonce"]


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda body: body | {"more": 1}, MalformedInputError, "RCAR request is malformed"),
        (lambda body: evidence(nonce="AAAA"), VerificationError, "nonce is not the one of this session"),
        (lambda body: evidence(nonce="", quote="!!!!"), MalformedInputError, "quote is not base64"),
        (lambda body: evidence(nonce="", quote="A" * 100_000), MalformedInputError, "quote has 100000 characters"),
        (lambda body: evidence(nonce="", additional="{}"), MalformedInputError, "additional evidence is not read"),
    ],
    ids=["unknown-field", "other-nonce", "no-base64", "too-long", "additional"],
)
def test_what_is_no_evidence_of_the_session_is_not_stored(
    world: World, change: Callable[[dict[str, Any]], dict[str, Any]], kind: type[PpmlError], said: str
) -> None:
    session_id, nonce = start(world)
    body = json.dumps(change(evidence(nonce=nonce))).encode()
    with pytest.raises(kind, match=said):
        sessions.attest(world.broker, session_id=session_id, body=body)
    sessions.attest(world.broker, session_id=session_id, body=json.dumps(evidence(nonce=nonce)).encode())


def test_evidence_that_comes_after_the_session_is_refused(world: World) -> None:
    session_id, nonce = start(world)
    world.now += sessions.SESSION_LIFETIME + timedelta(seconds=1)
    with pytest.raises(VerificationError, match="session has expired"):
        sessions.attest(world.broker, session_id=session_id, body=json.dumps(evidence(nonce=nonce)).encode())


# ---------------------------------------------------------------- what is not there


def test_a_document_that_the_store_does_not_have_is_said_to_be_unknown(world: World) -> None:
    with world.broker.decision() as ledger, pytest.raises(ConfigurationError, match="is not known here"):
        ledger.envelope(ZERO)
    with pytest.raises(VerificationError, match="is not committed"):
        world.client.manifest(ZERO)


def test_a_lease_that_the_broker_never_gave_is_unknown(world: World) -> None:
    with pytest.raises(VerificationError, match="lease is not known here"):
        world.client.lease_status("0" * 32)


def test_a_receipt_without_its_manifests_is_not_committed(world: World) -> None:
    guest = leased(world)
    with pytest.raises(VerificationError, match="names 1 outputs, 0 manifests came"):
        guest.hand_in(guest.receipt(guest.manifests()), manifests=())


def test_a_release_key_that_the_store_has_lost_is_no_denial(world: World) -> None:
    guest = leased(world)
    guest.commit()
    with world.broker.decision() as ledger:
        ledger.connection.execute(sa.delete(store.release_key))
    request = ReleaseRequest(
        run_id=guest.lease.run_id, dataset="report", recipient=world.owners.recipient_certificate.serial
    )
    with pytest.raises(UnavailableError, match="release key of report is missing"):
        world.client.release(request)


def test_a_run_whose_collateral_the_store_has_lost_is_not_closed(world: World) -> None:
    guest = leased(world)
    with world.broker.decision() as ledger:
        ledger.connection.execute(sa.delete(store.collateral))
    with pytest.raises(ConfigurationError, match="collateral of a run is missing"):
        world.client.close_run(guest.lease.run_id)


def test_a_token_that_nobody_has_opens_no_route(world: World) -> None:
    with pytest.raises(PolicyDeniedError, match="no valid token"):
        world.connect(token="somebody's").bundle(world.ready_run(), "aggregate")


def leased(world: World) -> Guest:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    return guest
