"""A question from the run, on the real engine: the answer is DuckDB's, and one outside the rules gets no key."""

from __future__ import annotations

import json
import shlex
import subprocess

import duckdb
import pytest

from tests.support.commands import Commands

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
QUESTION = """SELECT hlthp AS poor, count(*) AS people, max(disea) AS most
FROM visits WHERE idp IN (SELECT individual_deductible FROM plans)
GROUP BY hlthp ORDER BY hlthp"""


def ask(ppml: Commands, statement: str, *, expect: int = 0) -> str:
    done = ppml("demo", "--dag", "adhoc_sql", "--conf", json.dumps({"statement": statement}), expect=expect)
    return done.stdout + done.stderr


def last(said: str, word: str) -> str:
    return next(line for line in reversed(said.splitlines()) if line.startswith(f"{word}: ")).removeprefix(f"{word}: ")


def test_the_answer_is_what_duckdb_says_and_the_passport_names_the_question(ppml: Commands) -> None:
    said = ask(ppml, QUESTION)
    sources = ppml.home / "agents" / "owner" / "sources"
    with duckdb.connect() as database:
        for table in ("visits", "plans"):
            database.execute(f"CREATE VIEW {table} AS FROM read_csv('{sources}/{table}.csv')")
        wanted = database.execute(QUESTION).fetchall()
        answer = database.execute(f"FROM read_csv('{last(said, 'result')}')").fetchall()
    assert len(wanted) == 2
    assert answer == wanted
    verified = subprocess.run(shlex.split(last(said, "verify")), check=True, capture_output=True, text=True).stdout
    assert "param statement: SELECT hlthp AS poor" in verified
    assert "\\nFROM visits" in verified


@pytest.mark.slow
def test_a_statement_outside_the_rules_is_refused_in_full_before_any_key(ppml: Commands) -> None:
    said = ask(ppml, "SELECT java_method('java.lang.System', 'getenv', plan) AS x FROM plans", expect=1)
    assert "statement.sql: line 1, column" in said
    assert "java_method" in said
    assert "leased" not in said
    assert "result:" not in said
