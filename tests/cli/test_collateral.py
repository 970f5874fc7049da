"""`ppml collateral`, against a caching service of our own."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.attestation.schemes.simulated_collateral import Conditions
from ppml_airflow.cli.main import cli
from ppml_airflow.errors import ConfigurationError, MalformedInputError, UnavailableError, VerificationError
from tests.attestation.conftest import MEASUREMENT, REPORT_DATA
from tests.support.pccs import Pccs, serving

NOW = datetime.now(UTC).replace(microsecond=0)
FAMILY = "sgx-ffff53494d55-platform"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return SimulatedPlatform.create(tmp_path_factory.mktemp("platform") / "tee", now=NOW)


@pytest.fixture
def folder(tmp_path: Path, platform: SimulatedPlatform, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PPML_HOME", str(tmp_path / "home"))
    (tmp_path / "root.pem").write_text(ssl.DER_cert_to_PEM_cert(platform.root_der))
    (tmp_path / "quote.bin").write_bytes(platform.quote_sgx(measurement=MEASUREMENT, report_data=REPORT_DATA))
    return tmp_path


@pytest.fixture
def pccs(folder: Path, platform: SimulatedPlatform) -> Iterator[Pccs]:
    with serving(folder / "pccs", collateral=lambda: platform.collateral(NOW)) as service:
        yield service


def ppml(folder: Path, *words: str, group: str = "collateral") -> Result:
    arguments = [str(folder / word) if word.endswith((".pem", ".bin", ".bundle")) else word for word in words]
    return CliRunner().invoke(cli, [group, *arguments])


def fetch(folder: Path, pccs: Pccs, what: str = "quote.bin") -> Result:
    return ppml(folder, "fetch", what, "--url", pccs.url, "--ca", str(pccs.ca_file), "--trust-root", "root.pem")


def test_fetched_collateral_is_listed_with_its_numbers_and_end(folder: Path, pccs: Pccs) -> None:
    done = fetch(folder, pccs)
    assert done.exit_code == 0, done.exception
    assert f"{FAMILY}: evaluation 1, lists 1 and 1; good until" in done.output
    (row,) = json.loads(ppml(folder, "list", "--trust-root", "root.pem", "--json").output)
    assert (row["platforms"], row["state"], row["trust"]) == (FAMILY, "good", "SIMULATED")
    assert row["expires"] == (NOW + timedelta(days=30)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_family_may_be_named_instead_of_a_quote(folder: Path, pccs: Pccs) -> None:
    assert fetch(folder, pccs, FAMILY).exit_code == 0


def test_what_is_neither_quote_nor_family_is_refused(folder: Path, pccs: Pccs) -> None:
    assert isinstance(fetch(folder, pccs, "my-laptop").exception, MalformedInputError)


def test_simulated_collateral_is_refused_without_its_root_being_named(folder: Path, pccs: Pccs) -> None:
    done = ppml(folder, "fetch", "quote.bin", "--url", pccs.url, "--ca", str(pccs.ca_file))
    assert isinstance(done.exception, VerificationError)
    assert "no collateral is kept" in ppml(folder, "list").output


def test_service_without_tls_is_wrong_usage(folder: Path) -> None:
    done = ppml(folder, "fetch", FAMILY, "--url", "http://127.0.0.1:1")
    assert isinstance(done.exception, ConfigurationError)


def test_quote_is_verified_by_what_is_kept(folder: Path, pccs: Pccs) -> None:
    words = ("verify", "quote.bin", "--trust-root", "root.pem", "--at", NOW.isoformat())
    without = ppml(folder, *words, group="quote")
    assert isinstance(without.exception, UnavailableError)
    assert "ppml collateral" in without.exception.hint
    fetch(folder, pccs)
    done = ppml(folder, *words, group="quote")
    assert (done.exit_code, done.output.splitlines()[0]) == (0, "verdict: accepted")


def test_bundle_carries_collateral_to_another_home(folder: Path, pccs: Pccs, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(folder, pccs)
    assert ppml(folder, "export", "all.bundle").exit_code == 0
    monkeypatch.setenv("PPML_HOME", str(folder / "elsewhere"))
    done = ppml(folder, "import", "all.bundle", "--trust-root", "root.pem")
    assert done.output == f"{FAMILY}: kept\n"
    assert FAMILY in ppml(folder, "list", "--trust-root", "root.pem").output


def test_older_bundle_is_refused(
    folder: Path, pccs: Pccs, platform: SimulatedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(folder, pccs)
    ppml(folder, "export", "old.bundle")
    pccs.collateral = lambda: platform.collateral(NOW, conditions=Conditions(evaluation_number=2))
    fetch(folder, pccs)
    done = ppml(folder, "import", "old.bundle", "--trust-root", "root.pem")
    assert isinstance(done.exception, VerificationError)
    assert done.exception.code == "collateral_rollback"


def test_stale_collateral_is_listed_as_refused(folder: Path, pccs: Pccs, platform: SimulatedPlatform) -> None:
    fetch(folder, pccs)
    kept = folder / "home" / "collateral" / f"{FAMILY}.json"
    kept.write_bytes(platform.collateral(NOW - timedelta(days=31)))
    (row,) = json.loads(ppml(folder, "list", "--trust-root", "root.pem", "--json").output)
    assert row["state"].startswith("REFUSED: collateral is refused: a part is good from")
