"""Fetching collateral from a caching service (PCCS) or from Intel's (PCS), over verified TLS.

There is no way to switch verification off, no redirect is followed, and an answer has a bound. TLS protects against
nobody but eavesdroppers and vandals: what counts is the vendor's signature, which whoever stores the answer verifies.

Source: Intel PCS API version 4, and the Caching Service's form of it (which has the root's list at a path of its own).
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ppml_airflow.attestation.collateral.statements import PlatformFamily
from ppml_airflow.attestation.verification import MAX_COLLATERAL_BYTES
from ppml_airflow.errors import ConfigurationError, MalformedInputError, UnavailableError, VerificationError

INTEL_PCS = "https://api.trustedservices.intel.com"
_INTEL_ROOT_LIST = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
_TIMEOUT_S = 10.0
_IMPORT = "see that the service can be reached, or bring collateral: ppml collateral import"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateralService:
    """Where collateral is fetched.

    Raises:
        ConfigurationError: not an https address.
    """

    url: str
    ca_file: Path | None
    """PEM of the only CA that may have certified the service; None for those that this machine trusts."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise ConfigurationError(
                f"collateral service {self.url!r} is no plain https address", hint="such as https://pccs.example:8081"
            )

    @contextmanager
    def connection(self) -> Iterator[httpx.Client]:
        """A client that verifies the service.

        Raises:
            ConfigurationError: the CA's file cannot be read.
        """
        try:
            context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"CA of the collateral service {self.ca_file} cannot be read") from error
        with httpx.Client(verify=context, timeout=_TIMEOUT_S, follow_redirects=False) as client:
            yield client

    @property
    def root_list_url(self) -> str:
        """Where the root's revocation list is: Intel keeps it at its certificates."""
        url = self.url.rstrip("/")
        return _INTEL_ROOT_LIST if url == INTEL_PCS else f"{url}/sgx/certification/v4/rootcacrl"


def fetch_collateral(family: PlatformFamily, *, service: CollateralService) -> bytes:
    """Ask for the newest collateral of a platform family.

    Returns:
        `QuoteCollateralV3` as JSON; not verified.

    Raises:
        UnavailableError: the service does not answer, or does not know these platforms.
        VerificationError: the service is not certified by who should have.
        MalformedInputError: its answer is none.
        ConfigurationError: the CA's file cannot be read.
    """
    base = f"{service.url.rstrip('/')}/{{}}/certification/v4"
    sgx, own = base.format("sgx"), base.format(family.tee)
    with service.connection() as client:
        pck_list = _get(client, f"{sgx}/pckcrl?ca={family.ca}&encoding=der")
        root_list = _get(client, service.root_list_url)
        tcb = _get(client, f"{own}/tcb?fmspc={family.fmspc}")
        identity = _get(client, f"{own}/qe/identity")
    try:
        tcb_info = msgspec.json.decode(tcb.content, type=_TcbAnswer)
        qe_identity = msgspec.json.decode(identity.content, type=_IdentityAnswer)
        return msgspec.json.encode(
            {
                "pck_crl_issuer_chain": _chain(pck_list, "SGX-PCK-CRL-Issuer-Chain"),
                "root_ca_crl": _list(root_list.content).hex(),
                "pck_crl": _list(pck_list.content).hex(),
                "tcb_info_issuer_chain": _chain(tcb, "TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"),
                "tcb_info": bytes(tcb_info.tcb_info).decode(),
                "tcb_info_signature": tcb_info.signature,
                "qe_identity_issuer_chain": _chain(identity, "SGX-Enclave-Identity-Issuer-Chain"),
                "qe_identity": bytes(qe_identity.enclave_identity).decode(),
                "qe_identity_signature": qe_identity.signature,
            }
        )
    except (ValueError, RecursionError) as error:
        raise MalformedInputError(
            f"collateral service {service.url} gave an answer that does not read: {str(error)[:200]}",
            code="collateral_malformed",
        ) from error


class _TcbAnswer(msgspec.Struct, frozen=True, rename="camel"):
    tcb_info: msgspec.Raw
    """The bytes that are signed."""
    signature: str


class _IdentityAnswer(msgspec.Struct, frozen=True, rename="camel"):
    enclave_identity: msgspec.Raw
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    content: bytes
    headers: httpx.Headers


def _get(client: httpx.Client, url: str) -> _Answer:
    try:
        with client.stream("GET", url) as response:
            if response.status_code != httpx.codes.OK:
                raise _unavailable(url, f"answered {response.status_code}")
            content = bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_COLLATERAL_BYTES:
                    raise MalformedInputError(f"{url} answered more than {MAX_COLLATERAL_BYTES} bytes", code="too_long")
            return _Answer(content=bytes(content), headers=response.headers)
    except httpx.HTTPError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise VerificationError(
                f"collateral service {url} is not who it should be: {error}",
                code="collateral_service_untrusted",
                hint="name the CA that certified the service, or the service that you mean",
            ) from error
        raise _unavailable(url, f"{type(error).__name__} {error}".strip()) from error


def _unavailable(url: str, said: str) -> UnavailableError:
    return UnavailableError(f"collateral service {url}: {said}", code="collateral_unavailable", hint=_IMPORT)


def _chain(answer: _Answer, *names: str) -> str:
    for name in names:
        if name in answer.headers:
            return unquote(answer.headers[name])
    raise ValueError(f"no header {names[0]}")


def _list(content: bytes) -> bytes:
    """A revocation list as it comes: DER, PEM or DER as hex."""
    if content.startswith(b"-----BEGIN"):
        return x509.load_pem_x509_crl(content).public_bytes(Encoding.DER)
    return content if content.startswith(b"\x30") else bytes.fromhex(content.decode().strip())
