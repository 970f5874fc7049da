from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.structs import replace

from ppml_airflow import canonical
from ppml_airflow.attestation.roots import INTEL_ROOT
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.trust import trust
from ppml_airflow.domain.documents import Revocation
from ppml_airflow.errors import ConfigurationError, MalformedInputError, VerificationError
from ppml_airflow.provenance.trust_bundle import parse_trust_bundle
from ppml_airflow.signing import SigningKey
from tests.support.owners import Owners
from tests.support.simulated_run import SimulatedRun, complete_run, make_platform


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRun:
    return complete_run(make_platform(tmp_path_factory.mktemp("platform") / "tee"))


@pytest.fixture
def home(run: SimulatedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PPML_HOME with a domain and its development root."""
    monkeypatch.setenv("PPML_HOME", str(tmp_path))
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "domain.json").write_bytes(canonical.encode(run.owners.domain))
    (tmp_path / "tee").mkdir()
    certificate = x509.load_der_x509_certificate(run.platform.root_der)
    (tmp_path / "tee" / "root.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    return tmp_path


def export(*options: str) -> Result:
    result = CliRunner().invoke(trust, ["export", *options])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_bundle_of_this_installation_is_printed(home: Path, run: SimulatedRun) -> None:
    assert parse_trust_bundle(export().stdout_bytes) == run.trust()


def test_the_bundle_is_written_to_a_file(home: Path, run: SimulatedRun) -> None:
    target = home / "bundle.json"
    assert export("--output", str(target)).stdout == f"trust: {target}\n"
    assert parse_trust_bundle(target.read_bytes()) == run.trust()


def test_a_hardware_domain_names_intels_root(home: Path) -> None:
    domain = Owners("visits", trust="hardware").domain
    (home / "domain.json").write_bytes(canonical.encode(domain))
    bundle = parse_trust_bundle(export("--domain", str(home / "domain.json")).stdout_bytes)
    assert (bundle.domain, bundle.roots) == (domain, (INTEL_ROOT,))


def test_a_simulated_root_alone_does_not_make_a_hardware_bundle(home: Path) -> None:
    domain = Owners("visits", trust="hardware").domain
    (home / "domain.json").write_bytes(canonical.encode(domain))
    with pytest.raises(ConfigurationError, match="names no hardware TEE root"):
        export("--domain", str(home / "domain.json"), "--tee-root", str(home / "tee" / "root.pem"))


def test_a_pinned_passport_becomes_a_checkpoint(home: Path, run: SimulatedRun) -> None:
    (home / "passport.json").write_bytes(run.passport())
    bundle = parse_trust_bundle(export("--pin", str(home / "passport.json")).stdout_bytes)
    assert bundle.checkpoints == (run.checkpoint(size=len(run.log())),)


def test_a_passport_that_does_not_verify_is_not_pinned(home: Path, run: SimulatedRun) -> None:
    (home / "passport.json").write_bytes(run.passport(contents="sha256:" + "0" * 64))
    with pytest.raises(VerificationError):
        export("--pin", str(home / "passport.json"))


def test_a_home_without_a_domain_says_so(home: Path) -> None:
    (home / "owner" / "domain.json").unlink()
    with pytest.raises(ConfigurationError, match="has no domain yet"):
        export()


def test_a_domain_file_that_is_none_is_refused(home: Path) -> None:
    (home / "domain.json").write_text("{}")
    with pytest.raises(MalformedInputError):
        export("--domain", str(home / "domain.json"))


def test_a_root_file_that_is_none_is_refused(home: Path) -> None:
    (home / "root.pem").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="trust root"):
        export("--tee-root", str(home / "root.pem"))


def test_a_file_that_cannot_be_written_says_so(home: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written"):
        export("--output", str(home / "no" / "such" / "folder.json"))


def test_a_bundle_tells_what_the_owner_has_revoked(home: Path, run: SimulatedRun) -> None:
    domain = run.owners.domain
    revocation = Revocation(
        domain_id=domain.domain_id, kind="platform", subject="cd" * 16, reason="stolen", time="2026-11-01T00:00:00Z"
    )
    own, given = run.owners.root.sign(revocation), run.owners.root.sign(replace(revocation, subject="ab" * 16))
    Owner(Home(home), domain=domain, keys=()).store_revocation(own)
    (home / "given.json").write_bytes(canonical.encode(given))
    bundle = parse_trust_bundle(export("--revocation", str(home / "given.json")).stdout_bytes)
    assert bundle.revocations == (own, given)
    (home / "given.json").write_bytes(canonical.encode(SigningKey.generate().sign(revocation)))
    with pytest.raises(VerificationError, match="revocations"):
        export("--revocation", str(home / "given.json"))
