"""A SQL job from sealed parts to sealed parts, and what may be said when it fails (attacks H9, M5)."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppml_airflow.domain.documents import Limits
from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import FileKey, JobResult, TypedValue
from ppml_airflow.workloads.spark.sql import SparkSql
from tests.support.spark_jobs import LIMITS, JobWorld

VISITS = pa.table(
    {
        "person": pa.array(range(3000), pa.int64()),
        "plan": [f"plan {number % 7}" for number in range(3000)],
        "cost": [number * 0.5 for number in range(3000)],
        "fee": pa.array([Decimal(number) / 4 for number in range(3000)], pa.decimal128(12, 2)),
        "day": pa.array([date(1500 + number % 600, 1, 1 + number % 28) for number in range(3000)], pa.date32()),
        "seen": pa.array([datetime(1900 + number % 200, 5, 6, 7, tzinfo=UTC) for number in range(3000)]),
        "codes": pa.array([[number, number + 1] for number in range(3000)], pa.list_(pa.int64())),
        "word": ["12" if number != 2345 else "canary-7781" for number in range(3000)],
    }
)
PLANS = pa.table({"plan": ["plan 1", "plan 2"], "name": ["one", "two"]})
PARTS = [VISITS.slice(0, 1000), VISITS.slice(1000, 1500), VISITS.slice(2500)]


@contextmanager
def prepared(
    world: JobWorld,
    statement: str,
    *,
    installation: ImageInstallation,
    params: dict[str, TypedValue] | None = None,
    parts: int = 1,
    limits: Limits = LIMITS,
) -> Iterator[SparkSql]:
    job = world.job({"q.sql": statement}, argv=("q.sql",), params=params, parts=parts, limits=limits)
    workload = SparkSql(job, installation=installation, private=world.private, log=world.log)
    try:
        workload.prepare()
        yield workload
    finally:
        workload.close()


def run(workload: SparkSql, world: JobWorld, progress: list[int] | None = None) -> JobResult:
    return workload.run(keys=world.keys(), on_progress=(progress if progress is not None else []).append)


def opened(result: JobResult, world: JobWorld) -> pa.Table:
    return pa.concat_tables([world.open(part) for part in result.outputs["report"]])


Ran = tuple[JobWorld, pa.Table, JobResult]


@pytest.fixture(scope="module")
def ran(installation: ImageInstallation, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One run that many tests look at: three sealed parts, every type, an ordered result in four parts."""
    world = JobWorld(folder=tmp_path_factory.mktemp("ran"))
    world.seal("visits", *PARTS)
    world.seal("plans", PLANS)
    progress: list[int] = []
    with prepared(world, ORDERED, installation=installation, params={"low": 10}, parts=4) as workload:
        result = run(workload, world, progress)
    assert progress == sorted(progress)
    assert progress[-1] == 100
    assert result.outcome == "ok", world.log.read_text()
    return world, opened(result, world), result


ORDERED = """
    SELECT v.person, upper(p.name) AS name, cost, fee, day, seen, codes, sum(cost) OVER (PARTITION BY v.plan) AS total
    FROM visits v JOIN plans p USING (plan) WHERE person > :low ORDER BY person DESC
"""


def test_the_result_is_that_of_another_engine(ran: Ran) -> None:
    _, table, _ = ran
    with duckdb.connect() as engine:
        engine.register("visits", VISITS)
        engine.register("plans", PLANS)
        expected = engine.sql(ORDERED.replace(":low", "10")).to_arrow_table()
    assert table.num_rows == expected.num_rows > 800
    assert table.to_pylist() == expected.cast(table.schema).to_pylist()


def test_the_parts_are_as_many_as_fixed_and_named_by_numbers(ran: Ran) -> None:
    _, _, result = ran
    assert [part.name for part in result.outputs["report"]] == ["part-00000", "part-00001", "part-00002", "part-00003"]


def test_every_part_is_encrypted_and_bound_to_its_name(ran: Ran, tmp_path: Path) -> None:
    world, _, result = ran
    first, second, *_ = result.outputs["report"]
    assert all(part.read_bytes()[:4] == b"PARE" for part in result.outputs["report"])
    (tmp_path / second.name).write_bytes(first.read_bytes())
    with pytest.raises(VerificationError):
        world.open(tmp_path / second.name)


def test_no_plaintext_and_no_key_lies_in_settings_or_arguments(ran: Ran) -> None:
    world, _, _ = ran
    for file in (world.private / "conf").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
        text = file.read_bytes()
        assert world.data_key not in text
        assert world.data_key.hex().encode() not in text
    assert world.private.stat().st_mode & 0o777 == 0o700


@pytest.fixture
def one_part(world: JobWorld) -> Path:
    return world.seal("visits", *PARTS).parts[1]


Kept = tuple[JobWorld, Path, SparkSql]
SUMS = "SELECT plan, sum(cost) AS s FROM visits GROUP BY 1"


@pytest.fixture(scope="module")
def started(installation: ImageInstallation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """One job that many tests break, change and run again: it starts once."""
    world = JobWorld(folder=tmp_path_factory.mktemp("kept"))
    part = world.seal("visits", *PARTS).parts[1]
    world.grant("nothing", {"person": "int64"})
    with prepared(world, SUMS, installation=installation, parts=3) as workload:
        yield world, part, workload


@pytest.fixture
def kept(started: Kept) -> Iterator[Kept]:
    world, part, _ = started
    content, keys = part.read_bytes(), dict(world.read)
    (world.private / "code" / "q.sql").write_text(SUMS)
    yield started
    part.write_bytes(content)
    world.read.update(keys)
    shutil.rmtree(world.private / "output" / "report", ignore_errors=True)


def run_statement(kept: Kept, statement: str) -> JobResult:
    world, _, workload = kept
    (world.private / "code" / "q.sql").write_text(statement)
    workload.prepare()
    return run(workload, world)


def assert_input_corrupt(kept: Kept) -> None:
    result = run_statement(kept, SUMS)
    assert result.outcome == "input_corrupt"
    assert result.outputs == {}


def test_a_flipped_byte_is_input_corrupt(kept: Kept) -> None:
    _, part, _ = kept
    content = bytearray(part.read_bytes())
    content[len(content) // 3] ^= 1
    part.write_bytes(content)
    assert_input_corrupt(kept)


def test_a_cut_part_is_input_corrupt(kept: Kept) -> None:
    _, part, _ = kept
    part.write_bytes(part.read_bytes()[:-100])
    assert_input_corrupt(kept)


def test_a_missing_part_is_input_corrupt(kept: Kept) -> None:
    _, part, _ = kept
    part.unlink()
    assert_input_corrupt(kept)


def test_a_swapped_part_is_input_corrupt(kept: Kept) -> None:
    _, part, _ = kept
    part.write_bytes(part.with_name("part-00000").read_bytes())
    assert_input_corrupt(kept)


def test_a_plain_part_is_input_corrupt(kept: Kept) -> None:
    _, part, _ = kept
    pq.write_table(PARTS[1], part)
    assert_input_corrupt(kept)


def test_a_part_of_another_version_is_input_corrupt(kept: Kept) -> None:
    world, part, _ = kept
    world.read[part] = FileKey(data_key=world.data_key, aad=b"another version")
    assert_input_corrupt(kept)


def test_a_part_without_a_granted_key_is_input_corrupt(kept: Kept) -> None:
    world, part, _ = kept
    del world.read[part]
    assert_input_corrupt(kept)


def test_a_result_without_rows_has_all_its_parts(kept: Kept) -> None:
    world, _, _ = kept
    result = run_statement(kept, "SELECT plan, struct(codes AS c, fee) AS s FROM visits WHERE person < 0")
    assert result.outcome == "ok"
    assert [world.open(part).num_rows for part in result.outputs["report"]] == [0, 0, 0]
    assert len({str(world.open(part).schema) for part in result.outputs["report"]}) == 1


def test_a_table_without_parts_is_an_empty_table(kept: Kept) -> None:
    world, _, _ = kept
    assert opened(run_statement(kept, "SELECT count(*) AS n FROM nothing"), world).to_pylist() == [{"n": 0}]


def test_the_text_of_a_cast_error_is_in_the_log_alone(kept: Kept) -> None:
    world, _, _ = kept
    result = run_statement(kept, "SELECT sum(CAST(word AS int)) AS s FROM visits")
    assert result.outcome == "cast_error"
    assert "canary" not in repr(result)
    assert "canary-7781" in world.log.read_text()


@pytest.mark.parametrize(
    "value",
    ["person / (person - 7)", "9000000000000000000 * person", "CAST(fee * 1e30BD AS decimal(9, 2))", "codes[person]"],
)
def test_a_value_that_does_not_fit_is_a_cast_error(value: str, kept: Kept) -> None:
    assert run_statement(kept, "SELECT " + value + " AS x FROM visits").outcome == "cast_error"  # noqa: S608 (no data in it)


def test_a_job_ends_though_nobody_takes_its_progress(kept: Kept) -> None:
    def fail(percent: int) -> None:
        if percent < 100:
            raise RuntimeError("nobody listens")

    world, _, workload = kept
    workload.prepare()
    assert workload.run(keys=world.keys(), on_progress=fail).outcome == "ok"


def test_another_statement_than_the_prepared_one_is_not_run(kept: Kept) -> None:
    world, _, workload = kept
    workload.prepare()
    workload.judge("SELECT 2 AS one")
    assert run(workload, world).outcome == "job_failed"


def test_a_job_beyond_its_time_is_killed(world: JobWorld, one_part: Path, installation: ImageInstallation) -> None:
    endless = "SELECT count(*) AS n FROM range(100000000000) a WHERE sha2(string(id), 256) = ''"
    limits = Limits(wall_s=6, memory_mib=1536, cores=2)
    with prepared(world, endless, installation=installation, limits=limits) as workload:
        assert run(workload, world).outcome == "limit_time"
        assert not workload._process.is_running()


def test_a_cancelled_job_says_so_and_is_killed(
    world: JobWorld, one_part: Path, installation: ImageInstallation
) -> None:
    endless = "SELECT count(*) AS n FROM range(100000000000) a WHERE sha2(string(id), 256) = ''"
    with prepared(world, endless, installation=installation) as workload:
        threading.Timer(1.0, workload.cancel).start()
        started = time.monotonic()
        assert run(workload, world).outcome == "cancelled"
        assert time.monotonic() - started < 10


def test_a_job_beyond_its_memory_says_so(world: JobWorld, one_part: Path, installation: ImageInstallation) -> None:
    hungry = "SELECT size(collect_list(repeat('x', 100000))) AS n FROM range(1000000)"
    limits = Limits(wall_s=120, memory_mib=1024, cores=2)
    with prepared(world, hungry, installation=installation, limits=limits) as workload:
        assert run(workload, world).outcome == "out_of_memory"


def test_a_job_that_was_not_prepared_fails(world: JobWorld, installation: ImageInstallation) -> None:
    job = world.job({"q.sql": "SELECT 1 AS one"}, argv=("q.sql",))
    workload = SparkSql(job, installation=installation, private=world.private, log=world.log)
    try:
        assert run(workload, world).outcome == "job_failed"
    finally:
        workload.close()
        workload.close()


@pytest.mark.parametrize(
    ("argv", "said"),
    [((), r"argv \[\] and 1 outputs"), (("q.sql", "x"), "wanted the name")],
)
def test_a_step_of_another_shape_is_refused(
    world: JobWorld, installation: ImageInstallation, argv: tuple[str, ...], said: str
) -> None:
    job = world.job({"q.sql": "SELECT 1 AS one"}, argv=argv)
    with pytest.raises(ConfigurationError, match=said):
        SparkSql(job, installation=installation, private=world.private, log=world.log)


def test_a_statement_file_that_is_missing_or_no_text_is_refused(
    world: JobWorld, installation: ImageInstallation
) -> None:
    job = world.job({"q.sql": ""}, argv=("q.sql",))
    workload = SparkSql(job, installation=installation, private=world.private, log=world.log)
    (job.code / "q.sql").write_bytes(b"SELECT '\xff'")
    with pytest.raises(ConfigurationError, match=r"q\.sql is not UTF-8"):
        workload.prepare()
    (job.code / "q.sql").unlink()
    with pytest.raises(ConfigurationError, match=r"q\.sql is not among the step's code files"):
        workload.prepare()
    workload.close()
