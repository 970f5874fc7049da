"""May this approval come into force, and does it still hold? Pure: stored state and time are arguments."""

from __future__ import annotations

from datetime import datetime
from graphlib import CycleError, TopologicalSorter

from ppml_airflow.domain.adhoc import require_adhoc_rules
from ppml_airflow.domain.documents import Approval
from ppml_airflow.domain.params import approved_params
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from ppml_airflow.units import Digest, parse_instant

APPROVE_HINT = "ppml compile DAG, then the owner runs ppml approve FILE"


def require_sound(approval: Approval) -> None:
    """Refuse an approval that contradicts itself.

    Raises:
        ConfigurationError: repeated names, edges to unknown steps, a cycle, two steps that write one dataset.
        PolicyDeniedError: an adhoc step breaks its rules.
    """
    names = [step.name for step in approval.steps]
    if len(set(names)) != len(names):
        raise ConfigurationError(f"approval of {approval.pipeline} names a step twice")
    unknown = {name for edge in approval.edges for name in edge} - set(names)
    if unknown:
        raise ConfigurationError(f"approval of {approval.pipeline} has an edge to the unknown step {min(unknown)}")
    written = [output.dataset for step in approval.steps for output in step.outputs]
    if len(set(written)) != len(written):
        raise ConfigurationError(f"approval of {approval.pipeline} has two steps that write the same dataset")
    try:
        TopologicalSorter({late: [early for early, to in approval.edges if to == late] for late in names}).prepare()
    except CycleError as error:
        raise ConfigurationError(f"approval of {approval.pipeline} has edges in a circle") from error
    approved_params(approval)
    require_adhoc_rules(approval)


def require_successor(approval: Approval, *, digest: Digest, in_force: Digest | None) -> None:
    """One approval is in force per pipeline, and the next one names it.

    Raises:
        PolicyDeniedError: `replaces` is not the approval in force.
    """
    if in_force != digest and approval.replaces != in_force:
        raise PolicyDeniedError(
            f"approval of {approval.pipeline} replaces {approval.replaces}, but {in_force} is in force",
            code="approval_not_successor",
            hint="compile again; ppml compile asks the broker what is in force",
        )


def require_in_force(approval: Approval, *, digest: Digest, in_force: Digest | None, now: datetime) -> None:
    """The approval is the one in force and its time has come and not gone.

    Raises:
        PolicyDeniedError: replaced, not yet valid or expired.
    """
    if digest != in_force:
        raise PolicyDeniedError(
            f"approval {digest} of {approval.pipeline} has been replaced by {in_force}",
            code="approval_replaced",
            hint="start a new run; it will be opened under the approval in force",
        )
    if now < parse_instant(approval.valid_from):
        raise PolicyDeniedError(
            f"approval of {approval.pipeline} is valid from {approval.valid_from}", code="approval_not_yet_valid"
        )
    if now >= parse_instant(approval.valid_until):
        raise PolicyDeniedError(
            f"approval of {approval.pipeline} expired at {approval.valid_until}",
            code="approval_expired",
            hint=APPROVE_HINT,
        )
