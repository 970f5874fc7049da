"""Workload `spark-sql`: one query over granted tables, written to one output.

The statement is the file that `argv` names. Before the lease it is judged on Spark's parsed plan, against the
allow-lists in `jvm/resources`, and analysed over empty tables with the manifests' columns; after it the same query
runs over the sealed parts, in the same Java machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ppml_airflow.errors import ConfigurationError, UnavailableError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.workloads.guest_socket import Connection, input_links
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobKeys, JobResult, WorkloadJob
from ppml_airflow.workloads.params import typed_literals
from ppml_airflow.workloads.spark.outputs import collect_output
from ppml_airflow.workloads.spark.process import SparkDriver
from ppml_airflow.workloads.spark.types import arrow_columns, spark_schema
from ppml_airflow.workloads.statements import load_statement, statement_error
from ppml_airflow.workloads.vocabulary import Outcome, outcome_of

_HEAP_SHARE = 0.7
_START_S = 120.0


class SparkSql:
    """Runs one SQL job; see `job.Workload`."""

    def __init__(self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path) -> None:
        if len(job.argv) != 1 or len(job.outputs) != 1:
            raise ConfigurationError(
                f"spark-sql step has argv {list(job.argv)} and {len(job.outputs)} outputs; wanted the name of the"
                " file with the query, and one output"
            )
        self._job = job
        self._views = [
            {"name": table.view, "schema": spark_schema(table.columns, view=table.view)} for table in job.inputs
        ]
        self._process = SparkDriver(job, installation=installation, private=private, log=log, heap_share=_HEAP_SHARE)
        self._control: Connection | None = None
        self._columns: tuple[Column, ...] = ()
        self._is_prepared = False

    def prepare(self) -> Mapping[str, tuple[Column, ...]]:
        """Start Java, judge and analyse the statement; return the columns of the output.

        Raises:
            ConfigurationError: code `sql_syntax`, `sql_refused`, `unknown_table`, `unknown_column`,
                `unknown_parameter` or `sql_invalid`; says what, where and what would be right.
            UnavailableError: Java did not start in time.
        """
        self._columns = self.judge(load_statement(self._job))
        self._is_prepared = True
        return {self._job.outputs[0].dataset: self._columns}

    def judge(self, statement: str) -> tuple[Column, ...]:
        """Judge any statement over this job's tables. The job's own must then be prepared again before it runs.

        Raises:
            ConfigurationError: as `prepare`.
        """
        self._is_prepared = False
        if self._control is None:
            self._control = self._started()
        answer = self._ask(
            self._control,
            {"op": "judge", "sql": statement, "views": self._views, "params": typed_literals(self._job.params)},
        )
        if "error" in answer:
            raise statement_error(answer["error"], job=self._job)
        return arrow_columns(answer["columns"], dataset=self._job.outputs[0].dataset)

    def run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        """Run the prepared query; see `job.Workload`."""
        return self._process.answered(lambda: self._run(keys=keys, on_progress=on_progress))

    def cancel(self) -> None:
        """Make a `run` in another thread end with `cancelled`."""
        self._process.cancel()

    def close(self) -> None:
        """Kill what still runs. May be called twice."""
        if self._control is not None:
            self._control.close()
        self._process.close()

    def _run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        output = self._job.outputs[0]
        folder = self._process.private / "output" / output.dataset
        self._process.arm(keys, on_progress=on_progress)
        with self._process.leading(keys):
            outcome = self._command(
                {"op": "run", "inputs": self._input_paths(), "folder": str(folder), "files": output.files}
            )
        if outcome != "ok":
            return JobResult(outcome=outcome)
        parts = collect_output(folder, output=output, columns=self._columns, keys=keys)
        on_progress(100)
        return JobResult(outcome="ok", outputs={output.dataset: parts})

    def _input_paths(self) -> dict[str, list[str]]:
        return {
            table.view: [str(link) for link in input_links(self._process.private, inputs=(table,))]
            for table in self._job.inputs
        }

    def _command(self, message: Mapping[str, Any]) -> Outcome:
        if self._control is None or not self._is_prepared:
            raise ConfigurationError("spark-sql job was not prepared")
        self._control.send(message)
        try:
            answer = self._control.receive(timeout_s=self._process.remaining_s() or 0.001)
        except TimeoutError:
            self._process.kill()
            return "limit_time"
        if answer is None:
            return self._process.end()
        return "ok" if answer.get("done") is True else outcome_of(answer.get("failed"))

    # ------------------------------------------------------------------------------------------ phase 1

    def _started(self) -> Connection:
        self._process.start_java(["ppml.spark.SqlJob", str(self._process.settings_file)])
        control = self._process.await_control(timeout_s=_START_S)
        self._expect(control)
        return control

    def _ask(self, control: Connection, message: Mapping[str, Any]) -> dict[str, Any]:
        control.send(message)
        return self._expect(control)

    def _expect(self, control: Connection) -> dict[str, Any]:
        try:
            answer = control.receive(timeout_s=_START_S)
        except TimeoutError as error:
            raise UnavailableError(f"spark did not answer within {_START_S:.0f} s") from error
        if answer is None:
            raise ConfigurationError(f"spark ended while it started: {self._process.log_tail()}")
        return answer
