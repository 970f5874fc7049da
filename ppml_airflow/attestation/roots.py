"""Roots of trust: whose signature under a quote counts, and whether it is hardware or a simulation.

`hardware` is a key id in a list compiled in here; every other root is `simulated`. Nothing that evidence, a policy or a
configuration says can change that.

A root is known by its key, never by its certificate or its name: Intel has two root certificates with one key, and
sample PKIs use Intel's name with other keys.

Source: Intel SGX Root CA,
https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.pem; AMD's root keys,
https://kdsintf.amd.com/vcek/v1/{Milan,Genoa,Turin}/cert_chain
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Meta

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.units import Trust

RootKeyId = Annotated[str, Meta(pattern=r"^[0-9a-f]{96}$(?!\n)")]
"""SHA-384 of the root key, 96 lower-case hex digits; Intel's as its uncompressed point."""

INTEL_ROOT_KEY_ID: RootKeyId = (
    "46e403bd34f05a3f2817ab9badcaacc7ffc98e0f261008cd30dae936cace18d5dcf58eef31463613de1570d516200993"
)

AMD_ROOT_KEY_IDS: Mapping[str, RootKeyId] = {
    "Milan": "1249f67f15cf229a4069195e1a9ce537d1765ef706a1f4a123c36be9518786515d25ecc007f366b564d2b3f31c48082e",
    "Genoa": "32ab53a6ce5ec14926207396e5c475ae768a6a9831b7e860b5acf2e1c1dff222bc5a8bfc43eb5e06393189c1f246d880",
    "Turin": "3475f08a9727f8ac9a1deaea5f2a2097aa59d64d05c2a678c229c873e6359d3a6926287a2a22cd5f88a385e333a2fcc5",
}
"""AMD's root key (ARK) of each product: RSA, so SHA-384 of its SubjectPublicKeyInfo, DER."""

HARDWARE_ROOT_KEY_IDS = frozenset({INTEL_ROOT_KEY_ID, *AMD_ROOT_KEY_IDS.values()})


@dataclass(frozen=True)
class TrustRoot:
    """A root certificate, DER.

    Raises:
        ConfigurationError: not a certificate with a P-256 key.
    """

    certificate: bytes

    def __post_init__(self) -> None:
        _ = self.key_id

    @classmethod
    def from_pem(cls, pem: str) -> Self:
        """Read the first certificate of a PEM text.

        Raises:
            ConfigurationError: no certificate in it, or not one with a P-256 key.
        """
        try:
            return cls(x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER))
        except (ValueError, x509.InvalidVersion) as error:
            raise ConfigurationError("trust root is not a PEM certificate") from error

    @cached_property
    def key_id(self) -> RootKeyId:
        """What policies and results call this root by."""
        try:
            key = x509.load_der_x509_certificate(self.certificate).public_key()
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            raise ConfigurationError("trust root is not a DER certificate") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ConfigurationError("trust root does not have a P-256 key")
        return hashlib.sha384(key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)).hexdigest()

    @property
    def trust(self) -> Trust:
        """Whether evidence under this root is hardware or simulated."""
        return trust_of(self.key_id)


def rsa_root_key_id(certificate: x509.Certificate) -> RootKeyId:
    """Name a root with an RSA key, as AMD's."""
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha384(key).hexdigest()


def trust_of(key_id: RootKeyId) -> Trust:
    """Say what a root stands for. Unknown roots are simulated."""
    return "hardware" if key_id in HARDWARE_ROOT_KEY_IDS else "simulated"


INTEL_ROOT = TrustRoot.from_pem("""-----BEGIN CERTIFICATE-----
MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIw
aDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENv
cnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJ
BgNVBAYTAlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgG
A1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0
aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYT
AlVTMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPWsCzaEKi7
1OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxFP2sJBK5zlKOB
uzCBuDAfBgNVHSMEGDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJ
MEegRaBDhkFodHRwczovL2NlcnRpZmljYXRlcy50cnVzdGVkc2VydmljZXMuaW50
ZWwuY29tL0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInzg7SV
Ur9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYI
KoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9CiSDcNoowLuPRLsWGf/Yi7GSX94BgwTwg
AiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI=
-----END CERTIFICATE-----
""")
"""Intel SGX Root CA, valid to 2049-12-31. The older certificate (to 2033-05-21) has the same key."""
