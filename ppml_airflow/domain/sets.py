"""Sets: the members that did an attempt together. Guest, broker and verifier judge their list alike."""

from __future__ import annotations

from collections.abc import Sequence

from ppml_airflow.domain.documents import Member, Step
from ppml_airflow.errors import VerificationError

LEADER = 0
"""The member that has the outputs and signs the receipt. Its attempt ends with it: it is never replaced."""


def require_whole(members: Sequence[Member], *, step: Step) -> None:
    """The members are all that the step wants, each once, and then such replacements as it allows.

    Raises:
        VerificationError: one is missing, too many, or listed twice.
    """
    wanted = step.members if step.members > 1 else 0
    first, later = members[:wanted], members[wanted:]
    if [member.index for member in first] != list(range(wanted)) or any(member.is_replacement for member in first):
        raise VerificationError(f"set of {step.name} is not its {wanted} members, each once", code="set_incomplete")
    if len(later) > step.replacements:
        raise VerificationError(
            f"set of {step.name} has {len(later)} replacements; approved are {step.replacements}",
            code="replacements_used",
        )
    for member in later:
        if not member.is_replacement or not LEADER < member.index < wanted:
            raise VerificationError(f"set of {step.name} has a member {member.index} too many", code="other_members")
    for what in ({member.binding for member in members}, {member.lease_id for member in members}):
        if len(what) != len(members):
            raise VerificationError(f"set of {step.name} has one enclave or lease twice", code="other_members")
