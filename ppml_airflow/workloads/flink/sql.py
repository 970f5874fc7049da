"""Workload `flink-sql`: one query over granted streams and tables, written to one output.

The statement is the file that `argv` names. Before the lease it is parsed by Flink's own parser, judged against the
allow-lists in `jvm/resources`, validated and planned over streams with the manifests' columns; after it that very plan
runs over the sealed frames. Rows that a query takes back (a count that goes up) leave the last state alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ppml_airflow.errors import ConfigurationError, UnavailableError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.workloads.flink.cluster import FlinkCluster
from ppml_airflow.workloads.flink.settings import event_times
from ppml_airflow.workloads.guest_socket import Connection
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobKeys, JobResult, WorkloadJob
from ppml_airflow.workloads.params import typed_literals
from ppml_airflow.workloads.statements import load_statement, statement_error
from ppml_airflow.workloads.vocabulary import Outcome, outcome_of

_START_S = 120.0
_LOSS_S = 1.0


class FlinkSql:
    """Runs one SQL job; see `job.Workload`."""

    def __init__(self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path) -> None:
        if len(job.argv) != 1 or len(job.outputs) != 1 or job.folders or job.files:
            raise ConfigurationError(
                f"flink-sql step has argv {list(job.argv)} and {len(job.outputs)} outputs; wanted the name of the"
                " file with the query, and one output that is a table or a stream"
            )
        self._job = job
        self._times = event_times(job.environment, views=tuple(table.view for table in job.inputs))
        self._cluster = FlinkCluster(job, installation=installation, private=private, log=log)
        self._control: Connection | None = None
        self._columns: tuple[Column, ...] = ()

    def prepare(self) -> Mapping[str, tuple[Column, ...]]:
        """Start the cluster, judge and plan the statement; return the columns of the output.

        Raises:
            ConfigurationError: code `sql_syntax`, `sql_refused`, `unknown_table`, `unknown_column`,
                `unknown_parameter`, `no_event_time`, `unfit_input` or `sql_invalid`; says what, where, and what would
                be right.
            UnavailableError: Flink did not start in time.
        """
        self._columns = self.judge(load_statement(self._job))
        return {self._job.outputs[0].dataset: self._columns}

    def judge(self, statement: str) -> tuple[Column, ...]:
        """Judge any statement over this job's streams. The job's own must then be prepared again before it runs.

        Raises:
            ConfigurationError: as `prepare`.
        """
        self._columns = ()
        views = self._cluster.streams.views(times=self._times)
        if self._control is None:
            self._cluster.start_cluster("ppml.flink.SqlJob")
            self._control = self._cluster.await_control(timeout_s=_START_S)
            self._expect(self._control)
        self._control.send(
            {
                "op": "judge",
                "sql": statement,
                "views": views,
                "params": typed_literals(self._job.params),
                "folder": self._cluster.streams.folder(self._job.outputs[0]),
            }
        )
        answer = self._expect(self._control)
        if "error" in answer:
            raise statement_error(answer["error"], job=self._job)
        return tuple(Column(name=column["name"], type=column["type"]) for column in answer["columns"])

    def run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        """Run the prepared query; see `job.Workload`."""
        return self._cluster.answered(lambda: self._run(keys=keys, on_progress=on_progress))

    def cancel(self) -> None:
        """Make a `run` in another thread end with `cancelled`."""
        self._cluster.cancel()

    def close(self) -> None:
        """Kill what still runs. May be called twice."""
        if self._control is not None:
            self._control.close()
        self._cluster.close()

    def _run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        output = self._job.outputs[0]
        self._cluster.arm(keys, on_progress=on_progress)
        self._cluster.lead(keys)
        outcome = self._cluster.finish(self._command({"op": "run"}), keys=keys)
        if outcome != "ok":
            return JobResult(outcome=outcome)
        parts = self._cluster.streams.collect(output, columns=self._columns, keys=keys)
        on_progress(100)
        return JobResult(outcome="ok", outputs={output.dataset: parts})

    def _command(self, message: Mapping[str, Any]) -> Outcome:
        if self._control is None or not self._columns:
            raise ConfigurationError("flink-sql job was not prepared")
        self._control.send(message)
        try:
            answer = self._control.receive(timeout_s=self._cluster.remaining_s() or 0.001)
        except TimeoutError:
            self._cluster.kill()
            return "limit_time"
        if answer is not None and answer.get("done") is True:
            return "ok"
        # A job fails as well when the TaskManager is gone, which is the better word for it.
        if answer is None or self._cluster.loses_worker(within_s=_LOSS_S):
            return self._cluster.end()
        return outcome_of(answer.get("failed"))

    # ------------------------------------------------------------------------------------------ phase 1

    def _expect(self, control: Connection) -> dict[str, Any]:
        try:
            answer = control.receive(timeout_s=_START_S)
        except TimeoutError as error:
            raise UnavailableError(f"flink did not answer within {_START_S:.0f} s") from error
        if answer is None:
            raise ConfigurationError(f"flink ended while it started: {self._cluster.log_tail()}")
        return answer
