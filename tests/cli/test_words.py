"""The owner signs what he reads: whatever differs between two approvals shows in their words."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from ppml_airflow.cli.words import describe_approval, describe_difference
from ppml_airflow.domain.documents import (
    Approval,
    Disclosure,
    EnumParam,
    Input,
    IntegerParam,
    Limits,
    Output,
    Slots,
    Step,
    TextParam,
)

Change = Callable[[Approval], Approval]


def of_approval(**changes: object) -> Change:
    return lambda approval: msgspec.structs.replace(approval, **changes)


def of_step(**changes: object) -> Change:
    return lambda approval: msgspec.structs.replace(
        approval, steps=(msgspec.structs.replace(approval.steps[0], **changes),)
    )


CHANGES: dict[str, Change] = {
    "pipeline": of_approval(pipeline="other"),
    "domain_id": of_approval(domain_id="sha256:" + "1" * 64),
    "edges": of_approval(edges=(("aggregate", "aggregate"),)),
    "slots": of_approval(slots=Slots(period="day", zone="Europe/Berlin", window_hours=24, backfill=1)),
    "zone": of_approval(slots=Slots(period="day", zone="Asia/Tokyo", window_hours=24, backfill=0)),
    "runs_per_slot": of_approval(runs_per_slot=2),
    "valid_from": of_approval(valid_from="2020-01-01T00:00:00Z"),
    "valid_until": of_approval(valid_until="2040-01-01T00:00:00Z"),
    "name": of_step(name="other"),
    "kind": of_step(kind="adhoc"),
    "image": of_step(image="other"),
    "workload": of_step(workload="spark-python"),
    "code": of_step(code={"query.sql": "sha256:" + "2" * 64}),
    "argv": of_step(argv=("query.sql", "{people}")),
    "params": of_step(params={"people": IntegerParam(minimum=1, maximum=10, default=5)}),
    "default": of_step(params={"people": IntegerParam(minimum=1, maximum=9, default=6)}),
    "environment": of_step(environment={"A": "b"}),
    "inputs": of_step(inputs=(Input(dataset="visits", version="head"), Input(dataset="plans", version="head"))),
    "recipients": of_step(
        outputs=(Output(dataset="report", body="table", recipients=("analyst", "mallory"), files=1),)
    ),
    "files": of_step(outputs=(Output(dataset="report", body="table", recipients=("analyst",), files=2),)),
    "log_recipients": of_step(log_recipients=("owner", "mallory")),
    "disclosed": of_step(disclosed=(Disclosure(name="rows", minimum=0, maximum=9),)),
    "gates": of_step(gates=("before",)),
    "policy": of_step(policy="lenient"),
    "members": of_step(members=3),
    "replacements": of_step(members=3, replacements=1),
    "attempts": of_step(attempts=3),
    "limits": of_step(limits=Limits(wall_s=61, memory_mib=1024, cores=1)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_shows_in_the_words(approval: Approval, change: Change) -> None:
    changed = change(approval)
    assert describe_approval(changed) != describe_approval(approval)
    assert describe_difference(approval, changed)


def test_every_field_of_an_approval_and_its_steps_is_among_the_changes() -> None:
    shown_elsewhere = {"replaces", "steps", "params", "slots", "outputs"}
    fields = {field.name for kind in (Approval, Step) for field in msgspec.structs.fields(kind)}
    assert fields - shown_elsewhere <= CHANGES.keys()


def test_an_adhoc_step_says_in_plain_words_what_is_given_away(approval: Approval) -> None:
    text = TextParam(maximum_characters=99, default="SELECT 1\n-- \x1b[2K")
    said = describe_approval(of_step(kind="adhoc", params={"statement": text}, code={}, argv=())(approval))
    assert (
        "step aggregate: ANY QUERY over plans, visits: whoever starts a run writes it, "
        "and everybody who sees Airflow reads it" in said
    )
    assert (
        "step aggregate: one query for each run; the answer, and the log, only to holders who are certified for: "
        "plans, visits" in said
    )
    assert any("param statement is any text of 1 to 99 characters" in line for line in said)
    assert any("SELECT 1\\n-- \\x1b[2K if not given" in line for line in said)


def test_choices_cannot_pass_for_other_choices(approval: Approval) -> None:
    joined = of_step(params={"plan": EnumParam(choices=("a", "b, c"), default="a")})(approval)
    parted = of_step(params={"plan": EnumParam(choices=("a", "b", "c"), default="a")})(approval)
    assert describe_difference(joined, parted)


def test_words_of_the_author_make_no_lines_of_their_own(approval: Approval) -> None:
    zone = "UTC)\x1b[2K\nstep aggregate: gates before, after"
    forged = of_approval(slots=Slots(period="day", zone=zone, window_hours=24, backfill=0))(approval)
    said = describe_approval(forged)
    assert len(said) == len(describe_approval(approval))
    assert all(line.isprintable() for line in said)


def test_the_same_approval_differs_in_nothing(approval: Approval) -> None:
    assert describe_difference(approval, approval) == []
