from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowFailException

from ppml_airflow.errors import (
    ConfigurationError,
    MalformedInputError,
    PolicyDeniedError,
    PpmlError,
    UnavailableError,
    VerificationError,
)
from ppml_airflow.operators.errors import CURED_BY_APPROVAL, airflow_errors, explain


@pytest.mark.parametrize(
    "kind", [PpmlError, ConfigurationError, MalformedInputError, VerificationError, PolicyDeniedError]
)
def test_a_refusal_is_never_tried_again(kind):
    with pytest.raises(AirflowFailException, match="quote is forged"), airflow_errors("d.py"):
        raise kind("quote is forged")


def test_an_unreachable_service_may_be_tried_again():
    with pytest.raises(UnavailableError), airflow_errors("d.py"):
        raise UnavailableError("broker does not answer")


def test_a_mistake_of_ours_passes_as_it_is():
    with pytest.raises(KeyError), airflow_errors("d.py"):
        raise KeyError("x")


@pytest.mark.parametrize("code", sorted(CURED_BY_APPROVAL))
def test_what_an_approval_would_cure_shows_the_commands(code):
    text = explain(PolicyDeniedError("no", code=code), dag_file="dags/nightly.py")
    assert f"no [{code}]" in text
    assert "ppml compile dags/nightly.py --out nightly.approval.json" in text
    assert "ppml approve nightly.approval.json" in text


def test_a_forged_quote_is_not_answered_with_approve_it():
    text = explain(VerificationError("quote is forged", hint="keep the evidence"), dag_file="d.py")
    assert text == "quote is forged [not_authentic]\nwhat to do: keep the evidence"
