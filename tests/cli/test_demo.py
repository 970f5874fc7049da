"""What `ppml demo` takes, and refuses before anything runs."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ppml_airflow.cli.demo import choose_sources, lay_dag, parse_source
from ppml_airflow.cli.home import Home
from ppml_airflow.errors import ConfigurationError

SHIPPED = Path(__file__).parents[2] / "dags"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "sales.csv"
    path.write_text("shop,amount\nnorth,3\nsouth,4\n")
    return path


def test_a_table_is_named_by_its_file(table: Path) -> None:
    assert parse_source(str(table)) == ("sales", table)


def test_a_name_before_the_file_wins(table: Path) -> None:
    assert parse_source(f"orders={table}") == ("orders", table)


def test_a_compressed_file_is_named_without_its_endings(tmp_path: Path) -> None:
    (tmp_path / "sales.csv.gz").touch()
    assert parse_source(str(tmp_path / "sales.csv.gz"))[0] == "sales"


def test_a_path_with_an_equals_sign_is_still_a_path(tmp_path: Path) -> None:
    (tmp_path / "day=1").mkdir()
    (tmp_path / "day=1" / "sales.csv").touch()
    assert parse_source(str(tmp_path / "day=1" / "sales.csv"))[0] == "sales"


def test_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not there"):
        parse_source(str(tmp_path / "none.csv"))


def test_a_file_that_cannot_name_a_table_asks_for_a_name(tmp_path: Path) -> None:
    (tmp_path / "my sales.csv").touch()
    with pytest.raises(ConfigurationError, match="NAME=FILE"):
        parse_source(str(tmp_path / "my sales.csv"))


def test_the_shipped_question_is_laid_unchanged(home: Home) -> None:
    dag = lay_dag(home, dag_id="nightly_analytics", tables={}, sql=None)
    assert yaml.safe_load(dag.with_suffix(".yaml").read_text())["tables"] == ["visits", "plans"]


def test_a_shipped_dag_is_laid_with_its_job_files(home: Home) -> None:
    dag = lay_dag(home, dag_id="spark_pi", tables={}, sql=None)
    for name in ("spark_pi.py", "spark_pi/pi.py", ".airflowignore"):
        assert (dag.parent / name).read_bytes() == (SHIPPED / name).read_bytes()


def test_a_dag_without_a_question_takes_no_query(home: Home, tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("SELECT 1")
    with pytest.raises(ConfigurationError, match="takes no --sql"):
        lay_dag(home, dag_id="spark_pi", tables={}, sql=tmp_path / "q.sql")


def test_another_query_reads_the_tables_that_it_names(home: Home, table: Path, tmp_path: Path) -> None:
    query = tmp_path / "q.sql"
    query.write_text("SELECT shop, plan FROM sales JOIN plans ON true")
    dag = lay_dag(home, dag_id="nightly_analytics", tables={"sales": table}, sql=query)
    question = yaml.safe_load(dag.with_suffix(".yaml").read_text())
    assert question == {"tables": ["plans", "sales"], "sql": query.read_text()}


def test_another_source_for_a_shipped_table_keeps_the_question(home: Home, table: Path) -> None:
    dag = lay_dag(home, dag_id="nightly_analytics", tables={"visits": table}, sql=None)
    assert yaml.safe_load(dag.with_suffix(".yaml").read_text())["tables"] == ["plans", "visits"]


@pytest.mark.parametrize("name", ["nothing", "../nightly_analytics", ""])
def test_a_dag_that_is_not_shipped_is_refused(home: Home, name: str) -> None:
    with pytest.raises(ConfigurationError, match="there is no dag"):
        lay_dag(home, dag_id=name, tables={}, sql=None)


def test_a_query_that_is_not_text_is_refused(home: Home, tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_bytes(b"SELECT '\xff'")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        lay_dag(home, dag_id="nightly_analytics", tables={}, sql=tmp_path / "q.sql")


def test_shipped_tables_have_the_demos_own_data(home: Home) -> None:
    sources = choose_sources(home, given={}, datasets=["plans", "visits"])
    assert {name: path.name for name, path in sources.items()} == {"plans": "plans.csv", "visits": "visits.csv"}
    assert sources["visits"].read_text().count("\n") == 20_191


@pytest.mark.parametrize(("dataset", "label", "rows"), [("tumours", "malignant", 569), ("digits", "digit", 1_797)])
def test_tables_to_train_on_have_numbers_and_a_label(home: Home, dataset: str, label: str, rows: int) -> None:
    source = choose_sources(home, given={}, datasets=[dataset])[dataset]
    with source.open() as file:
        found = list(csv.DictReader(file))
    assert len(found) == rows
    assert label in found[0]
    assert all(math.isfinite(float(value)) for row in found for value in row.values())


def test_a_source_that_depends_on_a_param_is_made_for_its_value(home: Home) -> None:
    sources = choose_sources(home, given={}, datasets=["region"], params={"scale_factor": "0.02"})
    assert sources["region"].parent.name == "tpch-{scale_factor}"
    made = {path.parent.name for path in sources["region"].parent.parent.rglob("region.parquet")}
    assert made == {"tpch-0.02", "tpch-0.01", "tpch-0.1"}


def test_a_source_that_depends_on_a_param_which_the_dag_lacks_is_refused(home: Home) -> None:
    with pytest.raises(ConfigurationError, match="source of region wants the param scale_factor"):
        choose_sources(home, given={}, datasets=["region"])


def test_a_table_without_a_file_is_refused(home: Home) -> None:
    with pytest.raises(ConfigurationError, match="--source sales=FILE"):
        choose_sources(home, given={}, datasets=["sales"])


def test_a_file_for_no_table_is_refused(home: Home, table: Path) -> None:
    with pytest.raises(ConfigurationError, match="none of this pipeline's inputs"):
        choose_sources(home, given={"sales": table}, datasets=["visits"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--source", "ragged.csv"], "ragged.csv"),
        (["--source", "twice.csv"], "amount"),
        (["--conf", "{"], "not JSON"),
        (["--conf", "[1]"], "not a JSON object"),
        (["--dag", "nothing"], "there is no dag"),
    ],
)
def test_bad_usage_exits_2_with_one_line(home: Home, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "ragged.csv").write_text("shop,amount\nnorth,3\nsouth,4,5\n")
    (tmp_path / "twice.csv").write_text("shop,amount,amount\nnorth,3,4\n")
    result = subprocess.run(
        [sys.executable, "-m", "ppml_airflow.cli.main", "demo", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1
    assert said in result.stderr
    assert not home.owner.exists()
