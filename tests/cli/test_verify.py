from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Revocation
from tests.support.policies import MEASUREMENT
from tests.support.simulated_run import SimulatedRun, complete_run, make_platform, start_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRun:
    return complete_run(make_platform(tmp_path_factory.mktemp("platform") / "tee"))


@pytest.fixture
def files(run: SimulatedRun, tmp_path: Path) -> Path:
    (tmp_path / "passport.json").write_bytes(run.passport())
    (tmp_path / "trust.json").write_bytes(canonical.encode(run.trust()))
    return tmp_path


def verify(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The real command, in a process of its own, without network or home."""
    command = [sys.executable, "-m", "ppml_airflow.cli.main", "verify", *options]
    return subprocess.run(command, cwd=folder, env={}, capture_output=True, text=True, check=False, timeout=60)


def test_a_passport_is_verified_with_the_bundle(files: Path, run: SimulatedRun) -> None:
    done = verify(files, "passport.json", "--trust", "trust.json")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:2] == ["verdict: verified", "trust: SIMULATED"]
    assert f"run: {run.run_id} of nightly, slot {run.run.slot}, SUCCEEDED" in lines
    assert "step aggregate: committed (image spark)" in lines
    assert any(line.startswith("denied: step aggregate") for line in lines)
    assert any(line.startswith("released: summary") for line in lines)


def test_json_has_verdict_and_trust(files: Path, run: SimulatedRun) -> None:
    done = verify(files, "passport.json", "--trust", "trust.json", "--json")
    report = json.loads(done.stdout)
    assert (report["verdict"], report["trust"], report["run_id"]) == ("verified", "simulated", run.run_id)


def test_without_a_bundle_nothing_is_verified(files: Path) -> None:
    done = verify(files, "passport.json")
    assert done.returncode == 1
    assert done.stdout.splitlines() == ["verdict: REFUSED", "trust: none"]
    assert "give --trust FILE" in done.stderr


def test_a_changed_byte_is_refused(files: Path) -> None:
    path = files / "passport.json"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = verify(files, "passport.json", "--trust", "trust.json")
    assert (done.returncode, done.stdout.splitlines()[0]) == (1, "verdict: REFUSED")
    assert done.stderr.startswith("error: ")


def test_a_passport_cannot_write_a_verdict_of_its_own_on_the_terminal(files: Path) -> None:
    (files / "passport.json").write_bytes(canonical.encode({"\x1b[2J\nverdict: verified\n": 1}))
    done = verify(files, "passport.json", "--trust", "trust.json")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "verdict: REFUSED"
    assert "verdict: verified" not in done.stderr.splitlines()
    assert done.stderr.strip().isprintable()


def test_a_refusal_as_json_says_why(files: Path, run: SimulatedRun) -> None:
    (files / "passport.json").write_bytes(run.passport(contents="sha256:" + "0" * 64))
    done = verify(files, "passport.json", "--trust", "trust.json", "--json")
    refusal = json.loads(done.stdout)
    assert done.returncode == 1
    assert (refusal["verdict"], refusal["trust"], refusal["code"]) == ("refused", "simulated", "contents")


def test_a_bundle_of_another_domain_is_refused(files: Path, run: SimulatedRun) -> None:
    other = start_run(run.platform)
    (files / "trust.json").write_bytes(canonical.encode(other.trust()))
    done = verify(files, "passport.json", "--trust", "trust.json")
    assert done.returncode == 1
    assert "passport is of domain" in done.stderr


@pytest.mark.parametrize("missing", ["passport.json", "trust.json"])
def test_a_file_that_is_not_there_is_wrong_usage(files: Path, missing: str) -> None:
    (files / missing).unlink()
    done = verify(files, "passport.json", "--trust", "trust.json")
    assert done.returncode == 2
    assert f"{missing} cannot be read: No such file" in done.stderr


def test_a_bundle_that_is_none_is_wrong_usage(files: Path) -> None:
    (files / "trust.json").write_text("{}")
    done = verify(files, "passport.json", "--trust", "trust.json")
    assert done.returncode == 2
    assert "ppml trust export" in done.stderr


def test_a_file_that_is_too_long_is_not_read(files: Path) -> None:
    (files / "trust.json").write_bytes(b" " * (1024 * 1024 + 1))
    done = verify(files, "passport.json", "--trust", "trust.json")
    assert done.returncode == 2
    assert "is longer than" in done.stderr


def test_an_input_of_an_earlier_run_is_noted(files: Path, run: SimulatedRun) -> None:
    from ppml_airflow.signing import SigningKey

    night = start_run(run.platform)
    made = night.make_manifest("plans", producer=None, run_id="ab" * 16, lease_id="cd" * 16)
    night.commit_manifest(SigningKey.generate(scheme="p256").sign(made))
    night.run_step("aggregate")
    night.run_step("summarise")
    (files / "passport.json").write_bytes(night.passport())
    (files / "trust.json").write_bytes(canonical.encode(night.trust()))
    done = verify(files, "passport.json", "--trust", "trust.json")
    assert done.returncode == 0
    assert "note: input plans version 1 was made in an earlier run" in done.stdout


def test_verifying_imports_no_service_and_no_airflow() -> None:
    code = (
        "import sys, ppml_airflow.cli.verify; "
        "print([name for name in ('airflow', 'fastapi', 'sqlalchemy', 'pyarrow', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def revocation_of(run: SimulatedRun) -> bytes:
    """The owners' word that the run's image is not to be relied on."""
    revocation = Revocation(
        domain_id=run.owners.domain.domain_id,
        kind="measurement",
        subject=MEASUREMENT.hex(),
        reason="a hole in it\x1b[2J",
        time="2026-11-01T00:00:00Z",
    )
    return canonical.encode(run.owners.root.sign(revocation))


def test_a_run_that_stands_on_what_was_revoked_is_told_apart_from_a_forged_one(files: Path, run: SimulatedRun) -> None:
    (files / "revocation.json").write_bytes(revocation_of(run))
    done = verify(files, "passport.json", "--trust", "trust.json", "--revocation", "revocation.json")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "verdict: REVOKED"
    assert "revocations: 1 known to the trust bundle" in lines
    told = next(line for line in lines if line.startswith("revoked: step aggregate, attempt 2"))
    assert f"stands on measurement {MEASUREMENT.hex()}, revoked since 2026-11-01T00:00:00Z: a hole in it" in told
    assert told.endswith("so does what it made: report version 1")
    assert "\x1b" not in done.stdout + done.stderr
    assert "run is authentic, and step aggregate stands on measurement" in done.stderr
    done = verify(files, "passport.json", "--trust", "trust.json", "--revocation", "revocation.json", "--json")
    assert (done.returncode, json.loads(done.stdout)["verdict"]) == (1, "revoked")


def test_it_is_said_that_no_revocation_is_known(files: Path) -> None:
    done = verify(files, "passport.json", "--trust", "trust.json")
    assert "revocations: 0 known to the trust bundle" in done.stdout.splitlines()


def test_what_is_no_revocation_is_refused(files: Path, run: SimulatedRun) -> None:
    for content in (b"{}", b"", canonical.encode(run.contents().approval)):
        (files / "revocation.json").write_bytes(content)
        done = verify(files, "passport.json", "--trust", "trust.json", "--revocation", "revocation.json")
        assert done.returncode != 0
        assert done.stdout.splitlines()[0] == "verdict: REFUSED"
