"""Attestation results as tokens, for services that know neither our documents nor quotes: made, and verified. Pure.

Whoever holds the key K that a token names can prove that it is the attested enclave (RFC 7800). At this broker a token
opens nothing.

`ear_status` of simulated evidence is `contraindicated`: who knows only the standard's words refuses it.

Source: draft-ietf-rats-ear-04 over RFC 9711 (EAT) as a JWT; ES256 (RFC 7518) and nothing else; RFC 8725 for what a
verifier must fix beforehand: algorithm, type, issuer, audience.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, cast

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, KeySetSerialization

from ppml_airflow.attestation.verification import VerifiedEvidence
from ppml_airflow.errors import VerificationError
from ppml_airflow.units import Digest, Name, spell_trust

PROFILE = "tag:ietf.org,2026:rats/ear#04"
TOKEN_TYPE = "eat+jwt"  # noqa: S105 - a media type
LIFETIME = timedelta(minutes=5)
_LEEWAY_S = 60
_ALGORITHMS = ["ES256"]


def ear_claims(
    verified: VerifiedEvidence,
    *,
    issuer: Digest,
    audience: str,
    nonce: str,
    key: Mapping[str, str],
    policy: Digest,
    image: Name,
    build: str,
    now: datetime,
) -> dict[str, Any]:
    """What a token says of evidence that the policy in force has accepted.

    Args:
        verified: the evidence.
        issuer: the domain's id.
        audience: for whom the token is.
        nonce: the broker's, base64: the one that the quote covers.
        key: K as a JWK.
        policy: digest of the policy version.
        image: the image that was accepted.
        build: version of this software.
        now: the broker's time.
    """
    return {
        "iss": issuer,
        "aud": audience,
        "iat": int(now.timestamp()),
        "exp": int((now + LIFETIME).timestamp()),
        "eat_profile": PROFILE,
        "eat_nonce": nonce,
        "cnf": {"jwk": dict(key)},
        "ear_verifier_id": {"developer": "ppml_airflow", "build": build},
        "submods": {
            verified.tee: {
                "ear_status": "affirming" if verified.trust == "hardware" else "contraindicated",
                "ear_appraisal_policy_ids": [policy],
                "ppml_trust": spell_trust(verified.trust),
                "ppml_image": image,
                "ppml_measurement": verified.measurement,
                "ppml_tcb_status": verified.tcb_status,
            }
        },
    }


def sign_ear(claims: Mapping[str, Any], *, key: ECKey) -> str:
    """Sign claims as a compact JWT; `key` is P-256 and has a `kid`."""
    return jwt.encode({"alg": "ES256", "typ": TOKEN_TYPE, "kid": key.kid}, dict(claims), key, algorithms=_ALGORITHMS)


def verify_ear(token: str, *, keys: Mapping[str, Any], issuer: Digest, audience: str, now: datetime) -> dict[str, Any]:
    """What a relying party does with a token.

    Args:
        token: untrusted.
        keys: the broker's JWKS, fetched over verified TLS.
        issuer: the id of the domain that it trusts.
        audience: its own name.
        now: its own time.

    Raises:
        VerificationError: another algorithm or type, an unknown or retired key, a wrong signature, issuer or audience,
            or it has expired. `ear_status` is the caller's to judge.
    """
    try:
        found = jwt.decode(token, KeySet.import_key_set(cast(KeySetSerialization, keys)), algorithms=_ALGORITHMS)
        if found.header.get("typ") != TOKEN_TYPE:
            raise VerificationError(f"token is no {TOKEN_TYPE}", code="token_type")
        rules = jwt.JWTClaimsRegistry(
            now=int(now.timestamp()),
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            iat={"essential": True},
            exp={"essential": True},
            eat_profile={"essential": True, "value": PROFILE},
            submods={"essential": True},
        )
        rules.validate(found.claims)
    except (JoseError, ValueError, TypeError) as error:
        raise VerificationError(f"token is refused: {type(error).__name__}: {error}", code="token_refused") from error
    return dict(found.claims)
