from __future__ import annotations

from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowFailException

from ppml_airflow.canonical import digest_bytes
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators.passport import store_passport
from tests.support.fake_pipeline import PASSPORT
from tests.support.nightly import context

pytestmark = pytest.mark.usefixtures("connected")


def test_the_run_is_closed_and_its_passport_stored(dag, broker, tmp_path):
    broker.commit("count")
    answer = dag.get_task("passport").execute(context(dag, states={"count": "success"}))
    assert broker.closed == [answer["run_id"]]
    assert answer["digest"] == digest_bytes(PASSPORT)
    assert Path(answer["path"]) == tmp_path / "passports" / f"{answer['run_id']}.json"
    assert Path(answer["path"]).read_bytes() == PASSPORT


def test_a_step_marked_success_by_hand_does_not_make_the_run_succeed(dag, broker, tmp_path):
    with pytest.raises(AirflowFailException, match="step count waiting"):
        dag.get_task("passport").execute(context(dag, states={"count": "success"}))
    assert len(list((tmp_path / "passports").iterdir())) == 1


def test_a_failed_task_before_it_fails_the_dag_run(dag, broker):
    broker.commit("count")
    with pytest.raises(AirflowFailException, match="task decrypt_report failed"):
        dag.get_task("passport").execute(context(dag, states={"decrypt_report": "failed"}))


def test_it_runs_when_everything_before_it_is_done(dag):
    assert dag.get_task("passport").trigger_rule == "all_done"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=f"passports {tmp_path / 'file'}"):
        store_passport(b"{}", folder=tmp_path / "file", run_id="c" * 32)


def test_a_passport_replaces_the_one_before_it(tmp_path):
    for content in (b"1", b"2"):
        path = store_passport(content, folder=tmp_path, run_id="c" * 32)
    assert path.read_bytes() == b"2"
    assert [found.name for found in tmp_path.glob("*passport*")] == []
