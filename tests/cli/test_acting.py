"""Acting as the owner of a simulated domain: what is signed, when, and what is said about it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.cli.acting import check_passport, print_outcome, sign_approval
from ppml_airflow.cli.agents import (
    delivery_sinks,
    pipelines_in_files,
    sealed_datasets,
    source_in_file,
    write_agent_files,
)
from ppml_airflow.cli.home import Home, write_private
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.run import ordered_steps
from ppml_airflow.domain.documents import Approval, Input, Output
from ppml_airflow.errors import ConfigurationError, MalformedInputError, PolicyDeniedError, VerificationError
from ppml_airflow.units import format_instant
from tests.cli.conftest import NOW


def test_it_says_that_it_acts_for_a_simulated_domain(home: Home, approval: Approval) -> None:
    said: list[str] = []
    envelope, _ = sign_approval(home, compiled=approval, say=said.append)
    assert (
        said[-1]
        == f"acting as owner of the SIMULATED domain simulated: signed the approval of nightly, {envelope.digest}"
    )


def test_the_same_again_is_not_signed_again(home: Home, approval: Approval) -> None:
    first, _ = sign_approval(home, compiled=approval, say=lambda _: None)
    said: list[str] = []
    later = msgspec.structs.replace(approval, valid_from=format_instant(NOW + timedelta(hours=1)))
    assert sign_approval(home, compiled=later, say=said.append)[0] == first
    assert "SIMULATED" in said[-1]


def test_a_change_is_signed_as_successor(home: Home, approval: Approval) -> None:
    first, _ = sign_approval(home, compiled=approval, say=lambda _: None)
    changed = msgspec.structs.replace(approval, runs_per_slot=2)
    assert sign_approval(home, compiled=changed, say=lambda _: None)[1].replaces == first.digest


def test_an_approval_that_soon_ends_is_signed_anew(home: Home, approval: Approval) -> None:
    ending = msgspec.structs.replace(approval, valid_until=format_instant(NOW + timedelta(days=1)))
    first, _ = sign_approval(home, compiled=ending, say=lambda _: None)
    assert sign_approval(home, compiled=approval, say=lambda _: None)[1].replaces == first.digest


def test_nothing_is_signed_for_a_domain_of_hardware_trust(home: Home, owner: Owner, approval: Approval) -> None:
    write_private(home.domain_file, canonical.encode(msgspec.structs.replace(owner.domain, trust="hardware")))
    with pytest.raises(PolicyDeniedError, match="not simulated"):
        sign_approval(home, compiled=approval, say=lambda _: None)
    assert not (home.owner / "approvals").exists()


def test_a_passport_that_is_missing_or_none_is_refused(home: Home, owner: Owner, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="is missing"):
        check_passport(home, tmp_path / "none.json")
    (tmp_path / "some.json").write_text("{}")
    with pytest.raises(MalformedInputError):
        check_passport(home, tmp_path / "some.json")


def test_the_last_lines_are_for_scripts(home: Home, approval: Approval, capsys: pytest.CaptureFixture[str]) -> None:
    print_outcome(home, approval=approval, passport=home.passports / "p.json")
    result, passport, verify = capsys.readouterr().out.splitlines()
    assert result == f"result: {home.agent('recipient')}/opened/report.csv"
    assert passport == f"passport: {home.passports}/p.json"
    assert verify.endswith(f"ppml verify {home.passports}/p.json --trust {home.trust_bundle}")


def test_only_what_is_made_for_the_run_and_by_no_step_is_sealed(home: Home, approval: Approval) -> None:
    assert sealed_datasets(approval) == ["visits"]
    assert list(delivery_sinks(home, approval=approval)) == ["report"]


def test_steps_run_after_those_that_they_need(home: Home, approval: Approval) -> None:
    (first,) = approval.steps
    second = msgspec.structs.replace(
        first,
        name="a_second",
        inputs=(Input(dataset="report", version="this-run"),),
        outputs=(Output(dataset="summary", body="table", recipients=(), files=1),),
    )
    both = msgspec.structs.replace(approval, steps=(second, first), edges=(("aggregate", "a_second"),))
    assert [step.name for step in ordered_steps(both)] == ["aggregate", "a_second"]
    assert sealed_datasets(both) == ["visits"]
    assert list(delivery_sinks(home, approval=both)) == ["report"]


def test_agents_keep_their_entries_for_other_pipelines(home: Home, owner: Owner, tmp_path: Path) -> None:
    for pipeline, name in (("one", "visits"), ("two", "sales")):
        write_agent_files(
            home,
            broker="unix:/b",
            pipeline=pipeline,
            sources={name: tmp_path / name},
            sinks={"report": "opened/report.csv"},
        )
    assert source_in_file(home, "visits") == tmp_path / "visits"
    assert source_in_file(home, "sales") == tmp_path / "sales"
    assert source_in_file(home, "other") is None
    assert pipelines_in_files(home) == {"one", "two"}


def test_agents_without_files_have_entries_for_no_pipeline(home: Home, owner: Owner) -> None:
    assert pipelines_in_files(home) == set()


def test_a_broken_agent_file_is_named(home: Home, owner: Owner) -> None:
    (home.agent("owner") / "agent.yaml").write_text("a: [")
    with pytest.raises(ConfigurationError, match=r"agent\.yaml cannot be read"):
        source_in_file(home, "visits")
