from __future__ import annotations

import threading

import pytest
from airflow.sdk.exceptions import AirflowFailException

from ppml_airflow.canonical import digest_bytes
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, PpmlError, UnavailableError
from ppml_airflow.operators import TrustedSparkSubmitOperator
from ppml_airflow.operators.spark_options import REFUSED
from ppml_airflow.protocol.launches import GuestEvent, GuestProblem
from tests.support.fake_pipeline import committed
from tests.support.nightly import SQL, approval, context, nightly

pytestmark = pytest.mark.usefixtures("connected")
STEP = {"task_id": "s", "inputs": ["a"], "outputs": {"b": ["analyst"]}}


@pytest.fixture
def guest(broker, quoting):
    """A guest that commits."""

    def work(request):
        yield GuestEvent(state="running", stage="scan", percent=40)
        broker.commit("count", attempt=2)
        yield committed()

    quoting.guest = work
    return quoting


def test_the_reference_holds_names_ids_and_digests(dag, guest):
    assert dag.get_task("count").execute(context(dag)) == {
        "run_id": "0" * 32,
        "step": "count",
        "attempt": 2,
        "outputs": {"report": digest_bytes(b"report")},
        "disclosed": {},
    }
    assert guest.launched[0].role == "job"
    assert guest.launched[0].code == {"query.sql": SQL.encode()}


def test_a_step_that_is_committed_already_returns_the_same_reference(dag, broker, guest):
    first = dag.get_task("count").execute(context(dag))
    assert dag.get_task("count").execute(context(dag)) == first
    assert len(guest.launched) == 1


def test_events_are_logged(dag, guest, capfd):
    dag.get_task("count").execute(context(dag))
    assert "step count: running scan 40 %" in "".join(capfd.readouterr())


def test_a_refused_job_fails_without_another_try_and_shows_what_would_approve_it(dag, quoting):
    refusal = PolicyDeniedError("code query.sql has digest 1, the approval has 2", code="code_changed")
    quoting.guest = lambda request: iter([GuestProblem.of(refusal)])
    with pytest.raises(AirflowFailException, match=r"ppml approve nightly\.approval\.json"):
        dag.get_task("count").execute(context(dag))


def test_a_busy_output_may_be_tried_again(dag, quoting):
    quoting.guest = lambda request: iter([GuestProblem.of(UnavailableError("report is being written"))])
    with pytest.raises(UnavailableError, match="being written"):
        dag.get_task("count").execute(context(dag))


def test_a_step_that_no_approval_covers_is_refused_before_anything_starts(broker, quoting):
    dag = nightly()
    broker.steps.clear()
    with pytest.raises(AirflowFailException, match="step_not_approved"):
        dag.get_task("count").execute(context(dag))
    assert quoting.launched == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"inputs": ["visits", "plans"]}, "inputs of step count"),
        ({"outputs": {"report": ["analyst", "auditor"]}}, "outputs of step count"),
        ({"policy": "lenient"}, "policy of step count is 'lenient' in the DAG; approved is 'default'"),
        ({"driver_memory": "4g"}, "limits of step count"),
        ({"conf": {"spark.sql.ansi.enabled": "false"}}, "environment of step count"),
    ],
)
def test_a_step_that_says_something_else_than_its_approval_starts_nothing(broker, quoting, changes, complaint):
    with pytest.raises(AirflowFailException, match=rf"{complaint}(.|\n)*step_changed(.|\n)*ppml approve"):
        nightly_task(**changes)
    assert quoting.launched == []


def nightly_task(**changes):
    dag = nightly(**changes)
    return dag.get_task("count").execute(context(dag))


def test_one_changed_character_of_an_argument_starts_nothing(broker, quoting, tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "count.py").write_bytes(b"main")
    broker.approval = approval(application(tmp_path, application_args=["--age", "{age}"]).dag)
    changed = application(tmp_path, application_args=["--agf", "{age}"])
    with pytest.raises(AirflowFailException, match=r"argv of step count is .*'--agf'.*approved is .*'--age'"):
        changed.execute(context(changed.dag))
    assert quoting.launched == []


def test_another_number_of_retries_is_no_other_step(guest):
    assert nightly_task(retries=3)["step"] == "count"


def test_a_guest_that_ends_without_a_receipt_is_a_failure(dag, quoting):
    quoting.guest = lambda request: iter([committed()])
    with pytest.raises(AirflowFailException, match="no receipt"):
        dag.get_task("count").execute(context(dag))


def test_killing_the_task_ends_the_guest_and_fences_the_attempt(dag, broker, quoting):
    running = threading.Event()
    task = dag.get_task("count")

    def work(request):
        yield GuestEvent(state="running")
        running.set()

    def kill():
        running.wait(5)
        task.on_kill()

    quoting.guest = work
    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(UnavailableError, match="went away"):
        task.execute(context(dag))
    killer.join()
    assert quoting.ended.wait(5)
    assert broker.cancelled == ["count"]


def test_killing_a_task_that_has_not_started_does_nothing(dag, broker):
    dag.get_task("count").on_kill()
    assert broker.cancelled == []


def test_a_broker_that_is_away_does_not_keep_a_task_from_being_killed(dag, broker, quoting):
    task = dag.get_task("count")
    quoting.guest = lambda request: iter([GuestProblem.of(UnavailableError("gone"))])
    with pytest.raises(UnavailableError):
        task.execute(context(dag))
    broker.is_down = True
    task.on_kill()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "exactly one of sql=, sql_param= and application="),
        ({"sql": "SELECT 1", "application": "a.py"}, "exactly one of sql=, sql_param= and application="),
        ({"sql": "SELECT 1", "py_files": ["a.py"]}, "go with application="),
        ({"sql": "SELECT 1", "application_args": ["a"]}, "go with application="),
        ({"application": "a.jar"}, "not a .py file"),
        ({"application": "a.py", "py_files": ["b.zip"]}, "not a .py file"),
        ({"application": "a.py", "py_files": "b.py,c.egg"}, "c.egg is not a .py file"),
        ({"sql": "SELECT 1", "files": "rates.json"}, "go with application="),
        ({"sql": "SELECT '{{ ds }}'"}, "template"),
        ({"sql": "SELECT {% if x %}"}, "template"),
        ({"application": "a.py", "application_args": ["{{ ds }}"]}, "template"),
        ({"sql": "SELECT 1", "driver_memory": "lots"}, "memory is 'lots'"),
        ({"sql": "SELECT 1", "driver_memory": "512m"}, "at least 1g"),
        ({"sql": "SELECT 1", "outputs": {"b": ["analyst"], "c": []}}, "a query writes one table"),
        (
            {"sql": "SELECT 1", "conf": {"spark.driver.extraJavaOptions": "-x"}},
            "extraJavaOptions is refused: it would load code",
        ),
    ],
)
def test_a_wrong_shape_is_refused_when_the_dag_is_parsed(arguments, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        TrustedSparkSubmitOperator(**STEP | arguments)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_place_in_an_enclave_is_refused_by_name_with_the_reason(name):
    with pytest.raises(ConfigurationError, match=f"{name}= is refused: ") as refused:
        TrustedSparkSubmitOperator(**STEP, sql="SELECT 1", **{name: "x"})
    assert refused.value.code == "option_refused"
    assert refused.value.hint


@pytest.mark.parametrize(
    ("arguments", "mebibytes"),
    [
        ({"driver_memory": "2g", "executor_memory": "1g"}, 3072),
        ({"driver_memory": "512m", "executor_memory": "1500m", "num_executors": 2}, 3512),
    ],
)
def test_the_memory_of_executors_is_added_to_the_drivers(arguments, mebibytes):
    assert TrustedSparkSubmitOperator(**STEP, sql="SELECT 1", **arguments).limits.memory_mib == mebibytes


@pytest.mark.parametrize(
    ("arguments", "cores"),
    [
        ({}, 2),
        ({"cores": 3}, 3),
        ({"executor_cores": 3}, 3),
        ({"num_executors": 4}, 4),
        ({"executor_cores": 2, "num_executors": 2}, 4),
        ({"total_executor_cores": 6, "executor_cores": 2, "num_executors": 3}, 6),
    ],
)
def test_cores_are_what_the_executors_have_together(arguments, cores):
    assert TrustedSparkSubmitOperator(**STEP, sql="SELECT 1", **arguments).limits.cores == cores


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"cores": 2, "total_executor_cores": 4}, "cores = 2 and total_executor_cores = 4"),
        ({"cores": 3, "num_executors": 2, "executor_cores": 2}, "num_executors x executor_cores = 4"),
        ({"executor_cores": 0}, "wanted whole numbers above 0"),
        ({"executor_memory": "some"}, "memory is 'some'"),
        ({"env_vars": {"spark.sql.ansi.enabled": "true"}}, "env_vars has the setting"),
    ],
)
def test_limits_that_contradict_themselves_are_refused(arguments, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        TrustedSparkSubmitOperator(**STEP, sql="SELECT 1", **arguments)


@pytest.mark.parametrize("size", ["executor_memory", "executor_cores", "num_executors", "total_executor_cores"])
def test_members_of_a_set_are_of_one_size(size):
    with pytest.raises(ConfigurationError, match=f"{size}= is refused") as refused:
        TrustedSparkSubmitOperator(**STEP, sql="SELECT 1", members=3, **{size: 2})
    assert refused.value.code == "option_refused"
    assert TrustedSparkSubmitOperator(**STEP, sql="SELECT 1", members=3).members == 3


def test_settings_are_spelled_as_spark_reads_them_and_stand_beside_variables():
    step = TrustedSparkSubmitOperator(
        **STEP,
        sql="SELECT 1",
        conf={"spark.sql.ansi.enabled": False, "spark.sql.shuffle.partitions": 8},
        env_vars={"REGION": "north"},
        name="nightly",
        verbose=True,
    )
    assert step.environment == {
        "spark.sql.ansi.enabled": "false",
        "spark.sql.shuffle.partitions": "8",
        "spark.app.name": "nightly",
        "spark.log.level": "INFO",
        "REGION": "north",
    }


def test_other_files_lie_beside_the_application_and_are_approved_like_code(tmp_path):
    (tmp_path / "jobs").mkdir()
    for name in ("count.py", "tools.py", "more.py", "rates.json"):
        (tmp_path / "jobs" / name).write_bytes(name.encode())
    step = application(tmp_path, py_files="jobs/tools.py, jobs/more.py", files=["jobs/rates.json"])
    assert list(step.code_files()) == ["count.py", "tools.py", "more.py", "rates.json"]
    compiled = step.compiled_step(params={}, inputs=(), gates=(), log_recipients=())
    assert compiled.code["rates.json"] == digest_bytes(b"rates.json")


def test_a_query_may_lie_in_a_file_beside_the_dag(tmp_path):
    (tmp_path / "report.sql").write_text("SELECT 1 AS one")
    dag = nightly(sql="report.sql")
    dag.fileloc = str(tmp_path / "dag.py")
    step = dag.get_task("count")
    assert step.code_files() == {"report.sql": b"SELECT 1 AS one"}
    assert step.argv() == ("report.sql",)
    (tmp_path / "report.sql").write_text("SELECT '{{ ds }}'")
    with pytest.raises(ConfigurationError, match="template"):
        step.code_files()


@pytest.mark.parametrize(("memory", "mebibytes"), [("2g", 2048), ("1500m", 1500)])
def test_limits_come_from_the_arguments(memory, mebibytes):
    step = TrustedSparkSubmitOperator(**STEP, sql="SELECT 1", driver_memory=memory, cores=3, time_limit_s=60)
    assert (step.limits.memory_mib, step.limits.cores, step.limits.wall_s) == (mebibytes, 3, 60)


def application(dag_folder, **arguments):
    dag = nightly(sql=None, application="jobs/count.py", **arguments)
    dag.fileloc = str(dag_folder / "dag.py")
    return dag.get_task("count")


def test_an_application_is_read_beside_the_dag_and_comes_first(tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "count.py").write_bytes(b"main")
    (tmp_path / "shared.py").write_bytes(b"shared")
    step = application(tmp_path, py_files=["shared.py"])
    assert list(step.code_files().items()) == [("count.py", b"main"), ("shared.py", b"shared")]


def test_a_missing_application_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"jobs/count.py cannot be read"):
        application(tmp_path).code_files()


def test_two_files_of_one_name_are_refused(tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "count.py").write_bytes(b"main")
    (tmp_path / "count.py").write_bytes(b"other")
    with pytest.raises(ConfigurationError, match=r"two files called count\.py"):
        application(tmp_path, py_files=["count.py"]).code_files()


def test_nothing_is_a_template_field():
    assert tuple(TrustedSparkSubmitOperator.template_fields) == ()


def test_a_failed_job_names_the_code_and_where_its_log_is(dag, broker, quoting):
    def fail(request):
        broker.put("count", state="failed", waiting_for="", code="cast_error")
        yield GuestProblem.of(PpmlError("step count failed: cast_error", code="cast_error", hint="ppml logs RUN"))

    quoting.guest = fail
    with pytest.raises(AirflowFailException, match=r"cast_error(.|\n)*ppml logs"):
        dag.get_task("count").execute(context(dag))
