"""Sets in a passport: is every attempt of one the whole set, and nothing but it?

An independent reading, like `provenance.attempts`: which leases there were, RunClosed says; whom they were issued to,
each member's own evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Approval, Lease, Member
from ppml_airflow.domain.sets import LEADER, require_whole
from ppml_airflow.errors import VerificationError
from ppml_airflow.provenance.completeness import Attempt, naming

Place = tuple[str, int]
"""Step and number of an attempt."""


def require_sets(attempts: Iterable[Attempt], *, approval: Approval) -> Mapping[Place, tuple[Member, ...]]:
    """Every attempt is by as many enclaves as the approval says; of a set each member has its place.

    Returns:
        The members of each attempt, by step and number; none where it was no set.

    Raises:
        VerificationError: a member is missing, too many, of another set, or has signed a receipt that is the leader's.
    """
    leased = sorted((one for one in attempts if one.record.role != "preflight"), key=_place)
    found = {}
    for place, group in groupby(leased, key=_place):
        step, number = place
        with naming(f"step {step}, attempt {number}"):
            found[place] = _members(tuple(group), approval=approval)
    return found


def _place(attempt: Attempt) -> Place:
    return attempt.record.step, attempt.record.attempt


def _members(attempts: tuple[Attempt, ...], *, approval: Approval) -> tuple[Member, ...]:
    step = approval.step(attempts[0].record.step)
    if step is None:
        raise VerificationError("the approval has no such step", code="step_not_approved")
    wanted = "member" if step.members > 1 else "job"
    if any(one.record.role != wanted for one in attempts):
        raise VerificationError(f"the approval wants {step.members} enclaves, each a {wanted}", code="other_members")
    if step.members == 1:
        return ()
    if len({one.evidence.binding.set_id for one in attempts}) != 1:
        raise VerificationError("its members are of several sets", code="other_set")
    if len({one.record.time for one in attempts[: step.members]}) != 1:
        raise VerificationError("its members did not get their leases together", code="set_incomplete")
    keys = {one.evidence.binding.signing_key for one in attempts}
    if len(keys) != len(attempts):
        raise VerificationError("its members are not as many enclaves", code="other_members")
    for one in attempts:
        if one.record.index != LEADER and (one.receipt is not None or one.record.outcome == "committed"):
            raise VerificationError(f"member {one.record.index} speaks for the leader", code="not_leader")
    seen: set[int] = set()
    members = []
    for one in attempts:
        members.append(_member(one, is_replacement=one.record.index in seen))
        seen.add(one.record.index)
    require_whole(members, step=step)
    return tuple(members)


def _member(attempt: Attempt, *, is_replacement: bool) -> Member:
    if attempt.lease is None:
        raise VerificationError("a member has no lease", code="incomplete")
    lease = canonical.decode(attempt.lease.payload, into=Lease)
    return Member(
        index=attempt.record.index,
        binding=canonical.digest(attempt.evidence.binding),
        lease_id=lease.lease_id,
        is_replacement=is_replacement,
    )
