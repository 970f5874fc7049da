"""From a DAG to a signed approval: the author compiles, the owner reads and signs exactly those bytes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from ppml_airflow import canonical
from ppml_airflow.cli.compile import code_folder, compile_dag, load_code
from ppml_airflow.cli.home import Home, require_checkout
from ppml_airflow.cli.main import cli
from ppml_airflow.cli.owner import Owner
from ppml_airflow.domain.documents import Approval
from ppml_airflow.errors import ConfigurationError, MalformedInputError, PolicyDeniedError
from tests.cli.conftest import QUERY


def ppml(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(cli, arguments, input=answer)


@pytest.fixture
def compiled(approval: Approval, tmp_path: Path) -> Path:
    path = tmp_path / "nightly.json"
    path.write_bytes(canonical.encode(approval))
    (code_folder(path) / "aggregate").mkdir(parents=True)
    (code_folder(path) / "aggregate" / "query.sql").write_bytes(QUERY)
    return path


def test_the_shipped_dag_compiles_with_its_code(home: Home, owner: Owner, tmp_path: Path) -> None:
    approval = compile_dag(
        require_checkout() / "dags" / "nightly_analytics.py",
        dag_id=None,
        domain_id=owner.domain.domain_id,
        code_folder=tmp_path / "code",
        airflow_home=home.airflow,
        options=["--runs-per-slot", "7"],
    )
    assert approval.runs_per_slot == 7
    (step,) = approval.steps
    assert b"SELECT" in load_code(tmp_path / "code", step=step)["query.sql"]


def test_what_the_compiler_refuses_is_raised_with_its_message(home: Home, owner: Owner, tmp_path: Path) -> None:
    dag = tmp_path / "broken.py"
    dag.write_text("raise ValueError('no')")
    with pytest.raises(ConfigurationError, match=r"broken\.py fails: ValueError: no"):
        compile_dag(
            dag,
            dag_id=None,
            domain_id=owner.domain.domain_id,
            code_folder=tmp_path / "code",
            airflow_home=home.airflow,
        )


def test_code_that_was_changed_after_compiling_is_refused(compiled: Path, approval: Approval) -> None:
    (code_folder(compiled) / "aggregate" / "query.sql").write_bytes(QUERY + b" ")
    with pytest.raises(ConfigurationError, match="not what was compiled"):
        load_code(code_folder(compiled), step=approval.steps[0])


def test_code_that_is_missing_is_named(approval: Approval, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"query\.sql cannot be read"):
        load_code(tmp_path, step=approval.steps[0])


def test_the_owner_reads_words_and_code_and_signs(compiled: Path, owner: Owner) -> None:
    result = ppml("approve", str(compiled), answer="y\n")
    assert result.exit_code == 0, result.output
    assert "step aggregate: reads visits (made for the run)" in result.output
    assert QUERY.decode() in result.output
    assert "trust: SIMULATED" in result.output
    assert [envelope.payload for envelope in owner.approvals("nightly")] == [compiled.read_bytes()]


@pytest.mark.parametrize("hidden", ["\x1b[1A\x1b[2K", "\r", "\b", "\u202e", "\u200b", "\x9b2K", "\u2028"])
def test_code_cannot_hide_from_the_owner_who_reads_it(
    compiled: Path, owner: Owner, approval: Approval, hidden: str
) -> None:
    code = f"SELECT name -- {hidden}\nfrom visits\nno approval of this pipeline is in force".encode()
    (code_folder(compiled) / "aggregate" / "query.sql").write_bytes(code)
    step = msgspec.structs.replace(approval.steps[0], code={"query.sql": canonical.digest_bytes(code)})
    compiled.write_bytes(canonical.encode(msgspec.structs.replace(approval, steps=(step,))))
    shown = ppml("approve", str(compiled), answer="n\n").output
    assert hidden not in shown
    assert hidden.encode("unicode_escape").decode() in shown
    assert "\n    no approval of this pipeline is in force\n" in shown


def test_an_owner_who_says_no_has_signed_nothing(compiled: Path, owner: Owner) -> None:
    assert ppml("approve", str(compiled), answer="n\n").exit_code == 1
    assert owner.approvals("nightly") == []
    assert owner.certificates().by_serial.keys() == Owner.load(Home.default()).certificates().by_serial.keys()


def test_code_beside_that_is_another_is_not_shown(compiled: Path, owner: Owner) -> None:
    (code_folder(compiled) / "aggregate" / "query.sql").write_bytes(b"SELECT 'harmless'")
    result = ppml("approve", str(compiled), "--yes")
    assert "harmless" not in result.output
    assert "its code is not shown" in result.output


def test_the_difference_from_the_approval_in_force_is_shown(compiled: Path, owner: Owner, approval: Approval) -> None:
    ppml("approve", str(compiled), "--yes")
    in_force = owner.approvals("nightly")[-1].digest
    compiled.write_bytes(canonical.encode(msgspec.structs.replace(approval, runs_per_slot=50, replaces=in_force)))
    result = ppml("approve", str(compiled), "--yes")
    assert "+ runs: at most 50" in result.output
    assert "- runs: at most 1 " in result.output


def test_an_adhoc_step_against_the_rules_is_not_signed(compiled: Path, owner: Owner, approval: Approval) -> None:
    adhoc = msgspec.structs.replace(approval.steps[0], kind="adhoc")
    compiled.write_bytes(canonical.encode(msgspec.structs.replace(approval, steps=(adhoc,))))
    result = ppml("approve", str(compiled), "--yes")
    assert isinstance(result.exception, PolicyDeniedError)
    assert result.exception.code == "adhoc_rules"
    assert owner.approvals("nightly") == []


def test_a_file_that_is_not_canonical_is_refused(compiled: Path, owner: Owner) -> None:
    compiled.write_bytes(compiled.read_bytes() + b"\n")
    assert isinstance(ppml("approve", str(compiled), "--yes").exception, MalformedInputError)


def test_an_approval_for_another_domain_is_refused(compiled: Path, owner: Owner, approval: Approval) -> None:
    compiled.write_bytes(canonical.encode(msgspec.structs.replace(approval, domain_id="sha256:" + "0" * 64)))
    assert isinstance(ppml("approve", str(compiled), "--yes").exception, PolicyDeniedError)
    assert owner.approvals("nightly") == []
