"""Opening a run and pinning its inputs. Pure: stored state and time are arguments."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from ppml_airflow.domain.documents import Approval, DatasetVersion, ParamValue, Pins, Run, Step
from ppml_airflow.domain.params import check_params
from ppml_airflow.domain.slots import choose_slot
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.units import Digest, Instant, format_instant

MAX_LABEL_CHARACTERS = 250


def decide_open_run(
    *,
    approval: Approval,
    approval_digest: Digest,
    slot: Instant | None,
    params: Mapping[str, ParamValue],
    claimed: Mapping[str, str],
    run_id: str,
    epoch: int,
    now: datetime,
) -> Run:
    """The Run that a request may open.

    Raises:
        PolicyDeniedError: slot or params outside the approval.
        ConfigurationError: the labels that name the run are missing or too long.
    """
    for label in ("dag_id", "run_id"):
        if not claimed.get(label):
            raise ConfigurationError(f"claimed labels have no {label}", code="label_missing")
    if any(len(text) > MAX_LABEL_CHARACTERS for pair in claimed.items() for text in pair):
        raise ConfigurationError(f"a claimed label is longer than {MAX_LABEL_CHARACTERS} characters", code="label_long")
    return Run(
        run_id=run_id,
        domain_id=approval.domain_id,
        approval=approval_digest,
        pipeline=approval.pipeline,
        slot=choose_slot(slot, slots=approval.slots, now=now),
        params=check_params(approval, given=params),
        epoch=epoch,
        opened=format_instant(now),
        claimed=claimed,
    )


def require_same_run(
    params: Mapping[str, ParamValue], *, slot: Instant | None, approval: Approval, existing: Run
) -> None:
    """The same key with other params, or for another slot, is another run in disguise.

    Raises:
        PolicyDeniedError: params or slot differ from those the run was opened with (attack: tomorrow's run opened
            today, so that it reads today's inputs).
    """
    if slot is not None and slot != existing.slot:
        raise PolicyDeniedError(
            f"run {existing.claimed.get('run_id')} was opened for slot {existing.slot}, not for {slot}",
            code="slot_differs",
            hint="trigger a new run; somebody has opened this one for another slot",
        )
    if check_params(approval, given=params) != dict(existing.params):
        raise PolicyDeniedError(
            f"run {existing.claimed.get('run_id')} was opened with other params",
            code="params_differ",
            hint="trigger a new run to use other params",
        )


def input_to_pin(step: Step, *, manifest: Manifest, run_id: str) -> bool:
    """Whether a manifest that has just been committed is the one that a `this-run` input waits for."""
    return manifest.run_id == run_id and any(
        wanted.dataset == manifest.dataset and wanted.version == "this-run" for wanted in step.inputs
    )


def complete_pins(step: Step, *, run_id: str, pinned: Mapping[str, DatasetVersion]) -> Pins | None:
    """The Pins of a step once every input is pinned; else None."""
    if any(wanted.dataset not in pinned for wanted in step.inputs):
        return None
    return Pins(run_id=run_id, step=step.name, inputs=tuple(pinned[wanted.dataset] for wanted in step.inputs))


def missing_inputs(step: Step, *, pinned: Mapping[str, DatasetVersion]) -> list[str]:
    """The inputs of a step that are not pinned yet."""
    return [wanted.dataset for wanted in step.inputs if wanted.dataset not in pinned]
