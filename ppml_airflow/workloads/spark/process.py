"""The Java machines of one job: the driver, and in a set of enclaves the executor of a member that does not lead.

The process is `java` itself, started through the supervisor so that it dies with the guest; no shell and no
`spark-submit` script.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ppml_airflow.workloads.guest_socket import GuestSocket
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobKeys, WorkloadJob, require_tables
from ppml_airflow.workloads.process import JobProcess, write_private
from ppml_airflow.workloads.spark import settings
from ppml_airflow.workloads.spark.sets import DriverSocket

JAR = "ppml-spark.jar"
_EXIT_OUT_OF_MEMORY = 3


class SparkProcess(JobProcess):
    """Starts, watches and ends a Java machine of one job.

    Args:
        job: what to run.
        installation: Spark, Java, our jar.
        private: an existing directory of the guest's own; what is in it is inside the enclave.
        log: file to which all text of the job's processes is appended; the guest seals it.
        heap_share: the part of the step's memory that Java's heap may take.
    """

    def __init__(
        self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path, heap_share: float
    ) -> None:
        require_spark(installation)
        require_tables(job, engine="Spark")
        self._installation = installation
        self._options = settings.java_options(
            private.resolve(),
            limits=job.limits,
            heap_share=heap_share,
            input_bytes=sum(table.sealed_bytes for table in job.inputs),
        )
        environment = settings.job_environment(
            private.resolve(), installation=installation, code=job.code, approved=job.environment
        )
        super().__init__(job, environment=environment, private=private, log=log, name="java")
        write_private(self.private / "conf" / "log4j2.properties", settings.LOG_SETTINGS)

    def start_java(self, arguments: Sequence[str], *, options: Sequence[str] = ()) -> None:
        """Start Java with a main class and its arguments. The step's time runs from here.

        Args:
            arguments: main class and arguments.
            options: of the Java machine, beside those that the step's limits give.

        Raises:
            ConfigurationError: called twice.
        """
        jars = os.pathsep.join(map(str, (self._installation.jars / JAR, _spark_jars(self._installation) / "*")))
        self.start([str(self._installation.java), *self._options, *options, "-cp", jars, *arguments])

    def _is_out_of_memory(self, code: int | None) -> bool:
        return code == _EXIT_OUT_OF_MEMORY and "OutOfMemoryError" in self.log_tail()


class SparkDriver(SparkProcess):
    """The driver: all of Spark, or in a set the leader's part of it. Arguments as of `SparkProcess`."""

    socket: DriverSocket

    def __init__(
        self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path, heap_share: float
    ) -> None:
        super().__init__(job, installation=installation, private=private, log=log, heap_share=heap_share)
        chosen = settings.spark_settings(
            self.private, limits=job.limits, approved=job.environment, members=job.members, key=self.socket.key
        )
        write_private(self.settings_file, settings.format_properties(chosen))

    @property
    def settings_file(self) -> Path:
        """Spark's settings: a file of mode 0600, never the command line."""
        return self.private / "conf" / "spark-defaults.conf"

    @contextlib.contextmanager
    def leading(self, keys: JobKeys) -> Iterator[None]:
        """Lead the members of a set while the driver works, and end it with the block. Nothing without a set."""
        if keys.cluster is None:
            yield
            return
        with self.socket.leading(keys.cluster):
            yield
        self.kill()

    def _listen(self) -> GuestSocket:
        return DriverSocket(self.private, job=self.job)


def require_spark(installation: ImageInstallation) -> None:
    """Refuse an image that cannot start Spark.

    Raises:
        ConfigurationError: names the missing file.
    """
    installation.require(installation.java, installation.jars / JAR, installation.python, _spark_jars(installation))


def _spark_jars(installation: ImageInstallation) -> Path:
    return installation.package("pyspark") / "jars"
