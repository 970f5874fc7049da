"""From an approval, a run and its pins to the job. Guest, broker and verifier compute it alike; it is never sent."""

from __future__ import annotations

from ppml_airflow import canonical
from ppml_airflow.domain.adhoc import require_adhoc_rules
from ppml_airflow.domain.documents import Approval, Job, JobOutput, ParamValue, Pins, Run, SessionScope, Step
from ppml_airflow.domain.params import check_params
from ppml_airflow.errors import PolicyDeniedError, VerificationError
from ppml_airflow.units import Digest


def require_step(approval: Approval, *, name: str) -> Step:
    """The approved step of that name.

    Raises:
        PolicyDeniedError: the approval covers no such step.
    """
    step = approval.step(name)
    if step is None:
        covered = ", ".join(step.name for step in approval.steps)
        raise PolicyDeniedError(
            f"step {name} is not approved; the approval of {approval.pipeline} covers: {covered}",
            code="step_not_approved",
            hint="ppml compile DAG, then ask the owner for ppml approve",
        )
    return step


def earlier_steps(approval: Approval, *, name: str) -> tuple[str, ...]:
    """The steps that must be committed before this one gets a lease."""
    return tuple(sorted({earlier for earlier, later in approval.edges if later == name}))


class JobBuilder:
    """Spells out the steps of one run. What holds for all of them is checked once."""

    def __init__(self, *, approval: Approval, approval_digest: Digest, run: Run) -> None:
        """Check that run and approval belong together.

        Raises:
            VerificationError: they do not.
            PolicyDeniedError: a param is out of bounds, or an adhoc step breaks its rules.
        """
        require_adhoc_rules(approval)
        if run.approval != approval_digest or run.pipeline != approval.pipeline or run.domain_id != approval.domain_id:
            raise VerificationError(
                f"run {run.run_id} was not opened under approval {approval_digest}", code="other_run"
            )
        self._approval, self._run = approval, run
        self._params = check_params(approval, given=run.params)

    def build(self, pins: Pins, *, step_name: str) -> Job:
        """The job of a step.

        Raises:
            VerificationError: the pins are not of this run and step.
            PolicyDeniedError: the step is not approved.
        """
        approval, run = self._approval, self._run
        step = require_step(approval, name=step_name)
        if pins.run_id != run.run_id or pins.step != step_name:
            raise VerificationError(
                f"pins are of another run or step than {step_name} of {run.run_id}", code="other_pins"
            )
        if [pinned.dataset for pinned in pins.inputs] != [wanted.dataset for wanted in step.inputs]:
            raise VerificationError(f"pins of {step_name} do not name the approved inputs", code="other_pins")
        params = {name: value for name, value in self._params.items() if name in step.params}
        return Job(
            domain_id=approval.domain_id,
            approval=run.approval,
            run_id=run.run_id,
            step=step_name,
            image=step.image,
            workload=step.workload,
            code=step.code,
            argv=tuple(_render(element, params) for element in step.argv),
            params=params,
            environment=step.environment,
            inputs=pins.inputs,
            outputs=tuple(JobOutput(dataset=output.dataset, recipients=output.recipients) for output in step.outputs),
            policy=step.policy,
        )


def build_job(*, approval: Approval, approval_digest: Digest, run: Run, pins: Pins, step_name: str) -> Job:
    """The job of one step of a run; raises what `JobBuilder` does."""
    builder = JobBuilder(approval=approval, approval_digest=approval_digest, run=run)
    return builder.build(pins, step_name=step_name)


def signed_request(*, nonce: str, binding: Digest) -> bytes:
    """The bytes that K signs when a guest asks for a lease."""
    return canonical.encode({"binding": binding, "nonce": nonce, "type": "ppml/v1/lease-request"})


def session_scope(*, approval: Approval, approval_digest: Digest, step_name: str) -> SessionScope:
    """What an enclave attests that wants to live for the jobs of one approved step.

    Raises:
        PolicyDeniedError: the approval covers no such step.
    """
    step = require_step(approval, name=step_name)
    return SessionScope(
        domain_id=approval.domain_id,
        approval=approval_digest,
        step=step.name,
        image=step.image,
        policy=step.policy,
    )


def signed_within_session(*, nonce: str, binding: Digest, session_id: str) -> bytes:
    """The bytes that a session's K signs when a job of the same enclave asks for a lease."""
    return canonical.encode(
        {"binding": binding, "nonce": nonce, "session_id": session_id, "type": "ppml/v1/job-in-session"}
    )


def _render(element: str, params: dict[str, ParamValue]) -> str:
    name = element[1:-1]
    if element.startswith("{") and element.endswith("}") and name in params:
        value = params[name]
        return str(value).lower() if isinstance(value, bool) else str(value)
    return element
