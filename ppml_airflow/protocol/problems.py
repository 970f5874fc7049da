"""Errors on the wire: which HTTP status and `Problem` body an error becomes. `client.raise_problem` is the way back."""

from __future__ import annotations

from ppml_airflow import canonical
from ppml_airflow.errors import (
    ConfigurationError,
    MalformedInputError,
    PolicyDeniedError,
    PpmlError,
    UnavailableError,
    VerificationError,
)
from ppml_airflow.protocol.messages import Problem

_STATUS: dict[type[PpmlError], int] = {
    ConfigurationError: 400,
    MalformedInputError: 422,
    VerificationError: 401,
    PolicyDeniedError: 403,
    UnavailableError: 503,
}
_STATUS_OF_CODE = {"too_many_requests": 429, "too_long": 413, "too_slow": 408}


def problem_of(error: PpmlError) -> Problem:
    """The body that tells of an error."""
    return Problem(
        type=f"urn:ppml:{error.code}",
        kind=type(error).__name__,
        code=error.code,
        detail=error.message,
        hint=error.hint,
    )


def status_of(error: PpmlError) -> int:
    """The HTTP status of an answer that tells of an error."""
    return _STATUS_OF_CODE.get(error.code, _STATUS.get(type(error), 500))


def problem_answer(error: PpmlError) -> tuple[int, bytes]:
    """The HTTP status and the canonical body of an answer that tells of an error."""
    return status_of(error), canonical.encode(problem_of(error))
