"""The gates of a pipeline as Airflow shows them. What opens is decided, and remembered, by the broker alone.

A sensor set to `success` by hand opens nothing: the lease of the step behind it asks for the broker's own row.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseSensorOperator

from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from ppml_airflow.operators.enclaves import EnclaveOperator
from ppml_airflow.operators.errors import airflow_errors
from ppml_airflow.operators.hook import PpmlHook
from ppml_airflow.operators.launches import describe_event, launch_request, require_not_refused
from ppml_airflow.operators.runs import open_run
from ppml_airflow.operators.triggers import StepTrigger, Until, is_settled, require_no_problem
from ppml_airflow.units import spell_trust

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

    from ppml_airflow.protocol.client import BrokerClient
    from ppml_airflow.protocol.launches import GuestEvent
    from ppml_airflow.protocol.messages import StepStatus


class AttestationSensor(BaseSensorOperator):
    """Wait until evidence of a step has been judged (`before`), or until its receipt is in (`after`). Exactly one.

    `before` starts the step's guest, which only attests, and needs its inputs complete; `after` starts nothing.

    Args:
        before: the task behind this gate, or its id.
        after: the task in front of this gate, or its id.
        pipeline: name of the approved pipeline; the dag_id if None.
        ppml_conn_id: the connection.
        timeout: how long to wait at most.
        retries: tries after something did not answer, or after Airflow itself lost the task between trigger and worker.
            A denial is never tried again.
    """

    def __init__(
        self,
        *,
        before: BaseOperator | str | None = None,
        after: BaseOperator | str | None = None,
        task_id: str = "",
        pipeline: str | None = None,
        ppml_conn_id: str = PpmlHook.default_conn_name,
        timeout: float = 12 * 3600.0,
        retries: int = 2,
        retry_delay: timedelta = timedelta(seconds=10),
        **kwargs: Any,
    ) -> None:
        task = after if before is None else before
        if task is None or None not in (before, after):
            raise ConfigurationError("AttestationSensor wants exactly one of before= and after=")
        self.gate: Literal["before", "after"] = "after" if before is None else "before"
        self.step = task if isinstance(task, str) else task.task_id
        task_id = task_id or f"gate_{self.gate}_{self.step.replace('.', '_')}"
        super().__init__(
            task_id=task_id,
            timeout=timeout,
            retries=retries,
            retry_delay=retry_delay,
            **kwargs,
        )
        self.pipeline = pipeline
        self.ppml_conn_id = ppml_conn_id

    def execute(self, context: Context) -> dict[str, str]:
        """Pass, wait, or fail with the clause that refused."""
        return self._advance(context, is_attested=False)

    def execute_complete(self, context: Context, event: dict[str, str]) -> dict[str, str]:
        """Go on after a wait: the broker is asked again, the event is only a bell."""
        with airflow_errors(self.dag.fileloc):
            require_no_problem(event)
        return self._advance(context, is_attested=event["until"] == "granted")

    def _advance(self, context: Context, *, is_attested: bool) -> dict[str, str]:
        with airflow_errors(self.dag.fileloc):
            hook = PpmlHook(self.ppml_conn_id)
            with hook.broker() as broker:
                run = open_run(broker, context=context, pipeline=self.pipeline, patience_s=hook.patience_s)
                if self.gate == "before" and not is_attested:
                    return self._before(broker, hook=hook, run_id=run.run_id)
                status = broker.status(run.run_id, self.step)
                if self.gate == "before":
                    return self._settle(status, until="granted")
                self._require_receipt_to_come(status, context=context)
                return self._settle(status, until="committed")

    def _before(self, broker: BrokerClient, *, hook: PpmlHook, run_id: str) -> dict[str, str]:
        status = broker.status(run_id, self.step)
        if status.granted or status.state == "committed":
            return self._pass(status)
        if not is_settled(status, until="inputs"):
            self._wait(status, until="inputs")
        operator = self.dag.get_task(self.step)
        if not isinstance(operator, EnclaveOperator):
            raise ConfigurationError(f"task {self.step} is not a step that can be attested")
        request = launch_request(operator, role="preflight", run_id=run_id, hook=hook, broker=broker)
        self.log.info("step %s: attesting image %s", self.step, request.image)
        hook.runtime(operator.runtime, image=operator.image).run(request, on_event=self._show)
        return self._settle(broker.status(run_id, self.step), until="granted")

    def _show(self, event: GuestEvent) -> None:
        self.log.info("step %s: %s", self.step, describe_event(event))

    def _require_receipt_to_come(self, status: StepStatus, *, context: Context) -> None:
        """Do not wait for a step that Airflow calls done and that runs nowhere: its state was set by hand."""
        run_id = context["dag_run"].run_id
        states = context["ti"].get_task_states(dag_id=self.dag_id, task_ids=[self.step], run_ids=[run_id])
        is_done = states.get(run_id, {}).get(self.step) == "success"
        if is_done and status.state in ("waiting", "granted"):
            raise PolicyDeniedError(
                f"step {self.step} is done in Airflow, but the broker holds no receipt of it",
                code="not_committed",
                hint=f"a task state is no receipt: trigger a new run, and let {self.step} run",
            )

    def _settle(self, status: StepStatus, *, until: Until) -> dict[str, str]:
        if not is_settled(status, until=until):
            self._wait(status, until=until)
        if not status.granted or until == "committed":
            require_not_refused(status)
        return self._pass(status)

    def _wait(self, status: StepStatus, *, until: Until) -> None:
        self.log.info("step %s waits for %s", self.step, status.waiting_for or until)
        trigger = StepTrigger(ppml_conn_id=self.ppml_conn_id, run_id=status.run_id, step=self.step, until=until)
        self.defer(trigger=trigger, method_name="execute_complete", timeout=timedelta(seconds=self.timeout))

    def _pass(self, status: StepStatus) -> dict[str, str]:
        self.log.info(
            "gate %s %s is open: %s, trust: %s", self.gate, self.step, status.state, spell_trust(status.trust)
        )
        return {"run_id": status.run_id, "step": self.step, "state": status.state}
