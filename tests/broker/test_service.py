"""The broker as its operator runs it: TLS, limits, metrics, audit log."""

from __future__ import annotations

import json
import logging
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.broker.service.admission import BURST_SECONDS, Admission
from ppml_airflow.broker.service.api import create_app
from ppml_airflow.broker.service.callers import Caller
from ppml_airflow.broker.service.watch import write_audit_log
from ppml_airflow.broker.settings import load_settings
from ppml_airflow.cli.stack import free_port
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, UnavailableError, VerificationError
from ppml_airflow.protocol.client import BrokerClient
from tests.broker.test_process import wait_until_healthy, write_callers, write_home
from tests.support.broker_world import Guest, World
from tests.support.owners import Owners

STORES = ("sqlite",)


# ---------------------------------------------------------------- limits


def test_a_peer_may_ask_so_many_times_a_second_and_save_up_a_burst() -> None:
    now = [0.0]
    admission = Admission(requests_per_second=5, clock=lambda: now[0])
    for _ in range(5 * BURST_SECONDS):
        admission.require_room("10.0.0.1")
    with pytest.raises(UnavailableError, match="more than 5 times a second"):
        admission.require_room("10.0.0.1")
    admission.require_room("10.0.0.2")
    now[0] += 0.2
    admission.require_room("10.0.0.1")
    with pytest.raises(UnavailableError):
        admission.require_room("10.0.0.1")


def test_too_many_peers_do_not_fill_the_memory() -> None:
    admission = Admission(requests_per_second=5, clock=lambda: 0.0)
    for index in range(20_000):
        admission.require_room(str(index))
    assert len(admission._buckets) == 10_000


def test_who_asks_too_much_is_refused_before_its_body_and_its_token_are_read(world: World) -> None:
    world.app = create_app(world.broker, callers=lambda: pytest.fail("a token was read"), requests_per_second=1)
    client = world.connect()
    for _ in range(BURST_SECONDS):
        client.health()
    response = client._http.post("/ppml/v1/runs", content=b"x" * 10_000_000, headers={"Authorization": "Bearer x"})
    assert response.status_code == 429
    assert response.json()["kind"] == "UnavailableError"


def test_a_body_that_is_too_long_is_413_whatever_it_is(world: World) -> None:
    response = world.connect()._http.post("/kbs/v0/auth", content=b"x" * 5000)
    assert (response.status_code, response.json()["code"]) == (413, "too_long")


def test_a_token_is_judged_before_a_body_is_parsed(world: World) -> None:
    response = world.connect(token="nobody")._http.post("/ppml/v1/runs", content=b"{")
    assert (response.status_code, response.json()["code"]) == (403, "token_unknown")


def test_what_fails_inside_says_nothing_of_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.broker.store.transaction() as connection:
        connection.exec_driver_sql("UPDATE log SET entry = 'secret-in-the-store'")
    response = world.connect()._http.get("/ppml/v1/health")
    assert response.status_code >= 400
    assert "secret-in-the-store" not in response.text


# ---------------------------------------------------------------- metrics and audit log


def test_metrics_need_a_token_and_count_requests_and_refusals(world: World) -> None:
    with pytest.raises(PolicyDeniedError, match="no valid token"):
        world.connect().call_raw("GET", "/metrics")
    run_id = world.ready_run()
    with pytest.raises(PolicyDeniedError):
        Guest(world, run_id=run_id).ask()
    text = world.client.call_raw("GET", "/metrics").decode()
    assert 'ppml_broker_requests_total{route="OPEN-RUN",status="200"} 1.0' in text
    assert 'ppml_broker_refusals_total{code="gate_missing"} 1.0' in text
    with world.broker.decision() as ledger:
        assert f"ppml_broker_log_entries {float(ledger.log.size)}" in text
    assert 'ppml_broker_request_seconds_count{route="OPEN-RUN"} 1.0' in text


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "audit.log"
    write_audit_log(path)
    yield path
    logging.getLogger("ppml.audit").handlers = []


def test_the_audit_log_says_who_asked_for_what_and_how_it_ended(world: World, audit: Path) -> None:
    run_id = world.ready_run()
    with pytest.raises(PolicyDeniedError):
        Guest(world, run_id=run_id).ask()
    world.status(run_id)
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    opened = next(line for line in lines if line["route"] == "OPEN-RUN")
    assert (opened["caller"], opened["status"], opened["code"]) == ("airflow", 200, "")
    assert (lines[-1]["status"], lines[-1]["code"]) == (403, "gate_missing")
    assert not any("state of a step" in line["route"] for line in lines)
    assert audit.stat().st_mode & 0o077 == 0


def test_the_audit_log_holds_no_token_cookie_quote_or_key(world: World, audit: Path) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    guest.commit()
    with pytest.raises(PolicyDeniedError):
        world.connect(token="a-token-of-nobody").call_raw("POST", f"/ppml/v1/runs/{run_id}/close")
    text = audit.read_text()
    cookie = guest.client._http.cookies["kbs-session-id"]
    for secret in ("a-token-of-nobody", "Bearer", cookie, guest.nonce, "sealed", "quote"):
        assert secret not in text
    assert run_id in text


def test_a_line_of_the_audit_log_cannot_be_forged_by_a_name(world: World, audit: Path) -> None:
    world.connect()._http.get('/ppml/v1/manifests/x%0A{"route": "OPEN-RUN"}' + "y" * 500)
    (line,) = audit.read_text().splitlines()
    assert json.loads(line)["parameters"]["digest"].startswith('x\n{"route"')
    assert len(line) < 500


# ---------------------------------------------------------------- TLS


def issue(folder: Path, *, name: str) -> Path:
    """A CA, and a certificate by it for 127.0.0.1. Returns the CA's file."""
    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} CA")])

    def build(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(public)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
        return builder.not_valid_after(now + timedelta(days=1))

    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = build(ca_name, ca_key.public_key())
    ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).add_extension(usage, True)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    leaf = build(subject, key.public_key()).add_extension(names, critical=False)
    (folder / "tls.pem").write_bytes(leaf.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (folder / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path = folder / f"{name}.pem"
    path.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return path


def set_fields(config: Path, **fields: object) -> None:
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | fields))


def test_a_broker_serves_tls_beside_its_socket(
    tmp_path: Path, platform: SimulatedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_home(tmp_path, platform=platform, owners=Owners("visits"))
    write_callers(tmp_path / "tokens.json", Caller(name="airflow", pipelines=("nightly",)))
    issue(tmp_path, name="other")
    ca, url = issue(tmp_path, name="own"), f"https://127.0.0.1:{free_port()}"
    tls = {"certificate": "tls.pem", "key": "tls.key"}
    set_fields(config, listen=[f"unix:{tmp_path}/broker.sock", url], tls=tls)
    process = subprocess.Popen([sys.executable, "-m", "ppml_airflow.broker", "--config", config])
    try:
        wait_until_healthy(BrokerClient(f"unix:{tmp_path}/broker.sock"))
        monkeypatch.setenv("PPML_CA_FILE", str(ca))
        assert BrokerClient(url, token="airflow").health()["status"] == "ok"
        monkeypatch.setenv("PPML_CA_FILE", str(tmp_path / "other.pem"))
        with pytest.raises(VerificationError, match="nobody vouches for"):
            BrokerClient(url).health()
        monkeypatch.delenv("PPML_CA_FILE")
        with pytest.raises(VerificationError, match="nobody vouches for"):
            BrokerClient(url).health()
        old = ssl.create_default_context(cafile=str(ca))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, verify=old)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) in (0, -signal.SIGTERM)


def test_a_file_of_cas_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    monkeypatch.setenv("PPML_CA_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(ConfigurationError, match="holds no CA certificates"):
        BrokerClient("https://localhost:1")


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ("http://0.0.0.0:8650", "without TLS"),
        ("http://broker.example.com:8650", "without TLS"),
        ("https://0.0.0.0:8650", "needs a certificate"),
    ],
)
def test_an_address_in_the_network_needs_tls(
    tmp_path: Path, platform: SimulatedPlatform, listen: str, said: str
) -> None:
    config = write_home(tmp_path, platform=platform, owners=Owners("visits"))
    set_fields(config, listen=[listen])
    with pytest.raises(ConfigurationError, match=said):
        load_settings(config)


def test_a_certificate_that_is_none_is_refused(tmp_path: Path, platform: SimulatedPlatform) -> None:
    config = write_home(tmp_path, platform=platform, owners=Owners("visits"))
    (tmp_path / "tls.pem").write_text("x")
    tls = {"certificate": "tls.pem", "key": "tls.pem"}
    set_fields(config, listen=[f"https://127.0.0.1:{free_port()}"], tls=tls)
    done = subprocess.run(
        [sys.executable, "-m", "ppml_airflow.broker", "--config", config], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "cannot be used" in done.stderr) == (2, True)
