"""The job's code: copied into private memory first, then compared, so that what is judged is what runs.

The code of an adhoc step is its statement, which is part of the run and so of J; the host brings none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ppml_airflow import canonical
from ppml_airflow.domain.adhoc import STATEMENT_FILE, statement_param
from ppml_airflow.domain.documents import Job, Step
from ppml_airflow.errors import VerificationError
from ppml_airflow.units import Digest, RelativePath

_HINT = "code that changed needs a new approval: ppml compile DAG, then ppml approve"


def copy_code(code: Mapping[RelativePath, bytes], *, approved: Mapping[RelativePath, Digest], into: Path) -> Path:
    """Write the code into a private folder, then compare the digests of the copy with those approved.

    Raises:
        VerificationError: a file was changed, added or left out; none of it may run.
    """
    unknown, missing = sorted(set(code) - set(approved)), sorted(set(approved) - set(code))
    if unknown or missing:
        wrong = f"{unknown[0]} is not approved" if unknown else f"{missing[0]} is missing"
        raise VerificationError(f"code file {wrong}", code="code_changed", hint=_HINT)
    into.mkdir(mode=0o700)
    for path, content in code.items():
        target = into / path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.write_bytes(content)
    for path, digest in approved.items():
        found = canonical.digest_bytes((into / path).read_bytes())
        if found != digest:
            raise VerificationError(
                f"code file {path} has digest {found}, approved is {digest}", code="code_changed", hint=_HINT
            )
    return into


def write_statement(job: Job, *, step: Step, into: Path) -> None:
    """Write the statement of an adhoc step where code lies. It is the very text that J holds and evidence covers."""
    name = statement_param(step)
    if name is not None:
        (into / STATEMENT_FILE).write_bytes(str(job.params[name]).encode())
