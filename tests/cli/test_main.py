"""The table of commands, and how errors become exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ppml_airflow.cli import main
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.owner import Owner


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_of_the_table_exists_and_explains_itself(name: str) -> None:
    command = main.cli.get_command(click.Context(main.cli), name)
    assert command is not None
    assert CliRunner().invoke(main.cli, [name, "--help"]).exit_code == 0


def test_an_unknown_command_is_wrong_usage() -> None:
    assert CliRunner().invoke(main.cli, ["nonsense"]).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["domain", "show"], 2, "error: "),
        (["verify", "none.json"], 1, "whom you trust"),
        (["logs", "zz"], 2, "wanted one"),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    home: Home, arguments: list[str], exit_code: int, said: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ppml_airflow.cli.main", *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == exit_code
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_help_loads_no_command() -> None:
    program = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules)); from ppml_airflow.cli.main import cli; cli()"
    )
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True)
    loaded = done.stdout
    assert "ppml_airflow.cli.main" in loaded
    assert "ppml_airflow.cli.demo" not in loaded
    assert " airflow " not in loaded


def test_a_domain_is_made_and_shown(home: Home) -> None:
    made = CliRunner().invoke(main.cli, ["domain", "create", "--owners", "3", "--threshold", "2"])
    assert "trust: SIMULATED" in made.output
    shown = CliRunner().invoke(main.cli, ["domain", "show"])
    assert "owners: 3, threshold 2" in shown.output
    assert "broker as broker" in shown.output


def test_a_policy_is_shown_as_the_file_that_signs_its_next_version(home: Home, owner: Owner, tmp_path: Path) -> None:
    from ppml_airflow.cli.simulated import accept_measurement

    accept_measurement(home, owner=owner, image="spark", measurement="a" * 64, names=["default"])
    shown = CliRunner().invoke(main.cli, ["policy", "show"])
    file = tmp_path / "policy.yaml"
    file.write_text(shown.output.replace("version: 1", "version: 2").replace("a" * 64, "b" * 64))
    signed = CliRunner().invoke(main.cli, ["policy", "sign", str(file)])
    assert signed.exit_code == 0, signed.output
    assert owner.policies()["default"].images["spark"].measurements == ("b" * 64,)
    assert f"+ allowed now: image spark by measurement {'b' * 64}" in signed.output
    assert f"- refused now: image spark by measurement {'a' * 64}" in signed.output
    assert CliRunner().invoke(main.cli, ["policy", "show", "other"]).exit_code != 0
