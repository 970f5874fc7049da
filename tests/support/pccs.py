"""A caching service for collateral (PCCS) of our own: a real HTTPS server with a certificate made for it.

It answers the paths of Intel's API version 4 with the collateral of a simulated platform, as its conditions say.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ppml_airflow.attestation.schemes.simulated_pki import FMSPC

Answer = tuple[int, bytes, dict[str, str]]


class Pccs:
    """A running service. `url` and `ca_file` are what a client is told; `paths` is what was asked."""

    def __init__(self, *, url: str, ca_file: Path, collateral: Callable[[], bytes]) -> None:
        self.url, self.ca_file, self.collateral = url, ca_file, collateral
        self.paths: list[str] = []
        self.status = 200
        self.changed: dict[str, Answer] = {}
        """By the last part of a path: another answer."""

    def answer(self, path: str) -> Answer:
        self.paths.append(path)
        if self.status != 200:
            return self.status, b"", {}
        parts, wanted = urlsplit(path), json.loads(self.collateral())
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        last = parts.path.rpartition("/")[2]
        if last in self.changed:
            return self.changed[last]
        if parts.path == "/sgx/certification/v4/pckcrl" and query == {"ca": "platform", "encoding": "der"}:
            return (
                200,
                bytes.fromhex(wanted["pck_crl"]),
                _chain("SGX-PCK-CRL-Issuer-Chain", wanted["pck_crl_issuer_chain"]),
            )
        if parts.path == "/sgx/certification/v4/rootcacrl":
            return 200, wanted["root_ca_crl"].encode(), {}
        if parts.path == "/sgx/certification/v4/tcb" and query == {"fmspc": FMSPC.hex()}:
            body = f'{{"tcbInfo":{wanted["tcb_info"]},"signature":"{wanted["tcb_info_signature"]}"}}'
            return 200, body.encode(), _chain("TCB-Info-Issuer-Chain", wanted["tcb_info_issuer_chain"])
        if parts.path == "/sgx/certification/v4/qe/identity":
            body = f'{{"enclaveIdentity":{wanted["qe_identity"]},"signature":"{wanted["qe_identity_signature"]}"}}'
            return 200, body.encode(), _chain("SGX-Enclave-Identity-Issuer-Chain", wanted["qe_identity_issuer_chain"])
        return 404, b"", {}


@contextmanager
def serving(folder: Path, *, collateral: Callable[[], bytes]) -> Iterator[Pccs]:
    """Serve collateral over TLS on a free port of 127.0.0.1."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate, ca_file = _certify(folder)
    holder: list[Pccs] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            status, body, headers = holder[0].answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    holder.append(Pccs(url=f"https://127.0.0.1:{server.server_port}", ca_file=ca_file, collateral=collateral))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield holder[0]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _chain(name: str, pem: str) -> dict[str, str]:
    return {name: quote(pem)}


def _certify(folder: Path) -> tuple[Path, Path]:
    """Make a CA and a certificate for 127.0.0.1; files with the service's key and chain, and with the CA."""
    now = dt.datetime.now(dt.UTC)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name, name = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("test CA of a PCCS", "test PCCS")
    )

    def begin(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )

    usage = x509.KeyUsage(
        digital_signature=False,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    authority = (
        begin(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    own = (
        begin(name, key.public_key())
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    certificate, ca_file = folder / "service.pem", folder / "ca.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate.write_bytes(private + own.public_bytes(Encoding.PEM))
    ca_file.write_bytes(authority.public_bytes(Encoding.PEM))
    return certificate, ca_file
