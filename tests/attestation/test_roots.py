from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ppml_airflow.attestation.roots import INTEL_ROOT, INTEL_ROOT_KEY_ID, TrustRoot, trust_of
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.errors import ConfigurationError


def _root_named_like_intels(curve: ec.EllipticCurve) -> bytes:
    key = ec.generate_private_key(curve)
    name = x509.load_der_x509_certificate(INTEL_ROOT.certificate).subject
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_intels_certificate_has_the_key_id_that_counts_as_hardware() -> None:
    assert INTEL_ROOT.key_id == INTEL_ROOT_KEY_ID
    assert INTEL_ROOT.trust == "hardware"


def test_simulated_root_never_counts_as_hardware(platform: SimulatedPlatform) -> None:
    assert platform.root.trust == "simulated"
    subject = x509.load_der_x509_certificate(platform.root_der).subject.rfc4514_string()
    assert "SIMULATED development root" in subject
    assert "NOT Intel" in subject


def test_root_with_intels_name_and_another_key_is_simulated() -> None:
    assert TrustRoot(_root_named_like_intels(ec.SECP256R1())).trust == "simulated"


@pytest.mark.parametrize("key_id", ["", "00" * 48, INTEL_ROOT_KEY_ID.upper(), INTEL_ROOT_KEY_ID[:-1]])
def test_unknown_key_ids_are_simulated(key_id: str) -> None:
    assert trust_of(key_id) == "simulated"


@pytest.mark.parametrize("der", [b"", b"not a certificate"])
def test_root_that_is_no_certificate_is_refused(der: bytes) -> None:
    with pytest.raises(ConfigurationError, match="not a DER certificate"):
        TrustRoot(der)


def test_root_that_is_no_pem_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not a PEM certificate"):
        TrustRoot.from_pem("hello")


def test_root_on_another_curve_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="does not have a P-256 key"):
        TrustRoot(_root_named_like_intels(ec.SECP384R1()))
