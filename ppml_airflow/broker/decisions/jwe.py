"""Resources for stock clients, encrypted to their attested key: JWE in the flattened JSON form. Pure.

Written on `cryptography`, because the bytes of the protected header matter: a client of Trustee does not authenticate
those that it was sent, it writes the header anew, `alg`, `enc`, then the other members in alphabetical order, and so in
`epk`. Joserfc writes `epk` in another order, which RFC 7516 allows and such a client fails on.

Refuses RSA1_5 and every other algorithm that is not named here.

Source: RFC 7516 and 7518 (ECDH-ES+A256KW, RSA-OAEP-256; A256GCM); guest-components, how `KbsClient` decrypts.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import Literal

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from ppml_airflow import canonical
from ppml_airflow.attestation.report_data import base64url
from ppml_airflow.canonical import Document
from ppml_airflow.errors import MalformedInputError

_ECDH = "ECDH-ES+A256KW"
_CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-521": ec.SECP521R1()}
_RSA_BITS = (2048, 8192)
_MAX_EXPONENT = 2**32
_MAX_MEMBER = 2048


class _EcKey(Document, frozen=True, kw_only=True, tag_field="kty", tag="EC"):
    crv: Literal["P-256", "P-521"]
    alg: Literal["ECDH-ES+A256KW"]
    x: str
    y: str


class _RsaKey(Document, frozen=True, kw_only=True, tag_field="kty", tag="RSA"):
    alg: Literal["RSA-OAEP-256"]
    n: str
    e: str


PublicJwk = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


def read_public_jwk(jwk: Mapping[str, str]) -> PublicJwk:
    """The public key of a stock client's enclave.

    Args:
        jwk: `tee-pubkey`, untrusted.

    Raises:
        MalformedInputError: another kind of key or algorithm, unknown or missing members, or no key.
    """
    key: _EcKey | _RsaKey = canonical.convert(dict(jwk), into=_EcKey | _RsaKey)  # type: ignore[arg-type]  # a union
    try:
        if isinstance(key, _EcKey):
            curve = _CURVES[key.crv]
            x, y = (_integer(part, length=(curve.key_size + 7) // 8) for part in (key.x, key.y))
            return ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
        public = rsa.RSAPublicNumbers(e=_integer(key.e), n=_integer(key.n)).public_key()
        if not _RSA_BITS[0] <= public.key_size <= _RSA_BITS[1] or public.public_numbers().e > _MAX_EXPONENT:
            raise ValueError(f"RSA key has {public.key_size} bits, wanted {_RSA_BITS[0]} to {_RSA_BITS[1]}")
    except ValueError as error:
        raise MalformedInputError(f"tee-pubkey is no key: {error}") from error
    return public


def encrypt_to(key: PublicJwk, *, content: bytes) -> dict[str, str]:
    """Encrypt a resource to an attested key.

    Returns:
        The five members of a flattened JWE: `protected`, `encrypted_key`, `iv`, `ciphertext`, `tag`.
    """
    content_key, iv = os.urandom(32), os.urandom(12)
    if isinstance(key, rsa.RSAPublicKey):
        header: dict[str, object] = {"alg": "RSA-OAEP-256", "enc": "A256GCM"}
        oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
        encrypted_key = key.encrypt(content_key, oaep)
    else:
        ephemeral = ec.generate_private_key(key.curve)
        header = {"alg": _ECDH, "enc": "A256GCM", "epk": _public_members(ephemeral.public_key())}
        encrypted_key = aes_key_wrap(_wrapping_key(ephemeral.exchange(ec.ECDH(), key)), content_key)
    protected = base64url(msgspec.json.encode(header))
    sealed = AESGCM(content_key).encrypt(iv, content, protected.encode("ascii"))
    return {
        "protected": protected,
        "encrypted_key": base64url(encrypted_key),
        "iv": base64url(iv),
        "ciphertext": base64url(sealed[:-16]),
        "tag": base64url(sealed[-16:]),
    }


def _wrapping_key(shared: bytes) -> bytes:
    """RFC 7518, 4.6.2: the algorithm, no party information, and the length in bits."""
    info = len(_ECDH).to_bytes(4, "big") + _ECDH.encode("ascii") + bytes(8) + (256).to_bytes(4, "big")
    return ConcatKDFHash(hashes.SHA256(), length=32, otherinfo=info).derive(shared)


def _public_members(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    numbers, length = key.public_numbers(), (key.curve.key_size + 7) // 8
    name = next(name for name, curve in _CURVES.items() if curve.name == key.curve.name)
    x, y = (base64url(part.to_bytes(length, "big")) for part in (numbers.x, numbers.y))
    return {"crv": name, "kty": "EC", "x": x, "y": y}


def _integer(text: str, *, length: int | None = None) -> int:
    if len(text) > _MAX_MEMBER:
        raise ValueError(f"a member has {len(text)} characters; at most {_MAX_MEMBER} are read")
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if base64url(data) != text or (length is not None and len(data) != length):
        raise ValueError(
            f"a member has {len(data)} bytes" + (f", wanted {length}" if length else ", or is not base64url")
        )
    return int.from_bytes(data, "big")
