"""A step's SQL statement: the approved file it lies in, and what an engine's judge says of it, as an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.workloads.job import WorkloadJob


def load_statement(job: WorkloadJob) -> str:
    """The text of the file that `argv` names.

    Raises:
        ConfigurationError: it is not among the step's code files, or not UTF-8.
    """
    file = job.code / job.argv[0]
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(f"statement file {job.argv[0]} is not among the step's code files") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"statement file {job.argv[0]} is not UTF-8") from error


def statement_error(error: Mapping[str, Any], *, job: WorkloadJob) -> ConfigurationError:
    """A judge's refusal `{code, message, line?, column?}` with its place, and with what would be right."""
    place = f"line {error['line']}, column {error['column']}: " if "line" in error else ""
    hint = _hint(error["code"], job=job)
    return ConfigurationError(f"{job.argv[0]}: {place}{error['message']}", code=error["code"], hint=hint)


def _hint(code: str, *, job: WorkloadJob) -> str:
    if code == "unknown_table":
        names = ", ".join(sorted(table.view for table in job.inputs))
        return f"granted tables: {names}" if names else "no table is granted"
    if code in ("unknown_column", "no_event_time"):
        return "; ".join(
            f"{table.view} has {', '.join(column.name for column in table.columns)}" for table in job.inputs
        )
    if code == "sql_refused":
        return "write it as one query: SELECT, WITH or VALUES; give days and limits as params"
    return ""
