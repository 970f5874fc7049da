"""May this member join its set, or replace one of its members? Pure: stored state and time are arguments.

Nothing here yields a key to a part of a set: leases are issued to all members at once, or to one that replaces another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ppml_airflow.broker.decisions.leases import HOLDER_LAPSE
from ppml_airflow.domain.documents import Binding, Step
from ppml_airflow.domain.sets import LEADER
from ppml_airflow.errors import PolicyDeniedError, UnavailableError, VerificationError
from ppml_airflow.signing import PublicKey
from ppml_airflow.units import Digest

WAITING_LAPSE = timedelta(seconds=10)
"""Members ask again every second while they wait; one silent for so long is not waited with any more."""
SESSION_MARGIN = timedelta(seconds=10)
"""A member whose session ends sooner might not hear of its lease, so it does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSet:
    """A set that the broker has opened, for one step of one run."""

    set_id: str
    run_id: str
    step: str
    attempt: int | None
    """Null until it was whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A member that waits for the rest of its set."""

    index: int
    binding: Digest
    seen: datetime
    session_expires: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One lease of a set's attempt."""

    index: int
    outcome: str
    seen: datetime
    expires: datetime


def require_role(binding: Binding, *, step: Step) -> None:
    """A set's step is leased to its members only, and any other step to a job.

    Raises:
        PolicyDeniedError: the wrong one of them asks.
    """
    if binding.role not in ("job", "member"):
        raise PolicyDeniedError(f"role {binding.role} is not served here", code="role_unknown")
    if binding.role == "job" and step.members > 1:
        raise PolicyDeniedError(
            f"step {step.name} is done by a set of {step.members} members, never by one alone", code="set_wanted"
        )
    if binding.role == "member" and step.members == 1:
        raise PolicyDeniedError(f"step {step.name} is done by one enclave, and has no members", code="no_set")


def require_place(binding: Binding, *, found: MemberSet | None, run_id: str, step: Step) -> MemberSet:
    """The set is one of this run and step, and has a member of that number.

    Raises:
        VerificationError: a set of nobody, of another run or step, or a member too many.
    """
    if found is None:
        raise VerificationError(
            f"set {binding.set_id[:40]} is not known here, or a newer one has taken its place", code="set_unknown"
        )
    if (found.run_id, found.step) != (run_id, step.name):
        raise VerificationError(f"set {found.set_id} is of another run or step than {step.name}", code="other_set")
    if binding.index >= step.members:
        raise VerificationError(
            f"member {binding.index} of {step.name}; its set has {step.members}, from 0", code="other_index"
        )
    return found


def present(waiting: tuple[Waiting, ...], *, now: datetime) -> dict[int, Waiting]:
    """Those who wait and would hear of their leases, by index."""
    return {
        one.index: one
        for one in waiting
        if one.seen + WAITING_LAPSE > now and one.session_expires > now + SESSION_MARGIN
    }


def require_free(waiting: dict[int, Waiting], *, index: int, binding: Digest) -> None:
    """Nobody else waits as this member, or has lately.

    Raises:
        UnavailableError: two enclaves with one index (`member_lives`); the second may follow when it is dead.
    """
    if index in waiting and waiting[index].binding != binding:
        raise UnavailableError(f"member {index} of the set is another enclave, which waits, too", code="member_lives")


def require_other_keys(binding: Binding, *, others: Iterable[PublicKey]) -> None:
    """No other member has this one's key K: a set of N is N enclaves.

    Raises:
        VerificationError: one enclave would be two members.
    """
    if binding.signing_key in others:
        raise VerificationError(f"member {binding.index} is another member, too: same key K", code="index_taken")


def incomplete(present: int, *, step: Step) -> UnavailableError:
    """What a member hears that waits for others."""
    return UnavailableError(
        f"{present} of {step.members} members of {step.name} have attested",
        code="set_incomplete",
        hint="all of them get their leases at once, or none",
    )


def require_replaceable(seats: tuple[Seat, ...], *, index: int, step: Step, now: datetime) -> None:
    """A new enclave may take the place of a member that died.

    Args:
        seats: every lease of the attempt, oldest first; the leader's is the first.

    Raises:
        PolicyDeniedError: the attempt is over, its leader is asked for, or the replacements are used up.
        UnavailableError: the member has been heard of lately (`member_lives`).
    """
    leader = seats[0]
    if leader.outcome != "open" or leader.expires <= now:
        raise PolicyDeniedError("the attempt of this set is over", code="set_over", hint="start a new set")
    if index == LEADER:
        raise PolicyDeniedError(
            f"member {LEADER} leads the set, and is not replaced", code="leader_lost", hint="start a new set"
        )
    if len(seats) - step.members >= step.replacements:
        raise PolicyDeniedError(
            f"set of {step.name} has used its {step.replacements} replacements",
            code="replacements_used",
            hint="start a new set, or ask the owner to approve more replacements",
        )
    last = [seat for seat in seats if seat.index == index][-1]
    if last.outcome == "open" and last.seen + HOLDER_LAPSE > now:
        raise UnavailableError(
            f"member {index} of {step.name} was heard of {int((now - last.seen).total_seconds())} s ago",
            code="member_lives",
            hint=f"it may be replaced when it has been silent for {int(HOLDER_LAPSE.total_seconds())} s",
        )
