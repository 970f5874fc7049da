from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Approval, BooleanParam, DatasetVersion, EnumParam, Job, Pins, Run
from ppml_airflow.domain.jobs import build_job, earlier_steps, require_step, signed_request
from ppml_airflow.errors import PolicyDeniedError, VerificationError
from tests.domain.test_documents import make_approval

replace = msgspec.structs.replace
ZERO = "sha256:" + "0" * 64
RUN_ID = "ab" * 16

APPROVAL = make_approval()
RUN = Run(
    run_id=RUN_ID,
    domain_id=APPROVAL.domain_id,
    approval=canonical.digest(APPROVAL),
    pipeline="nightly",
    slot="2026-11-23T00:00:00Z",
    params={"limit": 10},
    epoch=0,
    opened="2026-11-23T01:00:00Z",
    claimed={},
)
PINS = Pins(
    run_id=RUN_ID,
    step="aggregate",
    inputs=(
        DatasetVersion(dataset="visits", version=1, manifest=ZERO),
        DatasetVersion(dataset="plans", version=4, manifest=ZERO),
    ),
)


def build(*, approval: Approval = APPROVAL, run: Run = RUN, pins: Pins = PINS, step: str = "aggregate") -> Job:
    return build_job(approval=approval, approval_digest=canonical.digest(approval), run=run, pins=pins, step_name=step)


def test_a_job_spells_out_one_step_of_a_run() -> None:
    job = build()
    step = APPROVAL.steps[0]
    assert (job.approval, job.run_id, job.step, job.image) == (canonical.digest(APPROVAL), RUN_ID, "aggregate", "spark")
    assert (job.code, job.workload, job.policy, job.inputs) == (step.code, "spark-sql", "standard", PINS.inputs)
    assert job.argv == ("--limit", "10")
    assert [(output.dataset, output.recipients) for output in job.outputs] == [("report", ("analyst",))]


@pytest.mark.parametrize(
    "change",
    [
        {"argv": ("--limit", "{limit}", "x")},
        {"argv": ("--limit", "11")},
        {"code": {"query.sql": ZERO}},
        {"environment": {"A": "b"}},
        {"image": "other"},
        {"workload": "spark-python"},
        {"policy": "lenient"},
        {"outputs": ()},
        {"attempts": 4},
        {"gates": ()},
    ],
)
def test_any_change_of_the_approval_is_another_job(change: dict[str, Any]) -> None:
    approval = replace(APPROVAL, steps=(replace(APPROVAL.steps[0], **change), APPROVAL.steps[1]))
    run = replace(RUN, approval=canonical.digest(approval))
    assert canonical.digest(build(approval=approval, run=run)) != canonical.digest(build())


def test_other_params_inputs_and_runs_are_other_jobs() -> None:
    newer = replace(PINS, inputs=(PINS.inputs[0], replace(PINS.inputs[1], version=5)))
    again = replace(RUN, run_id="cd" * 16)
    jobs = [
        build(),
        build(run=replace(RUN, params={"limit": 11})),
        build(pins=newer),
        build(run=again, pins=replace(PINS, run_id="cd" * 16)),
    ]
    assert len({canonical.digest(job) for job in jobs}) == 4


def test_labels_of_airflow_are_no_part_of_a_job() -> None:
    assert build(run=replace(RUN, claimed={"dag_id": "other"})) == build()


def test_only_whole_elements_are_replaced() -> None:
    step = replace(
        APPROVAL.steps[0],
        argv=("{limit}", "x{limit}", "{limit}{limit}", "{other}", "{}", "{plan}", "{exact}", "{{limit}}"),
        params={
            **APPROVAL.steps[0].params,
            "plan": EnumParam(choices=("{limit}", "a b"), default="{limit}"),
            "exact": BooleanParam(default=True),
        },
    )
    approval = replace(APPROVAL, steps=(step,), edges=())
    job = build(approval=approval, run=replace(RUN, approval=canonical.digest(approval)))
    assert job.argv == ("10", "x{limit}", "{limit}{limit}", "{other}", "{}", "{limit}", "true", "{{limit}}")


def test_a_param_out_of_bounds_makes_no_job() -> None:
    with pytest.raises(PolicyDeniedError, match="param limit"):
        build(run=replace(RUN, params={"limit": 101}))


def test_a_step_that_is_not_approved_makes_no_job() -> None:
    with pytest.raises(PolicyDeniedError, match="covers: aggregate, summarise") as refused:
        build(step="other")
    assert refused.value.code == "step_not_approved"
    assert "ppml compile" in refused.value.hint


@pytest.mark.parametrize("change", [{"approval": ZERO}, {"pipeline": "other"}, {"domain_id": ZERO}])
def test_a_run_under_another_approval_makes_no_job(change: dict[str, str]) -> None:
    with pytest.raises(VerificationError) as refused:
        build(run=replace(RUN, **change))
    assert refused.value.code == "other_run"


@pytest.mark.parametrize(
    "change", [{"run_id": "cd" * 16}, {"step": "summarise"}, {"inputs": ()}, {"inputs": PINS.inputs[::-1]}]
)
def test_pins_of_another_step_run_or_order_make_no_job(change: dict[str, Any]) -> None:
    with pytest.raises(VerificationError) as refused:
        build(pins=replace(PINS, **change))
    assert refused.value.code == "other_pins"


def test_an_approved_step_is_found() -> None:
    assert require_step(APPROVAL, name="summarise") == APPROVAL.steps[1]


def test_earlier_steps_are_those_with_an_edge() -> None:
    assert earlier_steps(APPROVAL, name="aggregate") == ()
    assert earlier_steps(APPROVAL, name="summarise") == ("aggregate",)


def test_a_signed_request_covers_nonce_and_binding() -> None:
    first = signed_request(nonce="n", binding=ZERO)
    assert first == canonical.encode({"type": "ppml/v1/lease-request", "nonce": "n", "binding": ZERO})
    assert first not in (
        signed_request(nonce="m", binding=ZERO),
        signed_request(nonce="n", binding="sha256:" + "1" * 64),
    )
