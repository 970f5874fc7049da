"""What shipped pipelines must answer, computed outside of them, on the owner's own files, by another engine."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import yaml

from tests.support import tpch
from tests.support.pi import estimate_of_pi

PERSON_YEARS = """
    SELECT plan, mdvis, CASE WHEN hlthp = 1 THEN 'poor' WHEN hlthf = 1 THEN 'fair' WHEN hlthg = 1 THEN 'good'
        ELSE 'excellent' END AS health
    FROM read_csv('{sources}/visits.csv') JOIN read_csv('{sources}/plans.csv')
        ON individual_deductible = idp AND coinsurance = round(exp(lncoins)) - 1
    WHERE disea >= {diseases}
"""
USE_OF_DOCTORS = {
    "use_by_plan": ("plan, count(*), avg(mdvis), median(mdvis)", "plan"),
    "use_by_health": ("health, count(*), avg(mdvis)", "health"),
}
"""Output of `spark_sql` -> columns, and what they are grouped by."""


def sources(home: Path) -> Path:
    """The owner's files."""
    return home / "agents" / "owner" / "sources"


def opened(home: Path, output: str) -> Path:
    """What the recipient's agent opened."""
    (file,) = (home / "agents" / "recipient" / "opened").glob(f"{output}.*")
    return file


def require_nightly(home: Path, **params: int) -> None:
    """`nightly_analytics` answers what DuckDB does."""
    question = yaml.safe_load((home / "dags" / "nightly_analytics.yaml").read_text())
    database = duckdb.connect()
    for name in question["tables"]:
        database.execute(f"CREATE VIEW {name} AS SELECT * FROM read_csv('{sources(home)}/{name}.csv')")  # noqa: S608
    wanted = database.execute(re.sub(r":(minimum_\w+)", r"$\1", question["sql"]), params).df()
    found = database.execute(f"SELECT * FROM '{opened(home, 'report')}'").df()  # noqa: S608
    assert len(wanted) > 0
    assert list(found.columns) == list(wanted.columns)
    assert found["plan"].tolist() == wanted["plan"].tolist()
    for column in wanted.columns[1:]:
        np.testing.assert_allclose(found[column].astype(float), wanted[column].astype(float), atol=0.0051)


def require_pi(home: Path, *, samples: int, seed: int) -> None:
    """`spark_pi` answers what NumPy does."""
    found = duckdb.sql(f"SELECT * FROM '{opened(home, 'pi')}'").fetchall()  # noqa: S608
    assert found == [(estimate_of_pi(samples=samples, seed=seed), samples)]


def person_years(home: Path, *, minimum_diseases: int) -> duckdb.DuckDBPyRelation:
    """What the query of `spark_sql` computes."""
    return duckdb.sql(PERSON_YEARS.format(sources=sources(home), diseases=minimum_diseases))


def require_use_of_doctors(home: Path, output: str, *, minimum_diseases: int, smallest_group: int) -> None:
    """An output of `spark_sql` is what DuckDB answers."""
    columns, group = USE_OF_DOCTORS[output]
    groups = person_years(home, minimum_diseases=minimum_diseases).aggregate(columns, group).order(group).fetchall()
    wanted = [row for row in groups if row[1] >= smallest_group]
    assert len(wanted) > 1
    assert tpch.differences(tpch.opened_answer(opened(home, output)), wanted) == []


def require_groups(answer: Path, *, visits: Path, minimum_people: int, often: int) -> None:
    """`enclave_task` answers what pandas does."""
    rows = pd.read_csv(visits)
    groups = rows.groupby((rows["disea"] // 4 * 4).astype(int).rename("diseases"))["mdvis"].agg(
        people="size", median_visits="median", share=lambda visits: (visits >= often).mean()
    )
    wanted = groups[groups["people"] >= minimum_people].reset_index()
    assert len(wanted) > 1
    pd.testing.assert_frame_equal(pd.read_csv(answer), wanted, check_dtype=False)
