"""The broker as a process: its file, its sockets, its end. And its API as written down."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from ppml_airflow import canonical
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.broker.service.api import create_app, openapi
from ppml_airflow.broker.service.callers import Caller, hash_token, load_callers
from ppml_airflow.broker.settings import load_settings
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, UnavailableError
from ppml_airflow.keys.keystore import KeystoreFile
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.protocol.messages import OpenRun
from tests.support.broker_world import World
from tests.support.owners import Owners


def write_home(folder: Path, *, platform: SimulatedPlatform, owners: Owners) -> Path:
    """Everything that a broker's file names."""
    (folder / "domain.json").write_bytes(canonical.encode(owners.domain))
    owners.broker.store(folder / "signing.pem")
    (folder / "passphrase").write_text("correct horse\n")
    (folder / "passphrase").chmod(0o600)
    KeystoreFile.create(folder / "keystore.json", passphrase=b"correct horse")
    (folder / "root.der").write_bytes(platform.root_der)
    (folder / "collateral.json").write_bytes(platform.collateral(datetime.now(UTC)))
    config = folder / "broker.yaml"
    fields = {
        "listen": [f"unix:{folder}/broker.sock"],
        "domain": "domain.json",
        "signing_key": "signing.pem",
        "database": "broker.db",
        "anchor": "anchor",
        "audit_log": "audit.log",
        "keystore": "keystore.json",
        "passphrase": "passphrase",
        "dataset_keys": "dataset-keys",
        "tokens": "tokens.json",
        "tee_roots": ["root.der"],
        "collateral": "collateral.json",
    }
    config.write_text(yaml.safe_dump(fields))
    return config


def write_callers(path: Path, *callers: Caller) -> None:
    """A file of callers whose tokens are their names."""
    path.write_bytes(canonical.encode({hash_token(caller.name): caller for caller in callers}))


def wait_until_healthy(client: BrokerClient) -> dict[str, object]:
    for _ in range(300):
        try:
            return client.health()
        except UnavailableError:
            time.sleep(0.1)
    raise AssertionError("the broker did not start")


def test_a_broker_process_serves_a_unix_socket_and_ends_on_sigterm(tmp_path: Path, platform: SimulatedPlatform) -> None:
    owners = Owners("visits")
    config = write_home(tmp_path, platform=platform, owners=owners)
    write_callers(tmp_path / "tokens.json", Caller(name="airflow", pipelines=("nightly",)))
    process = subprocess.Popen([sys.executable, "-m", "ppml_airflow.broker", "--config", config])
    try:
        with BrokerClient(f"unix:{tmp_path}/broker.sock", token="airflow") as client:
            assert wait_until_healthy(client)["trust"] == "simulated"
            client.put_certificate(owners.certificates[0])
            assert len(client.domain().certificates) == 1
            request = OpenRun(pipeline="nightly", slot=None, params={}, claimed={"dag_id": "n", "run_id": "m"})
            with pytest.raises(PolicyDeniedError, match="not approved"):
                client.open_run(request)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) in (0, -signal.SIGTERM)
    assert (tmp_path / "broker.db").stat().st_mode & 0o077 == 0


def test_a_file_with_a_wrong_field_is_refused_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "broker.yaml"
    config.write_text("listen: [unix:/tmp/x]\nport: 80\n")
    with pytest.raises(ConfigurationError, match=r"broker.yaml:2: port"):
        load_settings(config)


def test_a_hardware_root_in_a_simulated_domain_is_refused(tmp_path: Path, world: World) -> None:
    import dataclasses

    from ppml_airflow.attestation.roots import INTEL_ROOT

    with pytest.raises(ConfigurationError, match="simulated or hardware for ever"):
        dataclasses.replace(world.broker, roots=(INTEL_ROOT,))


def test_a_file_of_callers_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    callers = (Caller(name="airflow", pipelines=("nightly",)), Caller(name="other", pipelines=("*",)))
    write_callers(path, *callers)
    assert tuple(load_callers(path).values()) == callers
    path.write_text("{}x")
    with pytest.raises(ConfigurationError, match="malformed"):
        load_callers(path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_callers(tmp_path / "none.json")


def test_the_api_is_as_documented(world: World) -> None:
    """docs/reference/broker-api.json is this very document; `make docs` writes it anew."""
    documented = json.loads((Path(__file__).parents[2] / "docs/reference/broker-api.json").read_text())
    assert documented == json.loads(json.dumps(openapi(create_app(world.broker, callers=dict))))
