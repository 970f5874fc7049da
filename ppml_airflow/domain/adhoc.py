"""Adhoc steps: the statement comes from the run, so an approval says not what is asked but who may hear the answer.

Refuses an approval by which a statement could reach further than its recipients' certificates: free text in a fixed
step, code beside the statement, counts let out, an answer that another step reads. Guest, broker and verifier apply
these rules alike, through `domain.jobs.build_job`.
"""

from __future__ import annotations

from ppml_airflow.domain.documents import Approval, Step, TextParam
from ppml_airflow.errors import PolicyDeniedError
from ppml_airflow.units import Name

STATEMENT_FILE = "statement.sql"
"""What the statement is called where it runs, and in messages about it."""
_WORKLOAD = "spark-sql"
"""The one workload that judges a statement before it runs."""


def statement_param(step: Step) -> Name | None:
    """The param of an adhoc step that is its statement; None for a fixed step."""
    return next((name for name, param in step.params.items() if isinstance(param, TextParam)), None)


def open_right(step: Step) -> frozenset[Name]:
    """The datasets that the certificate of whoever opens an answer or a log of this step must name besides it.

    Who asks a question of his own may ask for everything; so all that an adhoc step reads. A fixed step was approved.
    """
    return frozenset(wanted.dataset for wanted in step.inputs) if step.kind == "adhoc" else frozenset()


def require_adhoc_rules(approval: Approval) -> None:
    """Refuse an approval by which a statement reaches further than its recipients' certificates.

    Raises:
        PolicyDeniedError: `adhoc_rules`; says which step and why.
    """
    adhoc = [step for step in approval.steps if step.kind == "adhoc"]
    if len(adhoc) > 1:
        raise _refused(adhoc[1], "is the second adhoc step; runs per slot counts one statement for each run")
    for step in approval.steps:
        if step.kind == "fixed" and statement_param(step) is not None:
            raise _refused(step, f"is fixed; its param {statement_param(step)} is free text, a query by another name")
        laundered = {wanted.dataset for wanted in step.inputs} & {made.dataset for one in adhoc for made in one.outputs}
        if laundered:
            raise _refused(step, f"reads {min(laundered)}, the answer to an adhoc question")
    for step in adhoc:
        _require_statement_only(step)


def _require_statement_only(step: Step) -> None:
    texts = [name for name, param in step.params.items() if isinstance(param, TextParam)]
    if len(texts) != 1:
        raise _refused(step, f"is adhoc with {len(texts)} params of free text; wanted one, its statement")
    if step.workload != _WORKLOAD:
        raise _refused(step, f"is adhoc with workload {step.workload}; only {_WORKLOAD} judges statements")
    if step.code or step.argv:
        raise _refused(step, "is adhoc and has code or arguments; all that runs is its statement")
    if step.disclosed:
        raise _refused(step, f"is adhoc and lets out the count {step.disclosed[0].name}, which anybody could choose")


def _refused(step: Step, why: str) -> PolicyDeniedError:
    return PolicyDeniedError(f"step {step.name} {why}", code="adhoc_rules")
