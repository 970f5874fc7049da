"""How Spark is configured in an enclave: the settings file, the options of the Java machine, the environment.

Everything runs in one process on one host, in a set in one process of each member; it listens on the loopback interface
only, authenticates and encrypts what it sends and spills, keeps no user interface, event log or metrics, reads and
writes local files through `ConfinedFileSystem` and Parquet through `GuestKeys`. No key of data is in a setting, and
nothing secret in an argument or the environment, which is empty but for what Spark needs and what the approved step
lists.

Source: https://spark.apache.org/docs/4.0.0/security.html and configuration.html; module options as in
`org.apache.spark.launcher.JavaModuleOptions` of Spark 4.3.0.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

from ppml_airflow.domain.documents import Limits
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.units import MIB
from ppml_airflow.workloads.environment import process_environment
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.spark.choices import CHOICES

MINIMUM_MEMORY_MIB = 1024

SHORT_INPUT_BYTES = 32 * MIB
"""Up to so much sealed input, Java's optimising compiler and its parallel collector cost more than they give: measured,
a job over 4 MB ends in half the time without them, one over 95 MB takes twice as long."""

MODULE_OPTIONS = (
    "-XX:+IgnoreUnrecognizedVMOptions",
    "--add-modules=jdk.incubator.vector",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.lang.invoke=ALL-UNNAMED",
    "--add-opens=java.base/java.lang.reflect=ALL-UNNAMED",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/java.net=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent.atomic=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.cs=ALL-UNNAMED",
    "--add-opens=java.base/sun.security.action=ALL-UNNAMED",
    "--add-opens=java.base/sun.util.calendar=ALL-UNNAMED",
    "--add-opens=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    "-Dio.netty.tryReflectionSetAccessible=true",
    "-Dio.netty.allocator.type=pooled",
    "-Dio.netty.handler.ssl.defaultEndpointVerificationAlgorithm=NONE",
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
)

_KEY = "spark.authenticate.secret"

REFUSED_SCHEMES = (
    *("abfs", "ftp", "gs", "har", "hdfs", "http", "https", "nullscan"),
    *("pfile", "s3a", "sftp", "swebhdfs", "viewfs", "webhdfs"),
)
"""File systems that Hadoop's jars register, or would with one more jar."""

_SETTINGS = {
    # Confinement.
    "spark.hadoop.fs.defaultFS": "file:///",
    "spark.hadoop.fs.file.impl": "ppml.spark.ConfinedFileSystem",
    **{f"spark.hadoop.fs.{scheme}.impl": "ppml.spark.ConfinedFileSystem$Refused" for scheme in REFUSED_SCHEMES},
    "spark.hadoop.parquet.crypto.factory.class": "ppml.spark.GuestKeys",
    "spark.sql.sources.default": "parquet",
    # Speech, on the network and on disk.
    "spark.authenticate": "true",
    "spark.network.crypto.enabled": "true",
    "spark.network.crypto.cipher": "AES/GCM/NoPadding",
    "spark.network.crypto.authEngineVersion": "2",
    "spark.network.crypto.saslFallback": "false",
    "spark.io.encryption.enabled": "true",
    "spark.io.encryption.keySizeBits": "256",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.eventLog.enabled": "false",
    "spark.executor.processTreeMetrics.enabled": "false",
    "spark.metrics.appStatusSource.enabled": "false",
    # What queries mean.
    "spark.sql.ansi.enabled": "true",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.catalogImplementation": "in-memory",
    "spark.sql.runSQLOnFiles": "false",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
    "spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED",
    # A sorted result keeps the order of its partitions when they are merged into parts.
    "spark.shuffle.reduceLocality.enabled": "false",
    # Two parts never share a name, and none is written twice.
    "spark.speculation": "false",
    "spark.task.maxFailures": "1",
}


def spark_settings(
    private: Path, *, limits: Limits, approved: Mapping[str, str], members: int, key: bytes
) -> dict[str, str]:
    """The settings of one job.

    Args:
        private: the driver's private directory.
        limits: of the step; in a set each member has so much.
        approved: the step's environment, of which only `CHOICES` are settings.
        members: how many enclaves do the job.
        key: under which they speak to each other (32 bytes).
    """
    cores = limits.cores * max(1, members - 1)
    return (
        _SETTINGS
        | {
            "spark.master": f"local[{cores}]",
            "spark.app.name": "ppml",
            "spark.sql.shuffle.partitions": str(max(4, 2 * cores)),
            "spark.default.parallelism": str(cores),
            "spark.hadoop.ppml.private": str(private),
            "spark.sql.warehouse.dir": str(private / "warehouse"),
        }
        | (_of_set(key) if members > 1 else {})
        | {name: value for name, value in approved.items() if name in CHOICES}
    )


def _of_set(key: bytes) -> dict[str, str]:
    return {
        "spark.master": "spark-set",
        _KEY: _spoken(key),
        # A task that was lost with its member is done by another, or by the one that replaces it.
        "spark.task.maxFailures": "4",
        # Results go through the driver; what bounds them is its memory.
        "spark.driver.maxResultSize": "0",
    }


def _spoken(key: bytes) -> str:
    return base64.b64encode(key).decode()


def executor_options(key: bytes) -> str:
    """The file of options with which an executor's Java machine can speak to the driver, which tells it the others.

    A file of mode 0600, read by `java @FILE`: the key (32 bytes) stands in no argument.
    """
    needed = {
        name: value for name, value in _SETTINGS.items() if name.startswith(("spark.authenticate", "spark.network"))
    }
    needed[_KEY] = _spoken(key)
    return "".join(f"-D{name}={value}\n" for name, value in needed.items())


def format_properties(settings: Mapping[str, str]) -> str:
    """Write settings as a Java properties file, UTF-8."""
    escaped = {name: value.replace("\\", "\\\\").replace("\n", "\\n") for name, value in settings.items()}
    return "".join(f"{name}={escaped[name]}\n" for name in sorted(escaped))


LOG_SETTINGS = """\
status = error
rootLogger.level = warn
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n%ex
"""


def java_options(private: Path, *, limits: Limits, heap_share: float, input_bytes: int) -> list[str]:
    """Options of the Java machine: as much heap as the step's memory allows, no traces outside the private directory.

    Args:
        private: the job's private directory.
        limits: of the step.
        heap_share: the part of the memory that the heap may take.
        input_bytes: size of all sealed inputs.

    Raises:
        ConfigurationError: the step allows less memory than Spark starts with.
    """
    if limits.memory_mib < MINIMUM_MEMORY_MIB:
        raise ConfigurationError(
            f"limits.memory_mib is {limits.memory_mib}; Spark needs at least {MINIMUM_MEMORY_MIB}",
            hint="raise the limit of the step and have it approved again",
        )
    short = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"] if input_bytes <= SHORT_INPUT_BYTES else []
    return [
        *MODULE_OPTIONS,
        *short,
        f"-Xmx{int(limits.memory_mib * heap_share)}m",
        f"-XX:ActiveProcessorCount={limits.cores}",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:+DisableAttachMechanism",
        "-XX:-UsePerfData",
        f"-XX:ErrorFile={private / 'tmp' / 'java-error'}",
        f"-Djava.io.tmpdir={private / 'tmp'}",
        "-Duser.timezone=UTC",
        "-Dfile.encoding=UTF-8",
        f"-Dlog4j2.configurationFile={(private / 'conf' / 'log4j2.properties').as_uri()}",
    ]


def job_environment(
    private: Path, *, installation: ImageInstallation, code: Path, approved: Mapping[str, str]
) -> dict[str, str]:
    """The environment of a job's processes: nothing inherited.

    Raises:
        ConfigurationError: the step lists a variable that would change what code runs.
    """
    variables = {name: value for name, value in approved.items() if name not in CHOICES}
    return process_environment(private, installation=installation, code=code, approved=variables) | {
        "SPARK_HOME": str(installation.package("pyspark")),
        "SPARK_CONF_DIR": str(private / "conf"),
        "SPARK_LOCAL_DIRS": str(private / "tmp"),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_HOSTNAME": "localhost",
        "PYSPARK_PYTHON": str(installation.python),
        "PYSPARK_DRIVER_PYTHON": str(installation.python),
    }
