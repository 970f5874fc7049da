from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TABLE = TESTS / "e2e" / "test_kill.py"


def test_the_table_of_kills_names_every_file_that_kills() -> None:
    marked = {path for path in TESTS.rglob("test_*.py") if "mark.kill" in path.read_text()} - {TABLE, Path(__file__)}
    named = {TESTS / found for found in re.findall(r"`([\w/]+\.py)`", TABLE.read_text())}
    assert marked == named
