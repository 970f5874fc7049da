"""The Flink cluster of one job: a JobManager and a TaskManager, two Java machines that live and die with the guest.

Each is `java` itself, started through a supervisor of its own; no shell and no script of Flink's. The JobManager runs
the job's program (application mode), so nothing is submitted to anybody. In the private directory lie, beside what
every job has there, the key of the cluster's TLS and Flink's settings (`conf/`, each 0600) and its state, in plaintext
(`checkpoints/`): it never leaves that directory, which ends with the guest.

In a set the leader has the JobManager, and every other member a TaskManager (`flink.task_manager`). The leader's guest
tells them, in a sealed message, how to come to it and under which keys; at the end they hand over what their subtasks
wrote.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from ppml_airflow import canonical
from ppml_airflow.units import MIB
from ppml_airflow.workloads.cluster import END, START
from ppml_airflow.workloads.flink import settings
from ppml_airflow.workloads.flink.sets import JobManager, hear_segments
from ppml_airflow.workloads.flink.streams import JobStreams, StreamSocket
from ppml_airflow.workloads.flink.tls import make_key_store
from ppml_airflow.workloads.guest_socket import GuestSocket
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobKeys, WorkloadJob
from ppml_airflow.workloads.process import JobProcess, write_private
from ppml_airflow.workloads.vocabulary import Outcome

JAR, PLANNER_JAR = "ppml-flink.jar", "flink-table-planner.jar"
_JOB_MANAGER = "org.apache.flink.container.entrypoint.StandaloneApplicationClusterEntryPoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_EXIT_OUT_OF_MEMORY = 3
_EXIT_KILLED = 128 + 9
_STOP_S = 10.0


class FlinkProcess(JobProcess):
    """Starts, watches and ends Java machines of one job.

    Args:
        job: what to run.
        installation: Flink, Java, our jars.
        private: an existing directory of the guest's own; what is in it is inside the enclave.
        log: file to which all text of the job's processes is appended; the guest seals it.
    """

    def __init__(self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path) -> None:
        self._java = str(installation.java)
        self._python = installation.python
        self._class_path = class_path(installation)
        self.streams = JobStreams(private.resolve(), job=job)
        environment = settings.job_environment(
            private.resolve(), installation=installation, code=job.code, approved=job.environment
        )
        sealed = sum(part.stat().st_size for table in job.inputs for part in table.parts if part.exists())
        self._worker_options = settings.task_manager_options(private.resolve(), limits=job.limits, input_bytes=sealed)
        super().__init__(job, environment=environment, private=private, log=log, name="flink")

    def write_settings(self, manager: JobManager) -> None:
        """Write Flink's settings, and the key of the cluster's TLS."""
        (self.private / "checkpoints").mkdir(mode=0o700)
        write_private(self.private / "conf" / "tls.p12", manager.key_store)
        chosen = settings.flink_settings(
            self.private,
            limits=self.job.limits,
            approved=self.job.environment,
            rpc_port=manager.rpc_port,
            python=self._python,
            members=self.job.members,
        )
        text = settings.format_settings({**chosen, **settings.tls_passwords(manager.password)})
        write_private(self.private / "conf" / "config.yaml", text)
        write_private(self.private / "conf" / "log4j2.properties", settings.LOG_SETTINGS)

    def worker(self) -> list[str]:
        """The command of a TaskManager."""
        return self._command(_TASK_MANAGER, options=self._worker_options)

    def _command(self, main: str, *, options: Sequence[str]) -> list[str]:
        return [self._java, *options, "-cp", self._class_path, main, "--configDir", str(self.private / "conf")]

    def _listen(self) -> GuestSocket:
        return StreamSocket(self.private, job=self.job, streams=self.streams)

    def _is_out_of_memory(self, code: int | None) -> bool:
        return code == _EXIT_OUT_OF_MEMORY and "OutOfMemoryError" in self.log_tail()


class FlinkCluster(FlinkProcess):
    """The JobManager and, unless members of a set have them, its TaskManager. Arguments as of `FlinkProcess`."""

    def __init__(self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path) -> None:
        super().__init__(job, installation=installation, private=private, log=log)
        self._worker: subprocess.Popen[bytes] | None = None
        self._worker_is_lost = threading.Event()
        self._is_ending = threading.Event()
        key_store, password = make_key_store()
        self._manager = JobManager(
            rpc_port=_free_port(), key_store=key_store, password=password, inside_key=self.streams.key
        )
        self.write_settings(self._manager)

    def start_cluster(self, program: str, arguments: Sequence[str] = ()) -> None:
        """Start the machines; the JobManager runs the program, a class with a main method. The step's time runs.

        Raises:
            ConfigurationError: called twice.
        """
        manager = self._command(_JOB_MANAGER, options=settings.job_manager_options(self.private))
        self.start([*manager, "--job-classname", program, *arguments])
        if self.job.members == 1:
            self._worker = self._spawn(self.worker())
            threading.Thread(target=self._watch, args=(self._worker,), name="task-manager", daemon=True).start()

    def lead(self, keys: JobKeys) -> None:
        """Tell the other members of a set how to come to the JobManager; nothing without a set."""
        if keys.cluster is not None:
            keys.cluster.post(canonical.encode(self._manager), turn=START)

    def finish(self, outcome: Outcome, *, keys: JobKeys) -> Outcome:
        """Tell the members that it is over, and take what their subtasks wrote if the job is done.

        Raises:
            VerificationError: a member hands over what no subtask of it can have written.
            ConfigurationError: one hands over nothing within the step's time, or too much.
        """
        if keys.cluster is not None:
            keys.cluster.post(outcome.encode(), turn=END)
            if outcome == "ok":
                limit = self.job.limits.memory_mib * MIB
                for segment in hear_segments(keys.cluster, limit=limit, is_over=self._is_over):
                    self.streams.take(segment)
        return outcome

    def loses_worker(self, *, within_s: float) -> bool:
        """Whether the TaskManager was gone before it should, or is within so many seconds."""
        return self._worker_is_lost.wait(timeout=within_s)

    def end(self) -> Outcome:
        """Why the cluster ended; what is left of it is killed."""
        outcome = super().end()
        if self._worker_is_lost.is_set() and self._worker is not None and outcome != "cancelled":
            is_memory = self._worker.poll() in (_EXIT_KILLED, _EXIT_OUT_OF_MEMORY)
            outcome = "out_of_memory" if is_memory else "job_failed"
        self.kill()
        return outcome

    def kill(self) -> None:
        """Kill both machines and all their descendants, now."""
        self._is_ending.set()
        if self._worker is not None and self._worker.stdin is not None:
            with contextlib.suppress(OSError):
                self._worker.stdin.close()
        super().kill()
        if self._worker is not None:
            try:
                self._worker.wait(timeout=_STOP_S)
            except subprocess.TimeoutExpired:
                self._worker.kill()
                self._worker.wait()

    def _watch(self, worker: subprocess.Popen[bytes]) -> None:
        """End the JobManager with its TaskManager: alone it would wait for minutes."""
        worker.wait()
        if not self._is_ending.is_set():
            self._worker_is_lost.set()
            super().kill()

    def _is_over(self) -> bool:
        return self.is_cancelled or self.remaining_s() == 0


def class_path(installation: ImageInstallation) -> str:
    """Our jar and Flink's own planner first. The planner's loader is left out: it hides the planner from our judge."""
    package = installation.package("pyflink")
    jars = sorted(jar for jar in (package / "lib").glob("*.jar") if not jar.name.startswith("flink-table-planner-load"))
    python = sorted((package / "opt").glob("flink-python-*.jar"))
    own = [installation.jars / JAR, installation.jars / PLANNER_JAR]
    installation.require(installation.java, *own)
    return os.pathsep.join(str(jar) for jar in (*own, *jars, *python))


def _free_port() -> int:
    """A port for the JobManager, which its TaskManager has to know. Whoever takes it first has no key to speak with."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
