"""What a quote is asked to cover: 64 bytes that commit to the nonce and to the enclave's key K.

The nonce commits to H(B), so report_data stays Trustee's, byte for byte, and still covers K, E and the job.

Source: the trust protocol, messages 5 and 6; Trustee KBS protocol 0.4.0 (three keys: `additional-evidence`,
`nonce`, `tee-pubkey`; RFC 8785; SHA-384, then 16 zero bytes); RFC 7517 and 7518 for the key.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import ec

from ppml_airflow import canonical
from ppml_airflow.errors import MalformedInputError
from ppml_airflow.signing import PublicKey
from ppml_airflow.units import Digest

REPORT_DATA_BYTES = 64
SALT_BYTES = 32
_NONCE_LABEL = b"ppml/v1/nonce\x00"


def nonce_for(*, salt: bytes, binding_digest: Digest) -> str:
    """Compute the nonce that commits to a binding.

    Args:
        salt: 32 random bytes of the broker.
        binding_digest: H(B).

    Returns:
        base64 of SHA-256("ppml/v1/nonce" 0x00 || salt || H(B)), H(B) as 32 raw bytes.

    Raises:
        MalformedInputError: the salt has another length, or the digest is not a SHA-256 digest.
    """
    if len(salt) != SALT_BYTES:
        raise MalformedInputError(f"salt has {len(salt)} bytes, wanted {SALT_BYTES}")
    binding = bytes.fromhex(canonical.convert(binding_digest, into=Digest).removeprefix("sha256:"))
    return base64.b64encode(hashlib.sha256(_NONCE_LABEL + salt + binding).digest()).decode("ascii")


def report_data(*, nonce: str, tee_pubkey: Mapping[str, str], additional_evidence: str = "") -> bytes:
    """Compute the 64 bytes that a quote must carry, by Trustee's rule.

    Args:
        nonce: as the broker gave it.
        tee_pubkey: K as a JWK (`public_jwk`).
        additional_evidence: evidence of further devices; empty here.
    """
    covered = {"additional-evidence": additional_evidence, "nonce": nonce, "tee-pubkey": dict(tee_pubkey)}
    return runtime_data_digest(covered).ljust(REPORT_DATA_BYTES, b"\x00")


def runtime_data_digest(runtime_data: Mapping[str, object]) -> bytes:
    """SHA-384 over canonical JSON: how Trustee hashes structured runtime data. 48 bytes."""
    return hashlib.sha384(canonical.encode(runtime_data)).digest()


def public_jwk(key: PublicKey) -> dict[str, str]:
    """Write K as the JWK that travels as `tee-pubkey`.

    Raises:
        MalformedInputError: not a P-256 key, or not a point of the curve.
    """
    if key.scheme != "p256":
        raise MalformedInputError(f"enclave key has scheme {key.scheme}, wanted p256")
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key.key)
    except ValueError as error:
        raise MalformedInputError("enclave key is not a point of P-256") from error
    x, y = key.key[1:33], key.key[33:65]
    return {"kty": "EC", "crv": "P-256", "alg": "ES256", "x": base64url(x), "y": base64url(y)}


def base64url(data: bytes) -> str:
    """How JOSE writes bytes (RFC 7515, section 2): without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
