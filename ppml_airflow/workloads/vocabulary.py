"""The closed vocabulary: all that may be said of a job once its enclave holds a secret.

Before the lease errors are full sentences. After it an outcome is one of these words, whatever happened; the text goes
to the sealed log. The words that Java code says are a subset (`jvm/src/ppml/spark/Failure.java`); a word that is not
here is read as `job_failed`.
"""

from __future__ import annotations

from typing import Literal, get_args

Outcome = Literal[
    "ok",
    "job_failed",
    "cast_error",
    "input_corrupt",
    "input_mismatch",
    "out_of_memory",
    "limit_time",
    "cancelled",
    "output_mismatch",
    "model_mismatch",
]

MEANING: dict[Outcome, str] = {
    "ok": "the job ended and wrote every output",
    "job_failed": "the job's code failed; the sealed log says how",
    "cast_error": "a value does not fit the type that the query asks for, a number overflowed, or a divisor was zero",
    "input_corrupt": "a part of an input is not what was sealed: changed, swapped, cut or not encrypted",
    "input_mismatch": "the job asks for a table or a column that its inputs do not have; the sealed log says which",
    "out_of_memory": "the job needed more memory than its step allows",
    "limit_time": "the job took longer than its step allows",
    "cancelled": "the run was cancelled",
    "output_mismatch": "the job did not write each of its outputs once, with the columns it declares",
    "model_mismatch": "the model cannot be loaded, or does not take or give what the step binds",
}


def outcome_of(word: object) -> Outcome:
    """The outcome that a word from a job's process stands for; `job_failed` for any other."""
    return next((outcome for outcome in get_args(Outcome) if outcome == word and outcome != "ok"), "job_failed")
