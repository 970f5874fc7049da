"""Rule 6: SQL is code. What is no query over granted streams is refused before the lease, with the place and why."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal

import pytest

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.workloads.flink.sql import FlinkSql
from ppml_airflow.workloads.installation import ImageInstallation
from tests.support.flink_jobs import StreamWorld

CLICKS = {
    "at": "timestamp[us, tz=UTC]",
    "page": "string",
    "visitor": "int64",
    "cost": "decimal128(8, 2)",
    "day": "date32[day]",
    "ok": "bool",
    "share": "double",
}


@pytest.fixture(scope="module")
def judge(flink: ImageInstallation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkSql]:
    world = StreamWorld(folder=tmp_path_factory.mktemp("judge"))
    world.seal("clicks", CLICKS, [[{"page": "p"}]])
    world.seal("pages", {"page": "string", "title": "string"}, [[{"page": "p"}]])
    params = {"low": 3, "since": date(2026, 1, 1), "least": Decimal("0.25"), "kind": "a'b", "all": True}
    job = world.job({"q.sql": "SELECT 1 AS n"}, params=params, environment={"event_time.clicks": "at 5"})
    workload = FlinkSql(job, installation=flink, private=world.private, log=world.log)
    try:
        workload.prepare()
        yield workload
    finally:
        workload.close()


ANALYSTS = """
SELECT * FROM clicks

SELECT c.page, p.title FROM clicks c JOIN pages p ON c.page = p.page

SELECT page FROM clicks WHERE cost >= :least AND `day` >= :since AND page <> :kind AND ok = :all AND visitor > :low

WITH a AS (SELECT page, COUNT(*) AS n FROM clicks GROUP BY page) SELECT page, n FROM a WHERE n > 3

SELECT page FROM clicks UNION ALL SELECT page FROM pages

SELECT page, COUNT(DISTINCT visitor) AS n, SUM(cost) AS s, AVG(share) AS a FROM clicks GROUP BY page HAVING COUNT(*) > 2

SELECT window_start, COUNT(*) AS n
  FROM TABLE(HOP(TABLE clicks, DESCRIPTOR(`at`), INTERVAL '5' MINUTE, INTERVAL '10' MINUTE))
  GROUP BY window_start, window_end

SELECT window_start, COUNT(*) AS n
  FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(`at`), INTERVAL '1' MINUTE * :low)) GROUP BY window_start, window_end

SELECT word, COUNT(*) AS n
  FROM clicks CROSS JOIN UNNEST(REGEXP_EXTRACT_ALL(LOWER(page), '[a-z]+')) AS t(word) GROUP BY word

SELECT page, CASE WHEN cost > 1 THEN 'much' ELSE 'little' END AS kind, CAST(visitor AS STRING) AS v FROM clicks

SELECT page FROM clicks WHERE page IN ('a', 'b') AND visitor BETWEEN 1 AND 5 AND page LIKE 'a%' AND cost IS NOT NULL

SELECT page FROM clicks WHERE page IN (SELECT page FROM pages)

SELECT DATE_FORMAT(`at`, 'yyyy-MM-dd') AS d, EXTRACT(HOUR FROM `at`) AS h, UPPER(page) || '!' AS u FROM clicks

SELECT page, visitor
  FROM (SELECT page, visitor, ROW_NUMBER() OVER (PARTITION BY page ORDER BY visitor DESC) AS r FROM clicks) WHERE r <= 3

VALUES (1, 'a'), (2, 'b')
""".strip().split("\n\n")


@pytest.mark.parametrize("statement", ANALYSTS)
def test_what_analysts_write_is_allowed(judge: FlinkSql, statement: str) -> None:
    assert judge.judge(statement)


def test_the_columns_have_names_and_types_of_the_manifest(judge: FlinkSql) -> None:
    columns = judge.judge("SELECT *, CAST(1 AS INT) AS i, SUBSTRING(page, 1, 1) AS f FROM clicks")
    assert {column.name: column.type for column in columns} == {
        "at": "timestamp[us, tz=UTC]",
        **{name: kind for name, kind in CLICKS.items() if name != "at"},
        "i": "int32",
        "f": "string",
    }


REFUSED = {
    "insert": ("INSERT INTO clicks SELECT * FROM clicks", "sql_refused", "RichSqlInsert"),
    "create table": ("CREATE TABLE t (x INT) WITH ('connector' = 'datagen')", "sql_refused", "SqlCreateTable"),
    "create function": ("CREATE FUNCTION f AS 'x.Y' USING JAR 'file:/tmp/x.jar'", "sql_refused", "SqlCreateFunction"),
    "add jar": ("ADD JAR '/tmp/x.jar'", "sql_refused", "SqlAddJar"),
    "set": ("SET 'rest.port' = '1'", "sql_refused", "SqlSet"),
    "explain": ("EXPLAIN SELECT * FROM clicks", "sql_refused", "SqlRichExplain"),
    "show": ("SHOW TABLES", "sql_refused", "SqlShowTables"),
    "use": ("USE CATALOG c", "sql_refused", "SqlUseCatalog"),
    "two statements": ("SELECT 1 AS a; SELECT 2 AS b", "sql_refused", "2 statements"),
    "table options": (
        "SELECT * FROM clicks /*+ OPTIONS('folder' = '/etc') */",
        "sql_refused",
        "SqlTableRef",
    ),
    "hint": ("SELECT /*+ BROADCAST(pages) */ page FROM clicks", "sql_refused", "hint"),
    "clock": ("SELECT CURRENT_TIMESTAMP AS t FROM clicks", "sql_refused", "CURRENT_TIMESTAMP"),
    "proctime": ("SELECT PROCTIME() AS t FROM clicks", "sql_refused", "PROCTIME"),
    "a function of nobody": ("SELECT java_method(page) AS x FROM clicks", "sql_refused", "java_method"),
    "a function of a catalog": ("SELECT a.b.f(page) AS x FROM clicks", "sql_refused", "a.b.f"),
    "a model": ("SELECT * FROM ML_PREDICT(TABLE clicks, MODEL m, DESCRIPTOR(page))", "sql_refused", ""),
    "a placeholder": ("SELECT page FROM clicks WHERE visitor = ?", "sql_refused", "placeholder"),
    "an unknown table": ("SELECT * FROM secrets", "unknown_table", "table secrets is not granted"),
    "an unknown column": ("SELECT nope FROM clicks", "unknown_column", "column nope is unknown"),
    "an unknown param": ("SELECT page FROM clicks WHERE visitor > :nope", "unknown_parameter", "nope"),
    "no sql": ("SELECT page FRM clicks", "sql_syntax", "syntax error"),
    "a type that streams lack": ("SELECT ARRAY[1, 2] AS a FROM clicks", "sql_invalid", "output column a has type"),
    "an order over all": ("SELECT page FROM clicks ORDER BY page", "sql_invalid", "time"),
    "a sum of text": ("SELECT SUM(page) AS s FROM clicks", "sql_invalid", ""),
    "seconds of the clock": ("SELECT UNIX_TIMESTAMP() AS t FROM clicks", "sql_refused", "UNIX_TIMESTAMP"),
    "the day": ("SELECT page FROM clicks WHERE `day` = current_date", "sql_refused", "CURRENT_DATE"),
}


@pytest.mark.parametrize(("statement", "code", "named"), REFUSED.values(), ids=REFUSED)
def test_everything_else_is_refused_by_name(judge: FlinkSql, statement: str, code: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        judge.judge(statement)
    assert refused.value.code == code, refused.value
    assert named in refused.value.message


def test_a_refusal_says_the_place_and_what_there_is(judge: FlinkSql) -> None:
    with pytest.raises(ConfigurationError) as refused:
        judge.judge("SELECT page,\n  nope\nFROM clicks")
    assert refused.value.message.startswith("q.sql: line 2, column 3: ")
    assert "clicks has at, page, visitor" in refused.value.hint


def test_a_value_is_never_text_of_the_statement(judge: FlinkSql) -> None:
    assert judge.judge("SELECT ':low' AS a, page /* :nope */ FROM clicks -- :nope\nWHERE page = :kind")
