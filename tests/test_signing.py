from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib import dsse

from ppml_airflow import canonical
from ppml_airflow.errors import ConfigurationError, MalformedInputError, VerificationError
from ppml_airflow.sealing.wrapping import SealingKey
from ppml_airflow.signing import (
    Envelope,
    PublicKey,
    Signature,
    SignedDocument,
    SigningKey,
    sign_payload,
    verify_envelope,
    verify_signature,
)

replace = msgspec.structs.replace


class Note(SignedDocument, frozen=True, kw_only=True):
    payload_type: ClassVar[str] = "application/vnd.ppml.test-note.v1+json"
    text: str


class Other(SignedDocument, frozen=True, kw_only=True):
    payload_type: ClassVar[str] = "application/vnd.ppml.test-other.v1+json"
    text: str


ED25519 = SigningKey.generate()
P256 = SigningKey.generate(scheme="p256")
NOTE = Note(text="hello")


def signed_by(*keys: SigningKey) -> Envelope:
    return sign_payload(canonical.encode(NOTE), payload_type=Note.payload_type, keys=keys)


@pytest.mark.parametrize("key", [ED25519, P256], ids=["ed25519", "p256"])
def test_a_signed_document_is_verified(key: SigningKey) -> None:
    assert verify_envelope(key.sign(NOTE), into=Note, keys=(key.public,)) == NOTE


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_any_document_is_verified_after_a_journey_as_json(text: str) -> None:
    note = Note(text=text)
    envelope = canonical.decode(canonical.encode(ED25519.sign(note)), into=Envelope)
    assert verify_envelope(envelope, into=Note, keys=(ED25519.public,)) == note
    assert envelope.digest == canonical.digest(note)


def test_an_envelope_is_dsse_for_other_readers() -> None:
    """securesystemslib reads and verifies it on its own."""
    envelope = msgspec.to_builtins(ED25519.sign(NOTE))
    foreign = dsse.Envelope.from_dict(
        {
            "payload": envelope["payload"],
            "payloadType": envelope["payloadType"],
            "signatures": [{"keyid": one["keyid"], "sig": one["sig"]} for one in envelope["signatures"]],
        }
    )
    assert foreign.payload == canonical.encode(NOTE)


@pytest.mark.parametrize("scheme", ["ed25519", "p256"])
def test_every_byte_of_an_envelope_counts(scheme: Literal["ed25519", "p256"]) -> None:
    key = SigningKey.generate(scheme=scheme)
    data = canonical.encode(key.sign(NOTE))
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises((MalformedInputError, VerificationError)):
            verify_envelope(canonical.decode(changed, into=Envelope), into=Note, keys=(key.public,))


def test_another_payload_type_is_refused() -> None:
    with pytest.raises(VerificationError, match="payload type"):
        verify_envelope(ED25519.sign(Other(text="hello")), into=Note, keys=(ED25519.public,))


def test_a_signature_does_not_count_under_another_payload_type() -> None:
    moved = replace(ED25519.sign(Other(text="hello")), payload_type=Note.payload_type)
    with pytest.raises(VerificationError, match="wrong signature"):
        verify_envelope(moved, into=Note, keys=(ED25519.public,))


def test_an_unknown_signer_is_refused() -> None:
    with pytest.raises(VerificationError) as refused:
        verify_envelope(P256.sign(NOTE), into=Note, keys=(ED25519.public,))
    assert refused.value.code == "unknown_signer"


def test_an_unknown_signer_beside_a_good_one_is_refused() -> None:
    envelope = signed_by(ED25519, P256)
    with pytest.raises(VerificationError, match="unknown key"):
        verify_envelope(envelope, into=Note, keys=(ED25519.public,))


def test_a_signature_by_another_key_under_a_known_id_is_refused() -> None:
    forged = replace(SigningKey.generate().sign(NOTE).signatures[0], keyid=ED25519.public.key_id)
    with pytest.raises(VerificationError) as refused:
        verify_envelope(replace(ED25519.sign(NOTE), signatures=(forged,)), into=Note, keys=(ED25519.public,))
    assert refused.value.code == "bad_signature"


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"x" * 63, b"\xff" * 72])
@pytest.mark.parametrize("key", [ED25519, P256], ids=["ed25519", "p256"])
def test_a_signature_of_another_form_is_refused(key: SigningKey, signature: bytes) -> None:
    broken = replace(key.sign(NOTE), signatures=(Signature(keyid=key.public.key_id, sig=signature),))
    with pytest.raises(VerificationError, match="wrong signature"):
        verify_envelope(broken, into=Note, keys=(key.public,))


def test_no_signature_is_too_few() -> None:
    with pytest.raises(VerificationError) as refused:
        verify_envelope(replace(ED25519.sign(NOTE), signatures=()), into=Note, keys=(ED25519.public,))
    assert refused.value.code == "threshold"


def test_two_owners_make_a_threshold_of_two() -> None:
    envelope = signed_by(ED25519, P256)
    assert verify_envelope(envelope, into=Note, keys=(ED25519.public, P256.public), threshold=2) == NOTE


def test_one_owner_alone_is_below_a_threshold_of_two() -> None:
    with pytest.raises(VerificationError, match="has 1 signatures, wanted at least 2"):
        verify_envelope(ED25519.sign(NOTE), into=Note, keys=(ED25519.public, P256.public), threshold=2)


def test_one_owner_twice_is_not_two() -> None:
    one = ED25519.sign(NOTE)
    with pytest.raises(VerificationError, match="repeated or unsorted"):
        verify_envelope(
            replace(one, signatures=one.signatures * 2), into=Note, keys=(ED25519.public, P256.public), threshold=2
        )


def test_unsorted_signatures_are_refused() -> None:
    both = signed_by(ED25519, P256)
    with pytest.raises(VerificationError, match="repeated or unsorted"):
        verify_envelope(
            replace(both, signatures=both.signatures[::-1]), into=Note, keys=(ED25519.public, P256.public), threshold=2
        )


@pytest.mark.parametrize("threshold", [0, -1])
def test_a_threshold_below_one_is_refused(threshold: int) -> None:
    with pytest.raises(VerificationError, match="wanted at least 1"):
        verify_envelope(ED25519.sign(NOTE), into=Note, keys=(ED25519.public,), threshold=threshold)


def test_a_signed_payload_that_is_not_canonical_is_refused() -> None:
    envelope = sign_payload(b'{"text": "hello"}', payload_type=Note.payload_type, keys=(ED25519,))
    with pytest.raises(MalformedInputError, match="canonical form"):
        verify_envelope(envelope, into=Note, keys=(ED25519.public,))


def test_a_sealing_key_does_not_sign() -> None:
    with pytest.raises(MalformedInputError, match="xwing keys do not sign"):
        verify_signature(b"", payload=b"", key=SealingKey.generate().public, subject="note")


@pytest.mark.parametrize(("scheme", "length"), [("ed25519", 31), ("p256", 64), ("xwing", 32), ("ed25519", 0)])
def test_a_public_key_of_another_length_is_refused(scheme: str, length: int) -> None:
    with pytest.raises(MalformedInputError, match=r"key has .* bytes, wanted"):
        canonical.convert({"scheme": scheme, "key": "A" * (4 * ((length + 2) // 3))}, into=PublicKey)


def test_a_key_id_is_the_digest_of_the_key() -> None:
    assert ED25519.public.key_id == canonical.digest(ED25519.public)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("scheme", ["ed25519", "p256"])
def test_a_stored_key_signs_as_before(tmp_path: Path, scheme: Literal["ed25519", "p256"]) -> None:
    key, path = SigningKey.generate(scheme=scheme), tmp_path / "key.pem"
    key.store(path)
    assert path.stat().st_mode & 0o777 == 0o600
    loaded = SigningKey.load(path)
    assert loaded.public == key.public
    assert verify_envelope(loaded.sign(NOTE), into=Note, keys=(key.public,)) == NOTE


def test_a_stored_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    ED25519.store(path)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="exists already"):
        P256.store(path)
    assert path.read_bytes() == before


def test_a_missing_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        SigningKey.load(tmp_path / "none.pem")


@pytest.mark.parametrize("content", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_broken_key_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key.pem").write_bytes(content)
    with pytest.raises(ConfigurationError, match="not an unencrypted PKCS #8 PEM file"):
        SigningKey.load(tmp_path / "key.pem")


def test_an_encrypted_key_file_is_refused(tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    write_pem(tmp_path / "key.pem", private, serialization.BestAvailableEncryption(b"secret"))
    with pytest.raises(ConfigurationError, match="not an unencrypted"):
        SigningKey.load(tmp_path / "key.pem")


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_pem(tmp_path / "key.pem", rsa.generate_private_key(65537, 2048), serialization.NoEncryption())
    with pytest.raises(ConfigurationError, match="neither Ed25519 nor P-256"):
        SigningKey.load(tmp_path / "key.pem")


def test_a_key_on_another_curve_is_refused(tmp_path: Path) -> None:
    write_pem(tmp_path / "key.pem", ec.generate_private_key(ec.SECP384R1()), serialization.NoEncryption())
    with pytest.raises(ConfigurationError, match="is on curve secp384r1, wanted P-256"):
        SigningKey.load(tmp_path / "key.pem")


def write_pem(
    path: Path,
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    encryption: serialization.KeySerializationEncryption,
) -> None:
    path.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
