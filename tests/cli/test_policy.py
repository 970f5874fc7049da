"""`ppml policy check | explain | diff`, as people and CI call them."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from ppml_airflow.attestation.policy import ImageReference
from ppml_airflow.attestation.policy_files import format_policy_file
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.cli.main import cli
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, VerificationError
from tests.attestation.conftest import MEASUREMENT, NOW, REPORT_DATA
from tests.support.owners import Owners
from tests.support.policies import standard_policy

AT = NOW.isoformat()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies")
    platform = SimulatedPlatform.create(folder / "tee", now=NOW)
    good = standard_policy(
        Owners().domain,
        platform=platform,
        images={"spark": ImageReference(measurements=(MEASUREMENT.hex(),))},
    )
    (folder / "good.yaml").write_text(format_policy_file(good))
    strict = msgspec.structs.replace(good, version=2, minimum_evaluation_number=5, tees=("tdx",))
    (folder / "strict.yaml").write_text(format_policy_file(strict))
    bad = format_policy_file(good).replace("tees:", "tee:").replace("UpToDate", "Fine")
    (folder / "bad.yaml").write_text(bad)
    quote = platform.quote_sgx(measurement=MEASUREMENT, report_data=REPORT_DATA)
    (folder / "quote.bin").write_bytes(quote)
    (folder / "changed.bin").write_bytes(quote[:120] + b"?" + quote[121:])
    (folder / "collateral.json").write_bytes(platform.collateral(NOW))
    (folder / "root.pem").write_text(ssl.DER_cert_to_PEM_cert(platform.root_der))
    return folder


def ppml(folder: Path, *words: str) -> Result:
    arguments = [str(folder / word) if "." in word and (folder / word).exists() else word for word in words]
    return CliRunner().invoke(cli, ["policy", *arguments])


def explain(folder: Path, policy: str, *options: str, evidence: str = "quote.bin") -> Result:
    judged_by = ("--collateral", "collateral.json", "--trust-root", "root.pem", "--at", AT)
    return ppml(folder, "explain", policy, "--evidence", evidence, *judged_by, *options)


# ---------------------------------------------------------------- check


def test_good_policy_is_valid_and_its_simulated_root_is_noted(files: Path) -> None:
    done = ppml(files, "check", "good.yaml")
    assert done.exit_code == 0
    assert "policy standard version 1 is valid" in done.output
    assert "SIMULATED" in done.output


def test_every_mistake_is_said_with_its_line_and_exit_code_1(files: Path) -> None:
    text = (files / "bad.yaml").read_text().splitlines()
    done = ppml(files, "check", "bad.yaml")
    assert done.exit_code == 1
    line = 1 + next(at for at, one in enumerate(text) if one.startswith("tee:"))
    assert f"bad.yaml:{line}: tee: extra inputs are not permitted; did you mean tees?" in done.output
    line = 1 + next(at for at, one in enumerate(text) if "Fine" in one)
    assert f"bad.yaml:{line}: tcb_statuses.0: " in done.output
    assert "tees: field required" in done.output


def test_answer_of_check_is_json_too(files: Path) -> None:
    good, bad = (json.loads(ppml(files, "check", name, "--json").output) for name in ("good.yaml", "bad.yaml"))
    assert (good["valid"], good["problems"]) == (True, [])
    assert (bad["valid"], len(bad["problems"])) == (False, 3)


@pytest.mark.parametrize("content", [b"name: [", b"\xff", b"- a\n", b""])
def test_file_that_is_no_policy_fails_the_check(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.yaml").write_bytes(content)
    done = ppml(tmp_path, "check", "p.yaml")
    assert done.exit_code == 1
    assert "p.yaml:" in done.output


def test_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    assert isinstance(ppml(tmp_path, "check", "none.yaml").exception, ConfigurationError)


# ---------------------------------------------------------------- explain


def test_accepted_evidence_is_explained_clause_by_clause(files: Path) -> None:
    done = explain(files, "good.yaml")
    assert done.exit_code == 0
    assert "policy: standard version 1" in done.output
    assert "trust: SIMULATED" in done.output
    assert f"met by measurement: got {MEASUREMENT.hex()}, wanted {MEASUREMENT.hex()}" in done.output
    assert "met by collateral_age: got 0 hours" in done.output
    assert "every clause was met" in done.output


def test_refused_evidence_is_explained_with_what_to_do(files: Path) -> None:
    done = explain(files, "strict.yaml")
    assert isinstance(done.exception, PolicyDeniedError)
    lines = done.output.splitlines()
    at = lines.index("refused by tee: got sgx, wanted tdx")
    assert lines[at + 1].startswith("  to do: add it to tees")
    assert "refused by evaluation_number: got 1, wanted at least 5" in lines


def test_explanation_is_json_too(files: Path) -> None:
    answer = json.loads(explain(files, "strict.yaml", "--json").stdout)
    assert answer["report"]["verdict"] == "refused"
    refused = [one for one in answer["clauses"] if not one["is_met"]]
    assert [one["clause"] for one in refused] == ["tee", "evaluation_number"]
    assert all(one["got"] and one["want"] and one["hint"] for one in refused)


def test_evidence_that_does_not_verify_asks_no_clause(files: Path) -> None:
    done = explain(files, "good.yaml", evidence="changed.bin")
    assert isinstance(done.exception, VerificationError)
    assert "no clause was asked" in done.output
    assert MEASUREMENT.hex() not in done.output


def test_policy_that_is_neither_file_nor_signed_is_wrong_usage(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PPML_HOME", str(tmp_path))
    assert isinstance(explain(files, "nobody").exception, ConfigurationError)


# ---------------------------------------------------------------- diff


def test_difference_says_what_is_allowed_and_what_is_refused_now(files: Path) -> None:
    done = ppml(files, "diff", "good.yaml", "strict.yaml")
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "standard version 1 -> standard version 2",
        "- refused now: evidence of sgx",
        "- refused now: collateral of evaluation number 1 to 4",
    ]


def test_difference_to_an_older_version_is_noted(files: Path) -> None:
    done = ppml(files, "diff", "strict.yaml", "good.yaml")
    assert "versions only go up: wanted 3 or later" in done.output
    assert "+ allowed now: evidence of sgx" in done.output


def test_difference_to_itself_is_nothing(files: Path) -> None:
    assert "nothing changes" in ppml(files, "diff", "good.yaml", "good.yaml").output
    answer = json.loads(ppml(files, "diff", "good.yaml", "good.yaml", "--json").output)
    assert answer == {"allowed": [], "refused": []}
