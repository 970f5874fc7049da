"""Stock clients of Trustee: what they send, what they are answered, and that they get no key of data.

Exchanges, names and refusals follow what was read, and no real Trustee or client was run, in:

- confidential-containers/trustee, kbs/src/attestation/backend.rs, 03d89ef8053e9ffcc0987bf3c1660764a5f0d1fe: the
  version, the challenge, attest asked twice
- confidential-containers/trustee, kbs/src/error.rs, 079fcf843a5e5c906e51eb9b134d862aaa21ad7a: types and statuses
- confidential-containers/trustee, kbs/src/jwe/mod.rs, 2222675c42a83b35de088e1c10ff43bd452e1ae6: JWE
- confidential-containers/trustee, kbs/src/plugins/implementations/resource/backend.rs,
  08e30a998c63f5f44941c61e46d5b282c19b98f5: names of resources
- confidential-containers/trustee, kbs/docs/kbs_attestation_protocol.md, 011be12e63bd0ba8fa20c879769cba7af1608c4a: 404
- confidential-containers/guest-components, attestation-agent/kbs_protocol/src/client/rcar_client.rs,
  0569f9b6f7540161fbff049162c9bf9cfd5a321a: what a client sends
- confidential-containers/guest-components, attestation-agent/kbs_protocol/src/keypair.rs,
  17749b5f56038a2a8bebeb2def2541059c62c92d: how it decrypts
- virtee/kbs-types, src/lib.rs, 034d57de3b6896182c62124df6a2cd0627b4be9e: how headers and errors are written
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pydantic
import pytest
from joserfc import jwe
from joserfc.jwk import ECKey, RSAKey
from starlette.testclient import TestClient

from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.broker.decisions.ear import verify_ear
from ppml_airflow.broker.decisions.jwe import read_public_jwk
from ppml_airflow.broker.service.sessions import SESSION_LIFETIME
from ppml_airflow.broker.settings import BrokerSettings, ResourceSettings, load_settings
from ppml_airflow.errors import ConfigurationError, MalformedInputError, VerificationError
from tests.broker.test_process import write_home
from tests.broker.test_revocations import signed
from tests.broker.test_routes import contents
from tests.broker.test_service import set_fields
from tests.support.broker_world import Guest, World
from tests.support.owners import Owners
from tests.support.policies import MEASUREMENT

STORES = ("sqlite",)
CONTENT = b"not a key of data"
PATH = "default/config/agent"
ERRORS = "https://github.com/confidential-containers/kbs/errors/"
ALGORITHMS = ["ECDH-ES+A256KW", "RSA-OAEP-256", "A256GCM"]


def jwk_of(key: ECKey | RSAKey) -> dict[str, str]:
    """`tee-pubkey` as kbs-types writes it."""
    members = key.as_dict(private=False)
    alg = "ECDH-ES+A256KW" if isinstance(key, ECKey) else "RSA-OAEP-256"
    return {name: str(members[name]) for name in ("kty", "crv", "x", "y", "n", "e") if name in members} | {"alg": alg}


class StockClient:
    """Sends what guest-components sends, and decrypts as it does."""

    def __init__(self, world: World, *, key: ECKey | RSAKey | None = None) -> None:
        self.world = world
        self.http = TestClient(world.app, base_url="https://local")
        self.key = key or ECKey.generate_key("P-256")
        self.jwk = jwk_of(self.key)

    def auth(self, **changes: object) -> httpx.Response:
        can = {"supported-hash-algorithms": ["sha256", "sha384", "sha512", "sm3"]}
        body = {"version": "0.4.0", "tee": "sgx", "extra-params": can} | changes
        answer = self.http.post("/kbs/v0/auth", json=body)
        if answer.is_success:
            self.nonce = answer.json()["nonce"]
        return answer

    def evidence(self, *, measurement: bytes = MEASUREMENT, **changes: object) -> dict[str, Any]:
        covered = {"additional-evidence": "", "nonce": self.nonce, "tee-pubkey": self.jwk}
        text = json.dumps(covered, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha384(text.encode()).digest().ljust(64, b"\0")
        quote = self.world.platform.quote_sgx(measurement=measurement, report_data=digest)
        return {
            "init-data": None,
            "runtime-data": {"nonce": self.nonce, "tee-pubkey": self.jwk},
            "tee-evidence": {
                "primary_evidence": {"quote": base64.b64encode(quote).decode()},
                "additional_evidence": "",
            },
        } | changes

    def attest(self, body: dict[str, Any] | None = None) -> httpx.Response:
        return self.http.post("/kbs/v0/attest", json=body or self.evidence())

    def get(self, path: str = PATH) -> httpx.Response:
        return self.http.get(f"/kbs/v0/resource/{path}")

    def attested(self) -> StockClient:
        assert self.auth().is_success
        assert self.attest().is_success
        return self


def decrypt(answer: dict[str, str], *, key: ECKey | RSAKey) -> bytes:
    """By joserfc, which reads the header as it was sent."""
    parts = (answer[name] for name in ("protected", "encrypted_key", "iv", "ciphertext", "tag"))
    found = jwe.decrypt_compact(".".join(parts), key, algorithms=ALGORITHMS)
    assert found.plaintext is not None
    return found.plaintext


def rewritten_header(protected: str) -> str:
    """The header as a client of Trustee writes it anew: `alg`, `enc`, the rest by name, and so what lies within."""
    header = json.loads(base64.urlsafe_b64decode(protected + "=="))
    first = {name: header.pop(name) for name in ("alg", "enc")}
    text = json.dumps(first | json.loads(json.dumps(header, sort_keys=True)), separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


@pytest.fixture
def marked(world: World, tmp_path: Path) -> World:
    """A broker with a resource for stock clients."""
    file = tmp_path / "agent.toml"
    file.write_bytes(CONTENT)
    resources = {PATH: ResourceSettings(file=file, policy="standard", image="spark")}
    world.use(replace(world.broker, resources=resources))
    return world


# ---------------------------------------------------------------- what is answered


def test_a_stock_client_attests_and_reads_what_is_marked(marked: World) -> None:
    client = StockClient(marked)
    challenge = client.auth()
    assert challenge.json()["extra-params"] == ""
    assert len(base64.b64decode(client.nonce, validate=True)) == 32
    assert "kbs-session-id" in challenge.cookies
    attested = client.attest()
    assert list(attested.json()) == ["token"]
    answer = client.get()
    assert answer.headers["content-type"] == "application/json"
    assert decrypt(answer.json(), key=client.key) == CONTENT


def test_a_token_is_about_the_client_for_this_domain_and_says_simulated(marked: World) -> None:
    client = StockClient(marked)
    client.auth()
    token, domain_id = client.attest().json()["token"], marked.owners.domain.domain_id
    claims = verify_ear(token, keys=marked.client.jwks(), issuer=domain_id, audience=domain_id, now=marked.now)
    assert claims["cnf"] == {"jwk": client.jwk}
    assert claims["eat_nonce"] == client.nonce
    (enclave,) = claims["submods"].values()
    assert (enclave["ear_status"], enclave["ppml_trust"]) == ("contraindicated", "SIMULATED")


def test_a_token_alone_reads_nothing(marked: World) -> None:
    client = StockClient(marked)
    client.auth()
    token = client.attest().json()["token"]
    thief = TestClient(marked.app, base_url="https://local", headers={"Authorization": f"Bearer {token}"})
    assert thief.get(f"/kbs/v0/resource/{PATH}").status_code == 401


def test_the_same_evidence_handed_in_again_is_answered_with_the_same_token(marked: World) -> None:
    client = StockClient(marked)
    client.auth()
    body = client.evidence()
    assert client.attest(body).json() == client.attest(body).json()
    assert client.attest(client.evidence(measurement=bytes(32))).status_code == 401
    assert client.get().is_success


@pytest.mark.parametrize(
    "said", ["", {}, {"tee-metadata": {"primary_tee": {"tee": "sgx"}}}], ids=["text", "empty", "more"]
)
def test_what_else_a_stock_client_may_say_of_itself(marked: World, said: object) -> None:
    assert StockClient(marked).auth(**{"extra-params": said}).is_success


def test_a_td_may_send_its_event_log(marked: World) -> None:
    client = StockClient(marked)
    client.auth()
    body = client.evidence()
    body["tee-evidence"]["primary_evidence"]["cc_eventlog"] = None
    assert client.attest(body).is_success


# ---------------------------------------------------------------- JWE


@pytest.mark.parametrize(
    "make",
    [lambda: ECKey.generate_key("P-256"), lambda: ECKey.generate_key("P-521"), lambda: RSAKey.generate_key(2048)],
    ids=["P-256", "P-521", "RSA"],
)
def test_a_resource_is_encrypted_to_each_kind_of_key_that_clients_make(
    marked: World, make: Callable[[], ECKey | RSAKey]
) -> None:
    client = StockClient(marked, key=make()).attested()
    answer = client.get().json()
    assert sorted(answer) == ["ciphertext", "encrypted_key", "iv", "protected", "tag"]
    assert decrypt(answer, key=client.key) == CONTENT
    header = json.loads(base64.urlsafe_b64decode(answer["protected"] + "=="))
    assert (header["alg"], header["enc"]) == (client.jwk["alg"], "A256GCM")
    assert ("epk" in header) == isinstance(client.key, ECKey)
    # What a client writes anew it also authenticates: it must be what was sent.
    assert rewritten_header(answer["protected"]) == answer["protected"]


@pytest.mark.parametrize(
    "change",
    [
        {"alg": "RSA1_5"},
        {"alg": "ES256"},
        {"crv": "P-384"},
        {"crv": "P-521"},
        {"x": "AAAA"},
        {"x": "A" * 43},
        {"x": "!" * 43},
        {"kty": "oct"},
        {"kid": "more"},
    ],
    ids=str,
)
def test_a_key_that_nothing_is_encrypted_to_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(MalformedInputError):
        read_public_jwk(jwk_of(ECKey.generate_key("P-256")) | change)


@pytest.mark.parametrize("bits", [1024, 16384])
def test_an_rsa_key_that_is_too_short_or_too_long_is_refused(bits: int) -> None:
    modulus = base64.urlsafe_b64encode(((1 << bits) - 1).to_bytes(bits // 8, "big")).rstrip(b"=").decode()
    with pytest.raises(MalformedInputError, match="tee-pubkey is no key"):
        read_public_jwk({"kty": "RSA", "alg": "RSA-OAEP-256", "n": modulus, "e": "AQAB"})


# ---------------------------------------------------------------- refusals, in Trustee's words


def refused(answer: httpx.Response) -> tuple[int, str]:
    said = answer.json()
    assert said["detail"]
    return answer.status_code, said["type"].removeprefix(ERRORS)


@pytest.mark.parametrize(
    "change",
    [
        {"version": "0.1.1"},
        {"version": ""},
        {"tee": "sample"},
        {"more": 1},
        {"extra-params": {"binding": "x"}},
        {"extra-params": {"supported-hash-algorithms": ["sha256"]}},
        {"extra-params": {"supported-hash-algorithms": "sha384"}},
        {"extra-params": 1},
    ],
    ids=str,
)
def test_what_is_no_request_is_unauthorized(marked: World, change: dict[str, object]) -> None:
    before = contents(marked)
    assert refused(StockClient(marked).auth(**change)) == (401, "AttestationError")
    assert contents(marked) == before


def test_where_no_resource_is_marked_a_stock_client_is_refused(world: World) -> None:
    assert refused(StockClient(world).auth()) == (401, "AttestationError")


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body | {"runtime-data": body["runtime-data"] | {"nonce": "AAAA"}},
        lambda body: body | {"init-data": {"format": "toml", "body": ""}},
        lambda body: body | {"tee-evidence": body["tee-evidence"] | {"additional_evidence": "{}"}},
        lambda body: body | {"runtime-data": body["runtime-data"] | {"tee-pubkey": {"kty": "EC"}}},
        lambda body: (
            body | {"runtime-data": body["runtime-data"] | {"tee-pubkey": jwk_of(ECKey.generate_key("P-256"))}}
        ),
        lambda body: body | {"tee-evidence": body["tee-evidence"] | {"primary_evidence": {"quote": "AAAA"}}},
        lambda body: {},
    ],
    ids=["nonce", "init-data", "additional", "no-key", "other-key", "no-quote", "nothing"],
)
def test_evidence_that_is_not_good_is_unauthorized_and_reads_nothing(
    marked: World, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    client = StockClient(marked)
    client.auth()
    answer = client.http.post("/kbs/v0/attest", json=change(client.evidence()))
    assert refused(answer) == (401, "AttestationError")
    assert refused(client.get()) == (401, "TokenNotFound")


def test_an_image_that_no_policy_accepts_is_refused_for_good(marked: World) -> None:
    client = StockClient(marked)
    client.auth()
    body = client.evidence(measurement=bytes(32))
    for _ in range(2):
        assert refused(client.attest(body)) == (401, "AttestationError")
    assert refused(client.get()) == (401, "TokenNotFound")


def test_who_is_attested_for_one_resource_is_forbidden_another(marked: World) -> None:
    other = ResourceSettings(file=marked.folder / "agent.toml", policy="standard", image="another")
    marked.use(replace(marked.broker, resources={**marked.broker.resources, "default/config/other": other}))
    client = StockClient(marked).attested()
    assert client.get().is_success
    assert refused(client.get("default/config/other")) == (403, "PolicyDeny")


@pytest.mark.parametrize("path", ["default/config/none", "a/b/c", "default/config/%2e%2e", "..%2f..%2fetc/x/y"])
def test_what_is_not_marked_is_not_there(marked: World, path: str) -> None:
    client = StockClient(marked).attested()
    assert client.get(path).status_code == 404


def test_nobody_learns_what_is_marked_before_he_is_attested(marked: World) -> None:
    client = StockClient(marked)
    assert refused(client.get()) == refused(client.get("default/config/none")) == (401, "TokenNotFound")
    client.auth()
    assert refused(client.get()) == refused(client.get("default/config/none")) == (401, "TokenNotFound")


def test_after_the_session_a_client_attests_again(marked: World) -> None:
    client = StockClient(marked).attested()
    marked.now += SESSION_LIFETIME
    assert refused(client.get()) == (401, "TokenNotFound")
    assert client.attested().get().is_success


def test_a_measurement_that_is_revoked_reads_nothing_more(marked: World) -> None:
    client = StockClient(marked).attested()
    revocation = signed(marked, "measurement", MEASUREMENT.hex())
    marked.client.put_revocation(marked.owners.root.sign(revocation))
    assert refused(client.get()) == (403, "PolicyDeny")
    again = StockClient(marked)
    again.auth()
    assert refused(again.attest()) == (401, "AttestationError")


def test_a_resource_that_is_missing_is_no_denial(marked: World) -> None:
    client = StockClient(marked).attested()
    (marked.folder / "agent.toml").unlink()
    assert client.get().status_code == 503


# ---------------------------------------------------------------- never a key of data


def test_a_stock_client_gets_no_lease_no_session_and_no_token_for_others(marked: World) -> None:
    run_id = marked.ready_run()
    marked.pass_gate(run_id)
    guest = Guest(marked, run_id=run_id)
    client = StockClient(marked).attested()
    guest.client._http = client.http
    guest.nonce = client.nonce
    with pytest.raises(VerificationError, match="has no binding"):
        guest.client.lease(guest.request())
    with pytest.raises(VerificationError, match="has no binding"):
        guest.client.token("https://vault.example")
    assert client.get().is_success


def test_a_guest_reads_no_resource(marked: World) -> None:
    guest = Guest(marked, run_id=marked.ready_run(), role="preflight")
    guest.ask()
    assert guest.client._http.get(f"/kbs/v0/resource/{PATH}").status_code == 401


def test_a_file_that_the_broker_keeps_for_itself_is_no_resource(tmp_path: Path, platform: SimulatedPlatform) -> None:
    config = write_home(tmp_path, platform=platform, owners=Owners("visits"))
    own = ("signing.pem", "keystore.json", "passphrase", "tokens.json", "broker.db", "anchor", "dataset-keys/1.wrapped")
    for number, name in enumerate(own):
        (tmp_path / f"link-{number}").symlink_to(tmp_path / name)
        for file in (name, f"link-{number}", f"x/../{name}"):
            set_fields(config, resources={PATH: {"file": file, "policy": "standard", "image": "spark"}})
            with pytest.raises(ConfigurationError, match="which the broker keeps for itself"):
                load_settings(config)
    set_fields(config, resources={PATH: {"file": "agent.toml", "policy": "standard", "image": "spark"}})
    assert load_settings(config).resources[PATH].file == tmp_path / "agent.toml"


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("default/1/2", True),
        ("123--_default/1Abff-_/___-afds44BC", True),
        ("1.ok/2ok./3...", True),
        ("/1/2", False),
        ("/repo/type/tag", False),
        ("1/2", False),
        (".1.ok/2ok./3...", False),
        ("1.ok/.2ok./3...", False),
        ("1.ok/2ok./.3...", False),
        ("a/b/c\n", False),
    ],
)
def test_resources_are_called_as_trustee_calls_them(path: str, is_one: bool) -> None:
    fields = {path: {"file": "x", "policy": "standard", "image": "spark"}}
    adapter = pydantic.TypeAdapter(BrokerSettings.model_fields["resources"].annotation)
    if is_one:
        adapter.validate_python(fields)
    else:
        with pytest.raises(pydantic.ValidationError):
            adapter.validate_python(fields)
