from __future__ import annotations

import base64
import hashlib
import json

import pytest

from ppml_airflow.attestation.report_data import nonce_for, public_jwk, report_data, runtime_data_digest
from ppml_airflow.errors import MalformedInputError
from ppml_airflow.signing import PublicKey, SigningKey

SALT = bytes(range(32))
BINDING = "sha256:" + "ab" * 32


def test_runtime_data_hashes_as_in_trustees_own_test_vector() -> None:
    assert runtime_data_digest({"b": 1, "a": "test", "c": {"d": "e"}}).hex() == (
        "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3"
    )


def test_report_data_is_trustees_rule_written_out_by_hand() -> None:
    jwk = {"kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ", "alg": "ES256"}
    plain = (
        '{"additional-evidence":"","nonce":"bm9uY2U=",'
        '"tee-pubkey":{"alg":"ES256","crv":"P-256","kty":"EC","x":"eA","y":"eQ"}}'
    )
    computed = report_data(nonce="bm9uY2U=", tee_pubkey=jwk)
    assert computed == hashlib.sha384(plain.encode()).digest() + bytes(16)
    assert len(computed) == 64


def test_report_data_does_not_depend_on_the_order_of_the_keys_fields() -> None:
    jwk = public_jwk(SigningKey.generate(scheme="p256").public)
    turned = dict(reversed(jwk.items()))
    assert report_data(nonce="n", tee_pubkey=jwk) == report_data(nonce="n", tee_pubkey=turned)


@pytest.mark.parametrize("changed", [{"nonce": "o"}, {"tee_pubkey": {"kty": "EC"}}, {"additional_evidence": "{}"}])
def test_report_data_covers_nonce_key_and_additional_evidence(changed: dict[str, object]) -> None:
    good = {"nonce": "n", "tee_pubkey": {"kty": "RSA"}, "additional_evidence": ""}
    assert report_data(**good) != report_data(**{**good, **changed})  # type: ignore[arg-type]  # a table of arguments


def test_nonce_commits_to_salt_and_binding() -> None:
    nonce = nonce_for(salt=SALT, binding_digest=BINDING)
    expected = hashlib.sha256(b"ppml/v1/nonce" + b"\0" + SALT + b"\xab" * 32).digest()
    assert base64.b64decode(nonce) == expected
    assert nonce != nonce_for(salt=bytes(32), binding_digest=BINDING)
    assert nonce != nonce_for(salt=SALT, binding_digest="sha256:" + "ac" * 32)


@pytest.mark.parametrize("salt", [b"", SALT[:31], SALT + b"\0"])
def test_nonce_refuses_a_salt_of_another_length(salt: bytes) -> None:
    with pytest.raises(MalformedInputError, match="salt has"):
        nonce_for(salt=salt, binding_digest=BINDING)


@pytest.mark.parametrize("digest", ["ab" * 32, "sha256:ab", "sha256:" + "AB" * 32, "sha512:" + "ab" * 32])
def test_nonce_refuses_what_is_not_a_digest(digest: str) -> None:
    with pytest.raises(MalformedInputError):
        nonce_for(salt=SALT, binding_digest=digest)


def test_jwk_holds_the_coordinates_of_the_key() -> None:
    key = SigningKey.generate(scheme="p256").public
    jwk = public_jwk(key)
    assert json.dumps({name: jwk[name] for name in ("kty", "crv", "alg")}) == (
        '{"kty": "EC", "crv": "P-256", "alg": "ES256"}'
    )
    x, y = (base64.urlsafe_b64decode(jwk[name] + "=") for name in ("x", "y"))
    assert b"\x04" + x + y == key.key
    assert "=" not in jwk["x"] + jwk["y"]


def test_jwk_refuses_a_key_of_another_kind() -> None:
    with pytest.raises(MalformedInputError, match="wanted p256"):
        public_jwk(SigningKey.generate().public)


def test_jwk_refuses_bytes_that_are_no_point() -> None:
    with pytest.raises(MalformedInputError, match="not a point"):
        public_jwk(PublicKey(scheme="p256", key=b"\x04" + bytes(64)))
