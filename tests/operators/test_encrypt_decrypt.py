from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowFailException

from ppml_airflow.errors import UnavailableError
from ppml_airflow.operators import DecryptOperator, EncryptOperator
from tests.support.nightly import context

pytestmark = pytest.mark.usefixtures("connected")


def test_encrypt_returns_name_version_and_digest_only(dag, agent):
    answer = dag.get_task("encrypt_visits").execute(context(dag))
    assert set(answer) == {"dataset", "version", "manifest"}
    assert answer["dataset"] == "visits"
    assert agent.tasks[0].verb == "seal"


def test_decrypt_returns_name_version_and_digest_only(dag, agent):
    answer = dag.get_task("decrypt_report").execute(context(dag))
    assert set(answer) == {"dataset", "version", "manifest"}
    assert agent.tasks[0].verb == "deliver"


def test_an_agent_that_seals_under_another_name_is_refused(dag, agent):
    agent.seals_as = {"visits": "payroll"}
    with pytest.raises(AirflowFailException, match="as the dataset payroll"):
        dag.get_task("encrypt_visits").execute(context(dag))


@pytest.mark.parametrize("task", ["encrypt_visits", "decrypt_report"])
def test_an_agent_that_is_away_may_be_asked_again(dag, agent, task):
    agent.is_down = True
    with pytest.raises(UnavailableError):
        dag.get_task(task).execute(context(dag))


@pytest.mark.parametrize("operator", [EncryptOperator, DecryptOperator])
def test_nothing_is_a_template_field(operator):
    assert tuple(operator.template_fields) == ()
