"""Where a passport whose signatures do not hold disagrees with itself: for people, after the refusal.

Reads documents without believing them. Nothing here can accept anything; it names the step that somebody touched.
"""

from __future__ import annotations

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Approval, Pins, Run, RunClosed
from ppml_airflow.domain.jobs import build_job
from ppml_airflow.errors import PpmlError
from ppml_airflow.provenance.attempts import require_binding
from ppml_airflow.provenance.completeness import match_attempts, naming, require_log, require_sequence, step_outcomes
from ppml_airflow.provenance.passport import Passport


def first_disagreement(passport: Passport) -> str:
    """The first thing in a refused passport that does not fit the rest; empty if there is none to see."""
    try:
        _compare(passport)
    except PpmlError as error:
        return error.message
    return ""


def _compare(passport: Passport) -> None:
    contents = passport.contents
    closed = canonical.decode(passport.closed.payload, into=RunClosed)
    approval = canonical.decode(contents.approval.payload, into=Approval)
    run = canonical.decode(contents.run.payload, into=Run)
    pins = {one.step: one for one in (canonical.decode(envelope.payload, into=Pins) for envelope in contents.pins)}
    attempts = match_attempts(contents, closed=closed)
    require_sequence(attempts, approval=approval)
    for attempt in attempts:
        name = attempt.record.step
        if name in pins:
            with naming(attempt.label):
                job = build_job(
                    approval=approval, approval_digest=run.approval, run=run, pins=pins[name], step_name=name
                )
                require_binding(attempt.evidence, job=job)
    step_outcomes(approval, closed=closed, pins=pins)
    require_log(contents, closed=closed)
