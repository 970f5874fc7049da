"""From a step of an open run to a guest: message 4. All of it is untrusted there; the guest verifies it for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Approval, Input, Step
from ppml_airflow.domain.jobs import require_step
from ppml_airflow.errors import PolicyDeniedError, PpmlError
from ppml_airflow.operators.hook import PpmlHook
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.protocol.launches import GuestEvent
from ppml_airflow.protocol.messages import LaunchRequest, StepStatus, members_of

if TYPE_CHECKING:
    from ppml_airflow.operators.enclaves import EnclaveOperator


def launch_request(
    operator: EnclaveOperator,
    *,
    role: Literal["preflight", "job", "member"],
    run_id: str,
    hook: PpmlHook,
    broker: BrokerClient,
) -> LaunchRequest:
    """What a runtime is asked to start.

    Raises:
        PolicyDeniedError: the approval covers no such step, or says something else of it, or inputs are missing.
    """
    bundle = broker.bundle(run_id, operator.task_id)
    step = require_step(canonical.decode(bundle.approval.payload, into=Approval), name=operator.task_id)
    _require_as_approved(operator, approved=step)
    return LaunchRequest(
        image=step.image,
        role=role,
        step=step.name,
        bundle=bundle,
        code=operator.code_files(),
        broker=hook.broker_url,
        storage=hook.storage,
    )


def set_requests(
    operator: EnclaveOperator, *, run_id: str, hook: PpmlHook, broker: BrokerClient
) -> list[LaunchRequest]:
    """What the members of a new set are started with."""
    request = launch_request(operator, role="member", run_id=run_id, hook=hook, broker=broker)
    opened = broker.open_set(run_id, operator.task_id)
    return members_of(request, opened=opened)


def _require_as_approved(operator: EnclaveOperator, *, approved: Step) -> None:
    """Refuse a step of which the DAG says something else than its approval.

    The enclave runs what is approved, whatever the DAG says; without this word its author would take that for his own.
    Code is left to the guest, which compares its digests; params and gates to the broker, which judges them.
    """
    inputs = {item.dataset: item for item in approved.inputs}
    says = operator.compiled_step(
        params=approved.params,
        inputs=tuple(inputs.get(name, Input(dataset=name, version="head")) for name in operator.inputs),
        gates=approved.gates,
        log_recipients=approved.log_recipients,
    )
    for field in approved.__struct_fields__:
        found, wanted = getattr(says, field), getattr(approved, field)
        if field not in ("code", "attempts") and found != wanted:
            raise PolicyDeniedError(
                f"{field} of step {approved.name} is {found!r} in the DAG; approved is {wanted!r}", code="step_changed"
            )


def describe_event(event: GuestEvent) -> str:
    """One line of progress: all that a guest lets out while it runs."""
    words = [event.state, event.stage, event.code, f"{event.percent} %" if event.percent else ""]
    return " ".join(word for word in words if word)


def require_not_refused(status: StepStatus) -> None:
    """Raise what the broker last said no to.

    Raises:
        PolicyDeniedError: the step was denied or cancelled.
        PpmlError: its job failed.
    """
    subject = f"step {status.step}"
    if status.state == "denied":
        raise PolicyDeniedError(f"{subject} was denied: {status.reason}", code=status.code, hint=status.hint)
    if status.state == "cancelled":
        raise PolicyDeniedError(f"{subject} was cancelled", code=status.code or "cancelled", hint=status.hint)
    if status.state == "failed":
        hint = status.hint or f"ppml logs {status.run_id} shows the sealed log to who may open it"
        raise PpmlError(f"{subject} failed: {status.reason or status.code}", code=status.code or "failed", hint=hint)
