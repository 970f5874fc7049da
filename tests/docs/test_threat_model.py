"""Every row of the threat model names tests, and they exist. Every claim has rows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text()
ROWS = [line for line in PAGE.splitlines() if re.match(r"\| S\d \|", line) and line.count("|") == 6]
CLAIMS = re.findall(r"^\| (S\d) \| [A-Z][^|]*\|$", PAGE, re.MULTILINE)


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[:60])
def test_a_row_names_tests_that_exist(row: str) -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
    assert named, "a claim without a test"
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not (ROOT / "tests" / file).exists() or test not in functions_of(ROOT / "tests" / file)
    ]
    assert missing == []


def test_every_claim_has_a_row() -> None:
    assert len(CLAIMS) == 9
    assert {row[2:4] for row in ROWS} == set(CLAIMS)
