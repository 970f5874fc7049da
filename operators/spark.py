"""Spark in an enclave: one SQL query, or one Python application, over sealed datasets.

The operator only carries code to the enclave and words back. What runs there is what the owners approved: the guest
compares digests, and a changed character ends in `code_changed`. Nothing here is a template field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseOperator

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Input, Limits, Output, Param, Step
from ppml_airflow.errors import ConfigurationError, PpmlError
from ppml_airflow.operators.errors import airflow_errors
from ppml_airflow.operators.hook import PpmlHook
from ppml_airflow.operators.launches import describe_event, launch_request, require_not_refused
from ppml_airflow.operators.runs import open_run
from ppml_airflow.units import spell_trust
from ppml_airflow.workloads.spark.settings import CHOSEN_BY_STEP, MINIMUM_MEMORY_MIB

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ppml_airflow.enclaves.runtimes.runtime import EnclaveRuntime
    from ppml_airflow.protocol.client import BrokerClient
    from ppml_airflow.protocol.launches import GuestEvent
    from ppml_airflow.protocol.messages import StepStatus

QUERY_FILE = "query.sql"
_MEMORY = re.compile(r"^([1-9]\d{0,6})([mg])$")
_KILL_TIMEOUT_S = 3.0


class TrustedSparkSubmitOperator(BaseOperator):
    """Run one approved step in an enclave and return `{run_id, step, attempt, outputs: {dataset: manifest digest}}`.

    The step's name is the task_id. A step that is committed already returns the same reference: clearing the task does
    no harm. Exactly one of `sql` and `application`.

    Args:
        outputs: dataset -> holders of recipient certificates who may open it.
        inputs: datasets; views of these names in SQL.
        sql: one query; `:name` stands for the param of that name.
        application: path of a .py file, relative to the DAG file.
        py_files: more .py files that the application imports.
        application_args: arguments; an element `{name}` is replaced whole by the param of that name.
        output_files: number of parts of each output, fixed so that it says nothing of the data.
        image: the trusted image.
        policy: name of the owner's policy that evidence is judged by.
        runtime: where the enclave runs: `process`.
        driver_memory: at most this much memory, such as `2g` or `1500m`.
        cores: at most so many cores.
        time_limit_s: at most so long.
        conf: settings of Spark, of those that a step may choose.
        pipeline: name of the approved pipeline; the dag_id if None.
        ppml_conn_id: the connection.
    """

    ui_color = "#e8e4f5"

    def __init__(
        self,
        *,
        outputs: Mapping[str, Sequence[str]],
        inputs: Sequence[str] = (),
        sql: str | None = None,
        application: str | None = None,
        py_files: Sequence[str] = (),
        application_args: Sequence[str] = (),
        output_files: int = 1,
        image: str = "spark",
        policy: str = "default",
        runtime: str = "process",
        driver_memory: str = "2g",
        cores: int = 2,
        time_limit_s: int = 3600,
        conf: Mapping[str, str] | None = None,
        pipeline: str | None = None,
        ppml_conn_id: str = PpmlHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _require_shape(sql=sql, application=application, py_files=py_files, arguments=application_args)
        if sql is not None and len(outputs) != 1:
            raise ConfigurationError(f"sql= writes one output; outputs= has {len(outputs)}")
        unknown = sorted(set(conf or {}) - CHOSEN_BY_STEP)
        if unknown:
            allowed = ", ".join(sorted(CHOSEN_BY_STEP))
            raise ConfigurationError(f"conf {unknown[0]} is not allowed", hint=f"allowed: {allowed}")
        self.inputs = tuple(inputs)
        self.outputs_to: Mapping[str, tuple[str, ...]] = {
            dataset: tuple(recipients) for dataset, recipients in outputs.items()
        }
        self.sql = sql
        self.application = application
        self.py_files = tuple(py_files)
        self.application_args = tuple(application_args)
        self.output_files = output_files
        self.image = image
        self.policy = policy
        self.runtime = runtime
        self.limits = Limits(wall_s=time_limit_s, memory_mib=_mebibytes(driver_memory), cores=cores)
        self.conf = dict(conf or {})
        self.pipeline = pipeline
        self.ppml_conn_id = ppml_conn_id
        self._at_work: tuple[EnclaveRuntime, PpmlHook, str] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Open the run, start the guest, hold the connection until it is done, return the reference."""
        with airflow_errors(self.dag.fileloc):
            hook = PpmlHook(self.ppml_conn_id)
            with hook.broker() as broker:
                run = open_run(broker, context=context, pipeline=self.pipeline, patience_s=hook.patience_s)
                status = broker.status(run.run_id, self.task_id)
                if status.state != "committed":
                    status = self._run(run.run_id, hook=hook, broker=broker)
                return self._reference(status)

    def on_kill(self) -> None:
        """Close the connection, which ends the guest, and fence the attempt at the broker."""
        if self._at_work is None:
            return
        runtime, hook, run_id = self._at_work
        runtime.close()
        try:
            with hook.broker(timeout_s=_KILL_TIMEOUT_S) as broker:
                broker.cancel(run_id, self.task_id)
        except PpmlError as error:
            self.log.warning("step %s is not cancelled at the broker: %s", self.task_id, error)

    def code_files(self) -> dict[str, bytes]:
        """The code by the names that the approval lists; the first one is the program.

        Raises:
            ConfigurationError: a file cannot be read, or two have the same name.
        """
        if self.sql is not None:
            return {QUERY_FILE: self.sql.encode()}
        folder = Path(self.dag.fileloc).parent
        files: dict[str, bytes] = {}
        for name in (str(self.application), *self.py_files):
            path = folder / name
            if path.name in files:
                raise ConfigurationError(f"step {self.task_id} has two files called {path.name}")
            try:
                files[path.name] = path.read_bytes()
            except OSError as error:
                raise ConfigurationError(f"file {path} cannot be read: {error.strerror}") from error
        return files

    def compiled_step(
        self,
        *,
        params: Mapping[str, Param],
        inputs: tuple[Input, ...],
        gates: tuple[Literal["before", "after"], ...],
        log_recipients: tuple[str, ...],
    ) -> Step:
        """The step as an approval lists it."""
        code = self.code_files()
        return Step(
            name=self.task_id,
            kind="fixed",
            image=self.image,
            workload="spark-python" if self.sql is None else "spark-sql",
            code={name: canonical.digest_bytes(content) for name, content in code.items()},
            argv=(next(iter(code)), *self.application_args),
            params=params,
            environment=self.conf,
            inputs=inputs,
            outputs=tuple(
                Output(dataset=dataset, recipients=recipients, files=self.output_files)
                for dataset, recipients in self.outputs_to.items()
            ),
            log_recipients=log_recipients,
            disclosed=(),
            gates=gates,
            policy=self.policy,
            attempts=(self.retries or 0) + 1,
            limits=self.limits,
        )

    def _run(self, run_id: str, *, hook: PpmlHook, broker: BrokerClient) -> StepStatus:
        request = launch_request(self, role="job", run_id=run_id, hook=hook, broker=broker)
        runtime = hook.runtime(self.runtime)
        self._at_work = (runtime, hook, run_id)
        runtime.run(request, on_event=self._show)
        self._at_work = None
        return broker.status(run_id, self.task_id)

    def _show(self, event: GuestEvent) -> None:
        self.log.info("step %s: %s", self.task_id, describe_event(event))

    def _reference(self, status: StepStatus) -> dict[str, Any]:
        require_not_refused(status)
        if status.state != "committed":
            raise PpmlError(f"step {status.step} ended, but the broker holds no receipt", code="not_committed")
        self.log.info(
            "step %s is committed, attempt %d, trust: %s", status.step, status.attempt, spell_trust(status.trust)
        )
        return {
            "run_id": status.run_id,
            "step": status.step,
            "attempt": status.attempt,
            "outputs": {output.dataset: output.manifest for output in status.outputs},
        }


def _require_shape(
    *, sql: str | None, application: str | None, py_files: Sequence[str], arguments: Sequence[str]
) -> None:
    if (sql is None) == (application is None):
        raise ConfigurationError("TrustedSparkSubmitOperator wants exactly one of sql= and application=")
    if sql is not None and (py_files or arguments):
        raise ConfigurationError("py_files= and application_args= go with application=, not with sql=")
    for name in (application, *py_files):
        if name is not None and not name.endswith(".py"):
            raise ConfigurationError(f"file {name} is not a .py file")
    for text in (sql or "", *arguments):
        if "{{" in text or "{%" in text:
            raise ConfigurationError(
                "a template in approved code would make it another code every night",
                code="template",
                hint="write :name in SQL, or '{name}' as an argument, and declare name in the DAG's params",
            )


def _mebibytes(memory: str) -> int:
    match = _MEMORY.match(memory)
    found = int(match[1]) * (1024 if match[2] == "g" else 1) if match else 0
    if found < MINIMUM_MEMORY_MIB:
        raise ConfigurationError(f"driver_memory is {memory!r}; wanted something like 2g or 1500m, at least 1g")
    return found
