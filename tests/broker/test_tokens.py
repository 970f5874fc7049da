"""Tokens about accepted evidence: what they say, who can verify them, and what no verifier may fall for."""

from __future__ import annotations

import base64
import dataclasses
import json
from datetime import timedelta
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OctKey

from ppml_airflow.attestation.report_data import public_jwk
from ppml_airflow.broker.decisions.ear import LIFETIME, PROFILE, TOKEN_TYPE, sign_ear, verify_ear
from ppml_airflow.broker.service.tokens import SIGNS_FOR
from ppml_airflow.errors import PolicyDeniedError, VerificationError
from tests.broker.test_revocations import revoke
from tests.support.broker_world import Guest, World
from tests.support.simulated_run import MEASUREMENT

STORES = ("sqlite",)
AUDIENCE = "https://vault.example"


def attested(world: World, name: str = "manual") -> Guest:
    guest = Guest(world, run_id=world.ready_run(name), role="preflight")
    guest.ask()
    return guest


def verify(world: World, token: str, **changes: Any) -> dict[str, Any]:
    asked = {"keys": world.client.jwks(), "issuer": world.owners.domain.domain_id, "audience": AUDIENCE}
    return verify_ear(token, **(asked | {"now": world.now} | changes))


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    return header, claims


def test_a_token_names_the_enclave_its_key_and_the_policy_and_says_simulated(world: World) -> None:
    guest = attested(world)
    token = guest.client.token(AUDIENCE)
    header, _ = parts(token)
    assert (header["alg"], header["typ"]) == ("ES256", TOKEN_TYPE)
    claims = verify(world, token)
    assert claims["eat_profile"] == PROFILE
    assert claims["eat_nonce"] == guest.nonce
    assert claims["cnf"] == {"jwk": public_jwk(guest.key.public)}
    (enclave,) = claims["submods"].values()
    assert enclave["ppml_measurement"] == MEASUREMENT.hex()
    assert enclave["ppml_trust"] == "SIMULATED"
    assert enclave["ear_status"] == "contraindicated"  # never affirming: a reader of EAR alone must refuse it
    (policy,) = enclave["ear_appraisal_policy_ids"]
    assert policy == world.owners.root.sign(world.policy()).digest


def test_a_session_without_accepted_evidence_has_no_token(world: World) -> None:
    guest = Guest(world, run_id=world.ready_run(), role="preflight")
    guest.auth()
    for _ in range(2):
        with pytest.raises(PolicyDeniedError, match="has not been accepted"):
            guest.client.token(AUDIENCE)
        guest.attest()
    refused = Guest(world, run_id=guest.job.run_id, role="preflight", measurement=bytes(32))
    with pytest.raises(PolicyDeniedError):
        refused.ask()
    with pytest.raises(PolicyDeniedError, match="has not been accepted"):
        refused.client.token(AUDIENCE)


def test_a_caller_without_a_session_has_no_token(world: World) -> None:
    attested(world)
    with pytest.raises(VerificationError, match="session is unknown"):
        world.client.token(AUDIENCE)


def test_no_token_after_the_session_or_a_revocation(world: World) -> None:
    guest = attested(world)
    revoke(world, "measurement")
    with pytest.raises(PolicyDeniedError, match="it was stolen"):
        guest.client.token(AUDIENCE)


def test_no_token_when_the_session_is_over(world: World) -> None:
    guest = attested(world)
    world.now += timedelta(seconds=121)
    with pytest.raises((PolicyDeniedError, VerificationError)):
        guest.client.token(AUDIENCE)


def test_a_token_for_another_audience_domain_or_time_is_refused(world: World) -> None:
    token = attested(world).client.token(AUDIENCE)
    for changes in (
        {"audience": "https://other.example"},
        {"issuer": "sha256:" + "0" * 64},
        {"now": world.now + LIFETIME + timedelta(minutes=2)},
    ):
        with pytest.raises(VerificationError) as refused:
            verify(world, token, **changes)
        assert refused.value.code == "token_refused"


def test_confused_algorithms_types_and_keys_are_refused(world: World) -> None:
    token = attested(world).client.token(AUDIENCE)
    header, claims = parts(token)
    public = world.client.jwks()["keys"][0]
    shared = OctKey.import_key(json.dumps(public))
    stranger = ECKey.generate_key("P-256", {"kid": header["kid"]})
    unsigned = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in (header | {"alg": "none"}, claims)
    )
    forged = {
        "alg none": unsigned + ".",
        "HS256 with the public key": jws.serialize_compact(
            header | {"alg": "HS256"}, json.dumps(claims), shared, algorithms=["HS256"]
        ),
        "another key of that kid": sign_ear(claims, key=stranger),
        "an unknown kid": sign_ear(claims, key=ECKey.generate_key("P-256", {"kid": "unknown"})),
        "changed claims": token.replace(token.split(".")[1], unsigned.split(".")[1][:-4] + "AAAA"),
        "no token": "x",
    }
    for name, made in forged.items():
        with pytest.raises(VerificationError):
            pytest.fail(f"{name}: {verify(world, made)}")


def test_a_jwt_of_another_type_by_the_same_key_is_refused(world: World) -> None:
    attested(world)
    key = ECKey.generate_key("P-256", {"kid": "k"})
    claims = {"iss": world.owners.domain.domain_id, "aud": AUDIENCE}
    made = jws.serialize_compact({"alg": "ES256", "typ": "JWT", "kid": "k"}, json.dumps(claims), key)
    with pytest.raises(VerificationError, match="token is no eat") as refused:
        verify(world, made, keys={"keys": [key.as_dict(private=False)]})
    assert refused.value.code == "token_type"


def test_the_key_changes_every_day_and_the_old_one_is_published_until_its_tokens_have_expired(world: World) -> None:
    token = attested(world).client.token(AUDIENCE)
    (first,) = world.client.jwks()["keys"]
    assert "d" not in first
    issued = world.now
    world.now += SIGNS_FOR
    second, still = world.client.jwks()["keys"]
    assert (still["kid"], second["kid"] != first["kid"]) == (first["kid"], True)
    assert verify(world, token, now=issued)["iss"]
    world.now += 2 * LIFETIME
    assert [key["kid"] for key in world.client.jwks()["keys"]] == [second["kid"]]
    with pytest.raises(VerificationError):
        verify(world, token, now=issued)


def test_two_instances_sign_with_the_same_key(world: World) -> None:
    before = world.client.jwks()
    world.use(dataclasses.replace(world.broker))
    assert world.client.jwks() == before
