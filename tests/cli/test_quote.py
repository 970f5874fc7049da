from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ppml_airflow.attestation.policy import ImageReference, Policy
from ppml_airflow.attestation.policy_files import format_policy_file
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from tests.attestation.conftest import MEASUREMENT, NOW, REPORT_DATA
from tests.attestation.snp.machine import Machine

AT = NOW.isoformat()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quotes")
    platform = SimulatedPlatform.create(folder / "tee", now=NOW)
    quote = platform.quote_sgx(measurement=MEASUREMENT, report_data=REPORT_DATA)
    (folder / "quote.bin").write_bytes(quote)
    (folder / "quote.hex").write_text(quote.hex())
    (folder / "quote.b64").write_bytes(base64.encodebytes(quote) + b"\n")
    (folder / "tail.bin").write_bytes(quote + b"tail")
    (folder / "changed.bin").write_bytes(quote[:120] + b"?" + quote[121:])
    debug = platform.quote_sgx(measurement=MEASUREMENT, report_data=REPORT_DATA, is_debug=True)
    (folder / "debug.bin").write_bytes(debug)
    (folder / "collateral.json").write_bytes(platform.collateral(NOW))
    (folder / "root.pem").write_text(ssl.DER_cert_to_PEM_cert(platform.root_der))
    policy = Policy(
        domain_id="sha256:" + "0" * 64,
        name="nightly",
        version=1,
        images={"spark": ImageReference(measurements=("00" * 32,))},
        tees=("sgx",),
        trust_roots=(platform.root.key_id,),
        tcb_statuses=("UpToDate",),
        advisories=(),
        minimum_evaluation_number=1,
        platform_features=(),
    )
    (folder / "policy.yaml").write_text(format_policy_file(policy))
    machine = Machine(now=NOW)
    (folder / "report.bin").write_bytes(machine.report())
    (folder / "chain.pem").write_bytes(machine.bundle())
    (folder / "ark.pem").write_bytes(machine.root.public_bytes(Encoding.PEM))
    return folder


def verify(folder: Path, quote: str, *options: str, at: str = AT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ppml_airflow.cli.main", "quote", "verify", quote, "--at", at, *options]
    return subprocess.run(command, cwd=folder, env={}, capture_output=True, text=True, check=False, timeout=60)


SGX = ("--collateral", "collateral.json", "--trust-root", "root.pem")


@pytest.mark.parametrize("name", ["quote.bin", "quote.hex", "quote.b64", "tail.bin"])
def test_good_quote_is_accepted_however_it_is_written(files: Path, name: str) -> None:
    done = verify(files, name, *SGX, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert set(report) == {
        "tee",
        "authentic",
        "tcb_status",
        "advisories",
        "debug",
        "measurements",
        "svns",
        "trust_root",
        "trust",
        "verdict",
        "reasons",
    }
    assert (report["tee"], report["authentic"], report["verdict"]) == ("sgx", True, "accepted")
    assert (report["trust"], report["tcb_status"], report["debug"]) == ("simulated", "UpToDate", False)
    assert report["measurements"]["mrenclave"] == MEASUREMENT.hex()


def test_simulated_root_counts_only_where_it_is_named(files: Path) -> None:
    done = verify(files, "quote.bin", "--collateral", "collateral.json", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["authentic"], report["reasons"][0]["clause"]) == (1, False, "untrusted_root")


def test_people_read_simulated_and_the_clause(files: Path) -> None:
    done = verify(files, "quote.bin", *SGX, "--policy", "policy.yaml", "--explain")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[:4] == ["verdict: REFUSED", "trust: SIMULATED", "tee: sgx", "authentic: yes"]
    assert "tcb status: UpToDate" in lines
    assert any(line.startswith("refused by measurement: got 00010203") for line in lines)
    assert any(line.startswith("  to do: if the image is yours") for line in lines)
    assert "authentic and refused by measurement" in done.stderr


def test_changed_quote_is_not_authentic_and_not_repeated(files: Path) -> None:
    done = verify(files, "changed.bin", *SGX, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["authentic"], report["measurements"]) == (1, False, {})
    assert report["reasons"][0]["clause"] == "quote_signature"


def test_debug_enclave_is_authentic_and_refused(files: Path) -> None:
    done = verify(files, "debug.bin", *SGX, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["authentic"], report["debug"]) == (1, True, True)
    assert report["reasons"][0]["clause"] == "debug_enclave"


def test_collateral_of_another_time_is_refused(files: Path) -> None:
    done = verify(files, "quote.bin", *SGX, "--json", at="2027-06-01")
    assert done.returncode == 1
    assert json.loads(done.stdout)["reasons"][0]["clause"] == "collateral_expired"


def test_report_of_amds_kind_is_accepted_under_its_root(files: Path) -> None:
    done = verify(files, "report.bin", "--collateral", "chain.pem", "--trust-root", "ark.pem", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["tee"], report["tcb_status"]) == (0, "snp", None)
    assert report["svns"] == {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 217}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--collateral", "none.json"), "cannot be read"),
        (("--collateral", "collateral.json", "--trust-root", "quote.hex"), "trust root is not a PEM certificate"),
        (("--collateral", "collateral.json", "--policy", "quote.hex"), "quote.hex"),
    ],
)
def test_wrong_usage_is_said_with_exit_code_2(files: Path, options: tuple[str, ...], said: str) -> None:
    done = verify(files, "quote.bin", *options)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_report_of_amds_kind_needs_its_chain_to_be_named(files: Path) -> None:
    done = verify(files, "report.bin", "--trust-root", "ark.pem")
    assert (done.returncode, "name its chain of certificates" in done.stderr) == (2, True)


def test_time_that_is_none_is_refused(files: Path) -> None:
    done = verify(files, "quote.bin", *SGX, at="yesterday")
    assert (done.returncode, "is not ISO 8601" in done.stderr) == (2, True)
