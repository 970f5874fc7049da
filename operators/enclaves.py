"""A step of a pipeline: what every operator has in common that runs in an enclave, whatever its engine."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

from airflow.sdk import BaseOperator

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Disclosure, Input, Limits, Output, Param, Step, TextParam
from ppml_airflow.enclaves.runtimes.docker import DockerRuntime
from ppml_airflow.enclaves.runtimes.process import ProcessRuntime
from ppml_airflow.enclaves.runtimes.registry import require_supported
from ppml_airflow.enclaves.runtimes.sets import SetOfGuests
from ppml_airflow.errors import ConfigurationError, PpmlError
from ppml_airflow.operators.errors import airflow_errors
from ppml_airflow.operators.guest_trigger import GuestTrigger
from ppml_airflow.operators.hook import PpmlHook
from ppml_airflow.operators.launches import describe_event, launch_request, require_not_refused, set_requests
from ppml_airflow.operators.runs import open_run
from ppml_airflow.operators.triggers import require_no_problem
from ppml_airflow.units import spell_trust

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ppml_airflow.protocol.client import BrokerClient
    from ppml_airflow.protocol.launches import GuestEvent
    from ppml_airflow.protocol.messages import LaunchRequest, StepStatus

_MEMORY = re.compile(r"^([1-9]\d{0,6})([mg])$")
_KILL_TIMEOUT_S = 3.0
MAX_MEMBERS = 64
MAX_REPLACEMENTS = 10


class EnclaveOperator(BaseOperator):
    """Run one approved step in an enclave and return a reference.

    That is `{run_id, step, attempt, outputs: {dataset: manifest digest}, disclosed: {name: count}}`.

    The step's name is the task_id. A step that is committed already returns the same reference: clearing the task does
    no harm.

    Args:
        workload: what runs the step, an entry of `workloads.registry`; an engine's own operator says it.
        outputs: dataset -> holders of recipient certificates who may open it.
        inputs: datasets, sealed or computed before.
        folders: those of the outputs that are folders of files; the others are tables.
        output_files: number of parts of a table, of files in a folder: fixed, so that it says nothing of the data.
        image: the trusted image.
        policy: name of the owner's policy that evidence is judged by.
        runtime: where the enclave runs: `process` or `docker`; where the connection says if None.
        memory: at most this much memory, such as `2g` or `1500m`.
        cores: at most so many cores.
        members: how many enclaves do the job together, all of them or none (a set); 1 = no set.
        replacements: how many members of a set may be replaced when their guests have died; never the first.
        time_limit_s: at most so long.
        environment: variables of the job's processes, in the approval.
        disclosed: counts that may leave the enclave beside its outputs: name -> (minimum, maximum).
        pipeline: name of the approved pipeline; the dag_id if None.
        ppml_conn_id: the connection.
    """

    ui_color = "#e8e4f5"
    minimum_memory_mib: ClassVar[int] = 256
    statement_param: str | None = None
    """The param of the DAG that is the step's statement, if the run brings it: an adhoc step."""

    def __init__(
        self,
        *,
        workload: str,
        outputs: Mapping[str, Sequence[str]],
        inputs: Sequence[str] = (),
        folders: Sequence[str] = (),
        output_files: int = 1,
        image: str,
        policy: str = "default",
        runtime: str | None = None,
        memory: str = "2g",
        cores: int = 2,
        members: int = 1,
        replacements: int = 0,
        time_limit_s: int = 3600,
        environment: Mapping[str, str] | None = None,
        disclosed: Mapping[str, tuple[int, int]] | None = None,
        pipeline: str | None = None,
        ppml_conn_id: str = PpmlHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        unknown = sorted(set(folders) - set(outputs))
        if unknown:
            raise ConfigurationError(f"folders= names {unknown[0]}, which is none of the outputs {sorted(outputs)}")
        if runtime is not None:
            require_supported(image, runtime=runtime, members=members)
        self.workload = workload
        self.inputs = tuple(inputs)
        self.outputs_to: Mapping[str, tuple[str, ...]] = {
            dataset: tuple(recipients) for dataset, recipients in outputs.items()
        }
        self.folders = frozenset(folders)
        self.output_files = output_files
        self.image = image
        self.policy = policy
        self.runtime = runtime
        self.limits = Limits(
            wall_s=time_limit_s, memory_mib=mebibytes(memory, at_least=self.minimum_memory_mib), cores=cores
        )
        self.members, self.replacements = self._require_set(members, replacements=replacements)
        self.environment = dict(environment or {})
        self.disclosed = {name: (low, high) for name, (low, high) in (disclosed or {}).items()}
        self.pipeline = pipeline
        self.ppml_conn_id = ppml_conn_id
        self._at_work: tuple[Callable[[], None], PpmlHook, str] | None = None
        """What ends the guest, while there is one."""

    # ---------------------------------------------------------------- what an engine says of itself

    @abstractmethod
    def code_files(self) -> dict[str, bytes]:
        """The code that the guest runs, by the names that the approval lists."""

    @abstractmethod
    def argv(self) -> tuple[str, ...]:
        """The program and its arguments; an element `{name}` is replaced whole by the param of that name."""

    def body_of(self, dataset: str) -> Literal["table", "files", "stream"]:
        """What an output is."""
        return "files" if dataset in self.folders else "table"

    # ---------------------------------------------------------------- the task

    def execute(self, context: Context) -> dict[str, Any]:
        """Open the run, start the guest, stay with it until it is done, return the reference.

        A process is stayed with here, by a connection that is held. A container is left to a trigger (`GuestTrigger`).
        """
        with airflow_errors(self.dag.fileloc):
            hook = PpmlHook(self.ppml_conn_id)
            with hook.broker() as broker:
                run = open_run(broker, context=context, pipeline=self.pipeline, patience_s=hook.patience_s)
                status = broker.status(run.run_id, self.task_id)
                if status.state != "committed":
                    status = self._run(run.run_id, hook=hook, broker=broker)
                return self._reference(status)

    def execute_complete(self, context: Context, event: dict[str, str]) -> dict[str, Any]:
        """Go on when the container has ended: the broker is asked; the event is a bell, or says what went wrong."""
        with airflow_errors(self.dag.fileloc):
            require_no_problem(event)
            hook = PpmlHook(self.ppml_conn_id)
            with hook.broker() as broker:
                run = open_run(broker, context=context, pipeline=self.pipeline, patience_s=hook.patience_s)
                return self._reference(broker.status(run.run_id, self.task_id))

    def on_kill(self) -> None:
        """End the guest that this worker is with, and fence the attempt at the broker."""
        if self._at_work is None:
            return
        end, hook, run_id = self._at_work
        try:
            end()
            with hook.broker(timeout_s=_KILL_TIMEOUT_S) as broker:
                broker.cancel(run_id, self.task_id)
        except PpmlError as error:
            self.log.warning("step %s is not cancelled at the broker: %s", self.task_id, error)

    def compiled_step(
        self,
        *,
        params: Mapping[str, Param],
        inputs: tuple[Input, ...],
        gates: tuple[Literal["before", "after"], ...],
        log_recipients: tuple[str, ...],
    ) -> Step:
        """The step as an approval lists it."""
        return Step(
            name=self.task_id,
            kind="fixed" if self.statement_param is None else "adhoc",
            image=self.image,
            workload=self.workload,
            code={name: canonical.digest_bytes(content) for name, content in self.code_files().items()},
            argv=self.argv(),
            params={
                name: param
                for name, param in params.items()
                if not isinstance(param, TextParam) or name == self.statement_param
            },
            environment=self.environment,
            inputs=inputs,
            outputs=tuple(
                Output(
                    dataset=dataset,
                    body=self.body_of(dataset),
                    recipients=recipients,
                    files=self.output_files,
                )
                for dataset, recipients in self.outputs_to.items()
            ),
            log_recipients=log_recipients,
            disclosed=tuple(
                Disclosure(name=name, minimum=minimum, maximum=maximum)
                for name, (minimum, maximum) in self.disclosed.items()
            ),
            gates=gates,
            policy=self.policy,
            members=self.members,
            replacements=self.replacements,
            attempts=(self.retries or 0) + 1,
            limits=self.limits,
        )

    # ---------------------------------------------------------------- inside

    def _require_set(self, members: int, *, replacements: int) -> tuple[int, int]:
        """Refuse at parsing, before anything is sealed, what could never be run."""
        if (
            not 1 <= members <= MAX_MEMBERS
            or not 0 <= replacements <= MAX_REPLACEMENTS
            or (members == 1 and replacements)
        ):
            raise ConfigurationError(
                f"step {self.task_id} has members={members}, replacements={replacements}; wanted 1 and 0, or up to"
                f" {MAX_MEMBERS} members of which at most {MAX_REPLACEMENTS} are replaced"
            )
        return members, replacements

    def _run(self, run_id: str, *, hook: PpmlHook, broker: BrokerClient) -> StepStatus:
        runtime = hook.runtime(self.runtime, image=self.image, members=self.members)
        if self.members > 1:
            return self._run_set(run_id, hook=hook, broker=broker)
        request = launch_request(self, role="job", run_id=run_id, hook=hook, broker=broker)
        if isinstance(runtime, DockerRuntime):
            self._leave_to_trigger(runtime, request=request, hook=hook, run_id=run_id)
        self._at_work = (runtime.close, hook, run_id)
        runtime.run(request, on_event=self._show)
        self._at_work = None
        return broker.status(run_id, self.task_id)

    def _run_set(self, run_id: str, *, hook: PpmlHook, broker: BrokerClient) -> StepStatus:
        requests = set_requests(self, run_id=run_id, hook=hook, broker=broker)
        guests = SetOfGuests(lambda: ProcessRuntime(Path(hook.quoting)), replacements=self.replacements)
        self._at_work = (guests.close, hook, run_id)
        guests.run(requests, on_event=self._show)
        self._at_work = None
        return broker.status(run_id, self.task_id)

    def _leave_to_trigger(
        self, runtime: DockerRuntime, *, request: LaunchRequest, hook: PpmlHook, run_id: str
    ) -> NoReturn:
        watch_id = runtime.start(request)
        self._at_work = (partial(runtime.end, watch_id), hook, run_id)
        self.log.info("step %s: a container is being started; waiting for it without a worker", self.task_id)
        trigger = GuestTrigger(ppml_conn_id=self.ppml_conn_id, run_id=run_id, step=self.task_id, watch_id=watch_id)
        self.defer(trigger=trigger, method_name="execute_complete")

    def _show(self, event: GuestEvent) -> None:
        self.log.info("step %s: %s", self.task_id, describe_event(event))

    def _reference(self, status: StepStatus) -> dict[str, Any]:
        require_not_refused(status)
        if status.state != "committed":
            raise PpmlError(f"step {status.step} ended, but the broker holds no receipt", code="not_committed")
        self.log.info(
            "step %s is committed, attempt %d, trust: %s", status.step, status.attempt, spell_trust(status.trust)
        )
        for name, count in status.disclosed.items():
            self.log.info("step %s: %s is %d", status.step, name, count)
        return {
            "run_id": status.run_id,
            "step": status.step,
            "attempt": status.attempt,
            "outputs": {output.dataset: output.manifest for output in status.outputs},
            "disclosed": dict(status.disclosed),
        }


def read_code(names: Iterable[str], *, operator: EnclaveOperator) -> dict[str, bytes]:
    """Read code files that lie beside the operator's DAG file, by their names.

    Raises:
        ConfigurationError: a file cannot be read, or two have the same name.
    """
    folder = Path(operator.dag.fileloc).parent
    files: dict[str, bytes] = {}
    for name in names:
        path = folder / name
        if path.name in files:
            raise ConfigurationError(f"step {operator.task_id} has two files called {path.name}")
        try:
            files[path.name] = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"file {path} cannot be read: {error.strerror}") from error
    return files


def require_no_template(texts: Iterable[str]) -> None:
    """Refuse Airflow's templates in what is approved.

    Raises:
        ConfigurationError: code `template`.
    """
    for text in texts:
        if "{{" in text or "{%" in text:
            raise ConfigurationError(
                "a template in approved code would make it another code every night",
                code="template",
                hint="write :name in SQL, or '{name}' as an argument, and declare name in the DAG's params",
            )


def mebibytes(memory: str, *, at_least: int) -> int:
    """Read an amount of memory such as `2g` or `1500m`.

    Raises:
        ConfigurationError: not such an amount, or less than so many MiB.
    """
    match = _MEMORY.match(memory)
    found = int(match[1]) * (1024 if match[2] == "g" else 1) if match else 0
    if found < at_least:
        least = f"{at_least // 1024}g" if at_least % 1024 == 0 else f"{at_least}m"
        raise ConfigurationError(f"memory is {memory!r}; wanted something like 2g or 1500m, at least {least}")
    return found
