"""Rule 6: SQL is code. Attack C3: SQL that reads and writes the host and calls Java."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal

import pytest

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.spark.sql import SparkSql
from tests.support.spark_jobs import JobWorld

VISITS = {
    "person": "int64",
    "plan": "string",
    "cost": "double",
    "day": "date32[day]",
    "seen": "timestamp[us, tz=UTC]",
    "codes": "list<element: int64>",
    "place": "struct<city: string, zone: int64>",
    "urgent": "bool",
    "fee": "decimal128(12, 2)",
}


@pytest.fixture(scope="module")
def judge(installation: ImageInstallation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSql]:
    world = JobWorld(folder=tmp_path_factory.mktemp("judge"))
    world.grant("visits", VISITS)
    world.grant("plans", {"plan": "string", "name": "string"})
    world.grant("odd-name.v2", {"x": "int64"})
    params = {"low": 3, "since": date(2020, 1, 1), "share": Decimal("0.25"), "kind": "a'b", "all": True}
    job = world.job({"q.sql": "SELECT 1 AS one"}, argv=("q.sql",), params=params)
    workload = SparkSql(job, installation=installation, private=world.private, log=world.log)
    try:
        workload.prepare()
        yield workload
    finally:
        workload.close()


ANALYSTS = """
SELECT * FROM plans
SELECT v.*, p.name FROM visits v JOIN plans p ON v.plan = p.plan
SELECT person, name FROM visits LEFT JOIN plans USING (plan) CROSS JOIN (SELECT 1 AS one) c
SELECT plan FROM visits NATURAL JOIN plans
SELECT person FROM visits v LEFT ANTI JOIN plans p ON v.plan = p.plan
SELECT v.person, c.n FROM visits v, LATERAL (SELECT count(*) AS n FROM plans p WHERE p.plan = v.plan) c
WITH a AS (SELECT plan, cost FROM visits), b(p, c) AS (SELECT * FROM a) SELECT p, sum(c) AS s FROM b GROUP BY p
WITH a AS (WITH b AS (SELECT 1 AS x) SELECT * FROM b) SELECT (WITH c AS (SELECT 2 AS y) SELECT max(y) FROM c) m FROM a
WITH RECURSIVE r(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT * FROM r
SELECT plan, urgent, grouping(plan) AS g, sum(cost) AS s FROM visits GROUP BY CUBE (plan, urgent)
SELECT plan, urgent, sum(cost) AS s FROM visits GROUP BY ROLLUP (plan, urgent) HAVING sum(cost) > 3 ORDER BY s DESC
SELECT plan, urgent, count(*) AS n FROM visits GROUP BY GROUPING SETS ((plan), (urgent), ())
SELECT plan, count(DISTINCT person) AS n, count_if(urgent) AS u FROM visits GROUP BY ALL ORDER BY ALL
SELECT plan, sum(cost) FILTER (WHERE urgent) AS s FROM visits GROUP BY 1
SELECT plan, percentile(cost, 0.5) AS p, median(cost) AS m, approx_percentile(cost, 0.9) AS a FROM visits GROUP BY plan
SELECT plan, percentile_cont(0.5) WITHIN GROUP (ORDER BY cost) AS p, stddev(cost) AS s FROM visits GROUP BY plan
SELECT person, row_number() OVER (PARTITION BY plan ORDER BY cost DESC) AS r FROM visits
SELECT person, lag(cost) IGNORE NULLS OVER w AS l, ntile(4) OVER w AS n FROM visits WINDOW w AS (ORDER BY day)
SELECT sum(cost) OVER (ORDER BY day RANGE BETWEEN INTERVAL 7 DAYS PRECEDING AND CURRENT ROW) AS s FROM visits
SELECT person FROM visits QUALIFY row_number() OVER (PARTITION BY plan ORDER BY day) = 1
SELECT CASE WHEN cost > 1 THEN 'x' ELSE plan END AS c, coalesce(cost, 0) AS z, if(urgent, 1, 2) AS i FROM visits
SELECT CAST(person AS string) AS a, person::double AS b, try_cast(plan AS int) AS c, DATE '2020-01-01' AS d FROM visits
SELECT person FROM visits WHERE plan IN (SELECT plan FROM plans) AND EXISTS (SELECT 1 FROM plans p WHERE p.plan > 'a')
SELECT person FROM visits WHERE cost > (SELECT avg(cost) FROM visits) OR plan LIKE ANY ('a%', '%b') OR NOT urgent
SELECT person FROM visits WHERE day BETWEEN :since AND DATE '2021-01-01' AND cost > :share AND plan <> :kind
SELECT year(day) AS y, extract(QUARTER FROM day) AS q, date_trunc('month', seen) AS m FROM visits
SELECT day + INTERVAL 1 MONTH AS n, seen - INTERVAL 2 HOURS AS h, day - day > INTERVAL 1 DAY AS b FROM visits
SELECT datediff(day, day) AS a, months_between(day, day) AS b, date_format(day, 'yyyy-MM') AS c FROM visits
SELECT timestampdiff(DAY, seen, seen) AS a, unix_timestamp(seen) AS b, to_date(plan, 'yyyy-MM-dd') AS c FROM visits
SELECT upper(plan) AS a, substring(plan FROM 1 FOR 2) AS b, trim(BOTH 'x' FROM plan) AS c, plan || 'x' AS d FROM visits
SELECT regexp_replace(plan, 'a', 'b') AS a, split(plan, ',')[0] AS b, concat_ws('-', plan, plan) AS c FROM visits
SELECT round(cost, 2) AS a, try_divide(cost, 0) AS b, greatest(cost, 1) AS c, fee * 2 AS d, person % 2 AS e FROM visits
SELECT * FROM (SELECT plan, urgent, cost FROM visits) PIVOT (sum(cost) AS s FOR urgent IN (true AS yes, false AS no))
SELECT * FROM (SELECT person, cost FROM visits) UNPIVOT (v FOR k IN (cost))
SELECT person, code FROM visits LATERAL VIEW OUTER explode(codes) c AS code
SELECT person, position, code FROM visits LATERAL VIEW posexplode(codes) c AS position, code
SELECT person, explode(codes) AS code FROM visits
SELECT transform(codes, x -> x + 1) AS a, filter(codes, x -> x > 1) AS b, place.city AS c, codes[0] AS d FROM visits
SELECT * FROM VALUES (1, 'a'), (2, upper('b')) AS t(i, j) WHERE i = 1
VALUES (1, 'a'), (2, 'b')
SELECT plan FROM visits UNION SELECT plan FROM plans
(SELECT plan FROM visits INTERSECT SELECT plan FROM plans) EXCEPT SELECT 'x'
SELECT person FROM visits ORDER BY person DESC NULLS LAST LIMIT 10 OFFSET 5
SELECT /*+ BROADCAST(plans), REPARTITION(3) */ person FROM visits JOIN plans USING (plan)
SELECT * EXCEPT (codes, place) FROM visits TABLESAMPLE (10 PERCENT)
SELECT id FROM range(5)
TABLE plans
FROM visits |> WHERE cost > 1 |> AGGREGATE sum(cost) AS s GROUP BY plan |> ORDER BY s |> LIMIT 5
SELECT window(seen, '1 day').start AS w, count(*) AS n FROM visits GROUP BY window(seen, '1 day')
SELECT get_json_object(plan, '$.a') AS a, from_json(plan, 'b int').b AS b, sha2(plan, 256) AS c FROM visits
SELECT x FROM `odd-name.v2`
SELECT p.plan FROM visits AS p;
-- a comment
"""


@pytest.mark.parametrize("statement", [line for line in ANALYSTS.strip().splitlines() if not line.startswith("--")])
def test_a_query_that_analysts_write_passes(judge: SparkSql, statement: str) -> None:
    judge.judge(statement)


REFUSED = {
    "insert overwrite directory": ("INSERT OVERWRITE DIRECTORY '/tmp/x' USING csv SELECT 1", "InsertIntoDir"),
    "insert into": ("INSERT INTO plans SELECT 'a', 'b'", "InsertIntoStatement"),
    "multi insert": ("FROM plans INSERT INTO a SELECT * INSERT INTO b SELECT *", ""),
    "create table": ("CREATE TABLE t AS SELECT * FROM visits", ""),
    "create view": ("CREATE TEMP VIEW w AS SELECT * FROM visits", ""),
    "create function": ("CREATE FUNCTION f AS 'x.Y' USING JAR 'file:/tmp/x.jar'", ""),
    "add jar": ("ADD JAR file:/tmp/x.jar", ""),
    "add file": ("ADD FILE /etc/passwd", ""),
    "set": ("SET spark.hadoop.fs.file.impl=org.apache.hadoop.fs.LocalFileSystem", "SetCommand"),
    "reset": ("RESET", ""),
    "set variable": ("SET VAR x = 1", ""),
    "declare": ("DECLARE x INT DEFAULT 1", ""),
    "use": ("USE other", ""),
    "show": ("SHOW TABLES", ""),
    "describe": ("DESCRIBE visits", ""),
    "explain": ("EXPLAIN SELECT * FROM visits", ""),
    "cache": ("CACHE TABLE visits", ""),
    "drop": ("DROP VIEW visits", ""),
    "merge": ("MERGE INTO plans USING visits ON plans.plan = visits.plan WHEN MATCHED THEN DELETE", ""),
    "execute immediate": ("EXECUTE IMMEDIATE 'SELECT 1'", "ExecuteImmediate"),
    "scripting block": ("BEGIN SELECT 1; END", "CompoundBody"),
    "call": ("CALL system.p()", ""),
    "parquet path": ("SELECT * FROM parquet.`/etc/passwd`", "prefix"),
    "csv path": ("SELECT * FROM csv.`file:/etc/passwd`", "prefix"),
    "text path in a subquery": ("SELECT (SELECT count(*) FROM text.`/etc/passwd`) AS n", "prefix"),
    "path in WITH": ("WITH a AS (SELECT * FROM binaryFile.`/etc`) SELECT * FROM a", "prefix"),
    "path in an unused WITH": ("WITH a AS (SELECT * FROM csv.`/x`) SELECT 1 AS one", "prefix"),
    "path in a lateral join": ("SELECT * FROM plans, LATERAL (SELECT * FROM csv.`/x`)", "prefix"),
    "path in EXISTS": ("SELECT 1 AS one WHERE EXISTS (SELECT * FROM csv.`/x`)", "prefix"),
    "path in IN": ("SELECT plan FROM plans WHERE plan IN (SELECT * FROM csv.`/x`)", "prefix"),
    "path in a pipe": ("FROM plans |> UNION ALL (SELECT * FROM csv.`/x`)", "prefix"),
    "path in ORDER BY": ("SELECT plan FROM plans ORDER BY (SELECT max(value) FROM text.`/x`)", "prefix"),
    "qualified table": ("SELECT * FROM default.visits", "prefix"),
    "other catalog": ("SELECT * FROM spark_catalog.default.visits", "prefix"),
    "global temp": ("SELECT * FROM global_temp.visits", "prefix"),
    "table with options": ("SELECT * FROM visits WITH (`path` = '/etc/passwd')", "options"),
    "stream": ("SELECT * FROM STREAM visits", ""),
    "time travel": ("SELECT * FROM visits TIMESTAMP AS OF '2020-01-01'", "RelationTimeTravel"),
    "identifier clause": ("SELECT * FROM IDENTIFIER('csv.`/x`')", ""),
    "computed identifier": ("SELECT * FROM IDENTIFIER('vis' || 'its')", "PlanWithUnresolvedIdentifier"),
    "identifier of a parameter": ("SELECT * FROM IDENTIFIER(:kind)", ""),
    "identifier function": ("SELECT IDENTIFIER('reflect')('java.lang.System', 'exit', 1)", ""),
    "reflect": ("SELECT reflect('java.lang.System', 'getProperty', 'user.home')", "function reflect"),
    "java_method": ("SELECT java_method('java.lang.Runtime', 'getRuntime')", "function java_method"),
    "try_reflect": ("SELECT try_reflect('java.lang.System', 'exit', 0)", "function try_reflect"),
    "quoted upper case reflect": ("SELECT `REFLECT`('java.lang.System', 'exit', 0)", "function REFLECT"),
    "qualified reflect": ("SELECT builtin.reflect('java.lang.System', 'exit', 0)", "reflect"),
    "system qualified function": ("SELECT system.builtin.reflect('a', 'b')", "reflect"),
    "reflect in VALUES": ("VALUES (1), (reflect('java.lang.System', 'nanoTime'))", "function reflect"),
    "reflect in an inline table": ("SELECT * FROM VALUES (reflect('a', 'b')) AS t(x)", "function reflect"),
    "reflect in a window": ("SELECT sum(cost) OVER (PARTITION BY reflect('a', 'b')) FROM visits", "function reflect"),
    "reflect in an unused window": ("SELECT 1 AS one FROM visits WINDOW w AS (ORDER BY reflect('a', 'b'))", "reflect"),
    "reflect in a lambda": ("SELECT transform(codes, x -> reflect('a', 'b')) FROM visits", "function reflect"),
    "reflect in FILTER": ("SELECT count(*) FILTER (WHERE reflect('a', 'b') = '') FROM visits", "function reflect"),
    "reflect in WITHIN GROUP": ("SELECT listagg('x') WITHIN GROUP (ORDER BY reflect('a', 'b'))", "reflect"),
    "reflect in a pivot": ("SELECT * FROM plans PIVOT (max(reflect('a', name)) FOR plan IN ('x'))", "reflect"),
    "reflect in a pivot value": ("SELECT * FROM plans PIVOT (max(name) FOR plan IN (reflect('a', 'b')))", "reflect"),
    "reflect in a join": ("SELECT 1 FROM plans a JOIN plans b ON reflect('a', 'b') = a.plan", "function reflect"),
    "reflect in LIMIT": ("SELECT plan FROM plans LIMIT reflect('a', 'b')", "function reflect"),
    "reflect in a hint": ("SELECT /*+ REPARTITION(3, reflect('a', 'b')) */ plan FROM plans", "reflect"),
    "reflect in grouping sets": ("SELECT 1 FROM plans GROUP BY GROUPING SETS ((reflect('a', 'b')), ())", "reflect"),
    "reflect as a generator": ("SELECT * FROM plans LATERAL VIEW reflect('a', 'b') x AS y", "reflect"),
    "reflect under a table function": ("SELECT * FROM explode(array(reflect('a', 'b')))", "function reflect"),
    "reflect as a named argument": ("SELECT mask(plan, lowerChar => reflect('a', 'b')) FROM plans", "function reflect"),
    "transform script": ("SELECT TRANSFORM(plan) USING 'cat' AS (x string) FROM plans", "ScriptTransformation"),
    "map script": ("FROM plans MAP plan USING 'cat' AS (x string)", "ScriptTransformation"),
    "table function sql_keywords": ("SELECT * FROM sql_keywords()", "table function sql_keywords"),
    "table function python_worker_logs": ("SELECT * FROM python_worker_logs()", "table function"),
    "unknown table function": ("SELECT * FROM read_files('/etc')", "table function read_files"),
    "table argument": ("SELECT * FROM f(TABLE(plans))", "table function f"),
    "input_file_name": ("SELECT input_file_name() FROM visits", "function input_file_name"),
    "current_user": ("SELECT current_user() AS u", "function current_user"),
    "current_user without parentheses": ("SELECT current_user AS u", "current_user"),
    "user": ("SELECT user AS u", "user"),
    "session_user": ("SELECT session_user AS u", ""),
    "current_date": ("SELECT current_date AS d", "current_date"),
    "now": ("SELECT now() AS d", "function now"),
    "hidden clock": ("SELECT unix_timestamp() AS t", "current_timestamp"),
    "version": ("SELECT version() AS v", "function version"),
    "current_database": ("SELECT current_database() AS d", "function current_database"),
    "xpath": ("SELECT xpath('<a/>', 'a')", "function xpath"),
    "from_xml": ("SELECT from_xml(plan, 'a int') FROM plans", "function from_xml"),
    "from_avro": ("SELECT from_avro(plan, '{}') FROM plans", "function from_avro"),
    "raise_error": ("SELECT raise_error(plan) FROM plans", "function raise_error"),
    "unknown function": ("SELECT frobnicate(plan) FROM plans", "function frobnicate"),
    "positional parameter": ("SELECT plan FROM plans WHERE plan = ?", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_on_the_list_is_refused_by_name(judge: SparkSql, name: str) -> None:
    statement, said = REFUSED[name]
    with pytest.raises(ConfigurationError) as caught:
        judge.judge(statement)
    assert caught.value.code == "sql_refused"
    assert said.lower() in caught.value.message.lower()
    assert "SELECT, WITH or VALUES" in caught.value.hint


def test_two_statements_are_refused_at_the_second(judge: SparkSql) -> None:
    with pytest.raises(ConfigurationError, match=r"line 2, column 1: syntax error at 'DROP'; expected end of the") as e:
        judge.judge("SELECT 1 AS one;\nDROP VIEW visits")
    assert e.value.code == "sql_syntax"


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("SELECT person\nFROM visits\nWHRE cost > 1", "line 3, column 6: syntax error at 'cost'; expected "),
        ("SELECT (person FROM visits", "line 1, column 16: syntax error at 'FROM'; expected "),
        ("SELEC person FROM visits", "line 1, column 1: syntax error at 'SELEC'; expected "),
        ("SELECT person FROM visits WHERE cost >", "syntax error at end of the statement; expected "),
        ("SELECT 'open FROM visits", "line 1, column 8: syntax error at ''"),
        ("", "syntax error at end of the statement; expected "),
        ("SELECT CAST(1 AS nosuchtype)", "line 1, column 18"),
    ],
)
def test_a_syntax_error_says_where_and_what_was_expected(judge: SparkSql, statement: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        judge.judge(statement)
    assert caught.value.code in ("sql_syntax", "sql_invalid")
    assert said in caught.value.message


def test_an_unknown_column_is_named_with_the_columns_of_each_table(judge: SparkSql) -> None:
    with pytest.raises(ConfigurationError, match=r"q\.sql: line 1, column 8: column costs is unknown") as caught:
        judge.judge("SELECT costs FROM visits")
    assert caught.value.code == "unknown_column"
    assert "visits has person, plan, cost," in caught.value.hint
    assert "plans has plan, name" in caught.value.hint


def test_a_hidden_column_of_files_is_unknown(judge: SparkSql) -> None:
    with pytest.raises(ConfigurationError) as caught:
        judge.judge("SELECT _metadata.file_path FROM visits")
    assert caught.value.code == "unknown_column"


def test_an_unknown_table_is_named_with_the_granted_ones(judge: SparkSql) -> None:
    with pytest.raises(ConfigurationError, match=r"line 1, column 15: table secrets is not granted") as caught:
        judge.judge("SELECT * FROM secrets")
    assert caught.value.code == "unknown_table"
    assert caught.value.hint == "granted tables: odd-name.v2, plans, visits"


def test_a_name_of_with_outside_its_scope_is_no_table(judge: SparkSql) -> None:
    with pytest.raises(ConfigurationError) as caught:
        judge.judge("SELECT * FROM (WITH a AS (SELECT 1 AS x) SELECT * FROM a) b, a")
    assert caught.value.code == "unknown_table"


def test_an_undeclared_parameter_is_named_with_the_declared_ones(judge: SparkSql) -> None:
    with pytest.raises(ConfigurationError, match=r"parameter :hihg is not declared; declared are: .*low") as caught:
        judge.judge("SELECT plan FROM plans WHERE length(plan) > :hihg")
    assert caught.value.code == "unknown_parameter"


def test_parameters_have_their_types(judge: SparkSql) -> None:
    columns = judge.judge("SELECT :low AS a, :since AS b, :share AS c, :kind AS d, :all AS e")
    assert [column.type for column in columns] == ["int32", "date32[day]", "decimal128(2, 2)", "string", "bool"]


def test_a_type_error_is_told(judge: SparkSql) -> None:
    with pytest.raises(ConfigurationError) as caught:
        judge.judge("SELECT sum(day) AS s FROM visits")
    assert caught.value.code == "sql_invalid"
    assert "sum(day)" in caught.value.message


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("SELECT " + "NOT " * 5000 + "true AS x", "statement is nested too deep"),
        ("SELECT " + "(" * 3000 + "1" + ")" * 3000 + " AS x", "statement is nested too deep"),
        ("SELECT plan FROM plans TABLESAMPLE (:low PERCENT)", "q.sql: "),
    ],
)
def test_a_statement_that_ends_the_parser_in_an_error_is_told_and_the_next_one_judged(
    judge: SparkSql, statement: str, said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        judge.judge(statement)
    assert (caught.value.code, said in caught.value.message) == ("sql_invalid", True)
    judge.judge("SELECT plan FROM plans")


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("SELECT plan, plan FROM plans", "column plan twice"),
        ("SELECT plan, 1 AS Plan FROM plans", "column Plan twice"),
        ("SELECT map('a', 1) AS m", "column m has type map"),
        ("SELECT INTERVAL 1 DAY AS i", "column i has type interval day"),
        ("SELECT null AS n", "column n has type void"),
    ],
)
def test_a_result_that_no_sealed_table_holds_is_refused(judge: SparkSql, statement: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        judge.judge(statement)
    assert caught.value.code == "sql_invalid"
    assert said in caught.value.message


def test_the_columns_of_the_result_are_known_before_the_lease(judge: SparkSql) -> None:
    columns = judge.judge("SELECT person, cost, day, seen, codes, place, urgent, fee, plan FROM visits")
    assert {column.name: column.type for column in columns} == VISITS
