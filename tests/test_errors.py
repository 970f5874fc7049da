from __future__ import annotations

import pytest

from ppml_airflow.errors import (
    BY_KIND,
    ConfigurationError,
    MalformedInputError,
    PolicyDeniedError,
    PpmlError,
    UnavailableError,
    VerificationError,
)


@pytest.mark.parametrize(
    ("kind", "exit_code", "code"),
    [
        (ConfigurationError, 2, "configuration"),
        (MalformedInputError, 1, "malformed"),
        (VerificationError, 1, "not_authentic"),
        (PolicyDeniedError, 1, "denied"),
        (UnavailableError, 3, "unavailable"),
    ],
)
def test_each_kind_has_its_exit_code_and_word(kind: type[PpmlError], exit_code: int, code: str) -> None:
    error = kind("subject is wrong")
    assert (error.exit_code, error.code, error.hint, str(error)) == (exit_code, code, "", "subject is wrong")
    assert BY_KIND[kind.__name__] is kind


def test_a_hint_stands_in_brackets() -> None:
    error = PolicyDeniedError("gate is closed", code="gate_missing", hint="wait")
    assert (str(error), error.message, error.code) == ("gate is closed (wait)", "gate is closed", "gate_missing")


def test_every_kind_can_cross_a_wire() -> None:
    assert set(BY_KIND.values()) == set(PpmlError.__subclasses__())
