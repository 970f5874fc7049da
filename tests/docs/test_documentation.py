"""What README and docs show is true: DAGs compile, commands exist, files parse, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from ppml_airflow import canonical
from ppml_airflow.cli.main import cli
from ppml_airflow.domain.documents import Approval

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for number, (found, text) in enumerate(_BLOCK.findall(page.read_text())):
            if found == language:
                yield f"{page.relative_to(ROOT)}-{number}", text


def commands() -> list[tuple[str, str]]:
    return [(name, line) for name, text in blocks("sh") for line in text.splitlines() if line and line[0] != "#"]


@pytest.mark.parametrize(("name", "line"), commands(), ids=lambda value: value[:60])
def test_a_command_in_the_docs_exists_with_its_options(name: str, line: str) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets
        return
    assert words[0] == "ppml", f"{name}: {line}"
    command: click.Command = cli
    context = click.Context(cli)
    rest = words[1:]
    while isinstance(command, click.Group):
        found = command.get_command(context, rest.pop(0))
        assert found is not None, line
        command = found
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known, line


@pytest.mark.parametrize(("name", "text"), list(blocks("python")), ids=lambda value: value[:40])
def test_a_dag_in_the_docs_compiles(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "copied.py").write_text(text)
    command = [sys.executable, "-m", "ppml_airflow.operators.compile", str(tmp_path / "copied.py")]
    done = subprocess.run([*command, "--domain-id", "sha256:" + "0" * 64], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    approval = canonical.decode(done.stdout.strip(), into=Approval)
    assert approval.steps[0].gates == ("before", "after")


@pytest.mark.parametrize(("name", "text"), list(blocks("yaml")), ids=lambda value: value[:40])
def test_yaml_in_the_docs_is_yaml(name: str, text: str) -> None:
    assert isinstance(yaml.safe_load(text), dict)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []
