"""Sets: members wait until all of them are there, and have their leases together; one that died is replaced.

Whoever completes a set has all of its members judged again, each by its own evidence, in the transaction that issues
every lease. What waits reserves nothing, and lapses by itself.

Protocol: message 6, rule 12.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.broker import store
from ppml_airflow.broker.decisions.leases import require_gate, require_lease_allowed
from ppml_airflow.broker.decisions.sets import (
    MemberSet,
    Seat,
    Waiting,
    incomplete,
    present,
    require_free,
    require_other_keys,
    require_place,
    require_replaceable,
)
from ppml_airflow.broker.service.acceptance import accept
from ppml_airflow.broker.service.attempts import end_attempts
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.cases import Case, find_job, require_unused
from ppml_airflow.broker.service.evidence import VerifiedAhead, verify_ahead
from ppml_airflow.broker.service.issuing import RELEASE_KEK, issue, new_lease
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.broker.service.sessions import load_session, spend
from ppml_airflow.domain.documents import Member
from ppml_airflow.domain.jobs import require_step
from ppml_airflow.errors import PolicyDeniedError, PpmlError, UnavailableError
from ppml_airflow.protocol.messages import Attest, LeaseAnswer, OpenedSet
from ppml_airflow.provenance.passport import EvidenceRecord
from ppml_airflow.sealing import wrapping
from ppml_airflow.signing import PublicKey
from ppml_airflow.units import parse_instant


def open_set(broker: Broker, *, run_id: str, step_name: str) -> OpenedSet:
    """Open a set for an attempt of a step. One that is not whole yet ends with it; its members ask in vain.

    Raises:
        PolicyDeniedError: the step is no set, or the run is closed.
    """
    with broker.decision() as ledger:
        step = require_step(ledger.approval(ledger.run(run_id).approval), name=step_name)
        if step.members == 1:
            raise PolicyDeniedError(f"step {step_name} is done by one enclave, and has no members", code="no_set")
        if ledger.run_row(run_id).closed is not None:
            raise PolicyDeniedError(f"run {run_id} is closed", code="run_closed", hint="trigger a new run")
        set_id = secrets.token_hex(16)
        drop_waiting(ledger, run_id=run_id, step=step_name)
        store.insert(ledger.connection, store.member_set, set_id=set_id, run_id=run_id, step=step_name)
        return OpenedSet(set_id=set_id, members=step.members)


def drop_waiting(ledger: Ledger, **where: str) -> None:
    """Forget the sets of a run, or of one of its steps, that are not whole."""
    for row in store.find_all(ledger.connection, store.member_set, order="set_id", **where):
        if row.attempt is None:
            store.delete(ledger.connection, store.waiting_member, set_id=row.set_id)
            store.delete(ledger.connection, store.member_set, set_id=row.set_id)


def verify_others_ahead(broker: Broker, *, request: Attest) -> Mapping[str, VerifiedAhead]:
    """Verify the quotes of those who wait, by session, if this request might complete their set. Nothing is decided."""
    if request.binding.role != "member":
        return {}
    with broker.decision() as ledger:
        rows = _waiting_rows(ledger, request.binding.set_id)
        found = _find_set(ledger, request.binding.set_id)
        if found is None or found.attempt is not None:
            return {}
        step = require_step(ledger.approval(ledger.run(found.run_id).approval), name=found.step)
        others = [row for row in rows if row.member != request.binding.index]
        if len(others) < step.members - 1:
            return {}
    verified = {}
    for row in others:
        ahead = verify_ahead(broker, session_id=row.session_id, request=_request_of(row))
        if ahead is not None:
            verified[row.session_id] = ahead
    return verified


def ask_as_member(
    broker: Broker, case: Case, record: EvidenceRecord, *, ahead: Mapping[str, VerifiedAhead]
) -> LeaseAnswer | UnavailableError:
    """What a member whose evidence was accepted is answered: its lease, with all others', or what it waits for.

    Raises:
        VerificationError: it has no place in that set, or another enclave has it.
        PolicyDeniedError: the step may not be leased, or the member may not be replaced.
        UnavailableError: another run writes an output, or the member that it would replace is alive.
    """
    ledger, binding = case.ledger, case.request.binding
    found = require_place(binding, found=_find_set(ledger, binding.set_id), run_id=case.run.run_id, step=case.step)
    if found.attempt is not None:
        return _replace(broker, case, record, found=found)
    _require_allowed(case)
    waiting = present(_waiting(ledger, found.set_id), now=ledger.now)
    require_free(waiting, index=binding.index, binding=canonical.digest(binding))
    _wait(case, is_new=binding.index not in waiting)
    accepted = {binding.index: (case, record)}
    for index in waiting.keys() - {binding.index}:
        again = _accept_again(broker, ledger, set_id=found.set_id, index=index, ahead=ahead)
        if again is not None:
            accepted[index] = again
    keys = [member.request.binding.signing_key for index, (member, _) in accepted.items() if index != binding.index]
    require_other_keys(binding, others=keys)
    here = waiting.keys() | {binding.index}
    if len(accepted) < case.step.members:
        return incomplete(len(here), step=case.step)
    return _issue_all(broker, accepted, found=found, own=binding.index)


def members_of(ledger: Ledger, set_id: str | None) -> tuple[Member, ...]:
    """Every lease of a set's attempt, in the order in which they were issued; none without a set."""
    members, seen = [], set()
    for row in _seats(ledger, set_id) if set_id else ():
        members.append(
            Member(index=row.member, binding=row.binding, lease_id=row.lease_id, is_replacement=row.member in seen)
        )
        seen.add(row.member)
    return tuple(members)


def count_waiting(ledger: Ledger, *, run_id: str, step: str) -> int:
    """How many members of a step's set have attested and wait for the others."""
    rows = store.find_all(ledger.connection, store.member_set, order="set_id", run_id=run_id, step=step)
    return sum(len(present(_waiting(ledger, row.set_id), now=ledger.now)) for row in rows if row.attempt is None)


def _require_allowed(case: Case) -> None:
    require_lease_allowed(
        case.step,
        approval=case.approval,
        approval_digest=case.run.approval,
        run=case.run,
        state=case.state,
        now=case.ledger.now,
    )


def _accept_again(
    broker: Broker, ledger: Ledger, *, set_id: str, index: int, ahead: Mapping[str, VerifiedAhead]
) -> tuple[Case, EvidenceRecord] | None:
    """Judge one who waits as if it asked now. If it is refused it does not count: it hears why when it asks itself."""
    row = store.find(ledger.connection, store.waiting_member, set_id=set_id, member=index)
    if row is None or row.session_id not in ahead:
        return None
    request = _request_of(row)
    try:
        session = load_session(ledger, session_id=row.session_id)
        where = find_job(ledger, request.binding.job_digest)
        case, record = accept(
            broker, ledger, session=session, request=request, where=where, ahead=ahead[row.session_id]
        )
        require_unused(case)
    except PpmlError:
        return None
    return case, record


def _issue_all(
    broker: Broker, accepted: Mapping[int, tuple[Case, EvidenceRecord]], *, found: MemberSet, own: int
) -> LeaseAnswer:
    """Issue every lease of a set: one attempt, which fences the one before, and one cluster secret."""
    case, _ = accepted[own]
    ledger, connection = case.ledger, case.ledger.connection
    leases = {index: new_lease(member) for index, (member, _) in sorted(accepted.items())}
    end_attempts(ledger, case.attempts, outcome="fenced")
    secret = wrapping.new_key()
    wrapped = broker.kms.wrap(secret, key_id=RELEASE_KEK, context=_context(broker, found))
    whole = {"attempt": leases[own].attempt, "secret": wrapped}
    store.update(connection, store.member_set, where={"set_id": found.set_id}, **whole)
    answers = {}
    for index, lease in leases.items():
        member, record = accepted[index]
        answers[index] = issue(broker, member, record, lease=lease, cluster_secret=secret)
        if index != own:
            spend(ledger, session_id=member.session.session_id, answer=answers[index])
    store.delete(connection, store.waiting_member, set_id=found.set_id)
    return answers[own]


def _replace(broker: Broker, case: Case, record: EvidenceRecord, *, found: MemberSet) -> LeaseAnswer:
    """Give a new enclave the place, and the same secret, of a member that died; what that one held is void."""
    ledger, step, index = case.ledger, case.step, case.request.binding.index
    rows = _seats(ledger, found.set_id)
    seats = tuple(
        Seat(index=row.member, outcome=row.outcome, seen=parse_instant(row.seen), expires=parse_instant(row.expires))
        for row in rows
    )
    require_replaceable(seats, index=index, step=step, now=ledger.now)
    keys = [canonical.decode(row.signing_key, into=PublicKey) for row in rows]
    require_other_keys(case.request.binding, others=keys)
    require_gate(step, approval_digest=case.run.approval, state=case.state, now=ledger.now)
    row = store.find(ledger.connection, store.member_set, set_id=found.set_id)
    if row is None or row.secret is None:
        raise UnavailableError(f"secret of set {found.set_id} is missing from the store", code="store_damaged")
    secret = broker.kms.unwrap(row.secret, key_id=RELEASE_KEK, context=_context(broker, found))
    last = [seat for seat in rows if seat.member == index][-1]
    store.update(ledger.connection, store.attempt, where={"id": last.id}, outcome="replaced")
    lease = msgspec.structs.replace(new_lease(case), attempt=found.attempt, expires=rows[0].expires)
    return issue(broker, case, record, lease=lease, cluster_secret=secret)


def _wait(case: Case, *, is_new: bool) -> None:
    ledger, binding = case.ledger, case.request.binding
    place = {"set_id": binding.set_id, "member": binding.index}
    values = {
        "session_id": case.session.session_id,
        "request": canonical.encode(case.request),
        "seen": ledger.time,
    }
    if not store.update(ledger.connection, store.waiting_member, where=place, **values):
        store.insert(ledger.connection, store.waiting_member, **place, **values)
    if is_new:
        ledger.changed(case.run.run_id)


def _find_set(ledger: Ledger, set_id: str) -> MemberSet | None:
    row = store.find(ledger.connection, store.member_set, set_id=set_id)
    if row is None:
        return None
    return MemberSet(set_id=row.set_id, run_id=row.run_id, step=row.step, attempt=row.attempt)


def _seats(ledger: Ledger, set_id: str) -> list[sa.Row[Any]]:
    return store.find_all(ledger.connection, store.attempt, order="id", set_id=set_id)


def _waiting_rows(ledger: Ledger, set_id: str) -> list[sa.Row[Any]]:
    return store.find_all(ledger.connection, store.waiting_member, order="member", set_id=set_id)


def _waiting(ledger: Ledger, set_id: str) -> tuple[Waiting, ...]:
    """Those who wait and whose session is still there."""
    found = []
    for row in _waiting_rows(ledger, set_id):
        session = store.find(ledger.connection, store.session, session_id=row.session_id)
        if session is not None:
            found.append(
                Waiting(
                    index=row.member,
                    binding=session.binding,
                    seen=parse_instant(row.seen),
                    session_expires=parse_instant(session.expires),
                )
            )
    return tuple(found)


def _request_of(row: sa.Row[Any]) -> Attest:
    return canonical.decode(row.request, into=Attest)


def _context(broker: Broker, found: MemberSet) -> Mapping[str, str]:
    return wrapping.cluster_secret_context(domain_id=broker.domain.domain_id, set_id=found.set_id)
