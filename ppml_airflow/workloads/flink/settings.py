"""How Flink is configured in an enclave: its settings file, the options of its Java machines, their environment.

A cluster of one JobManager, which runs the job's own program (application mode), and one TaskManager; in a set one in
each member but the leader. All listen on the loopback interface only and speak TLS 1.3 to each other, with a key made
for this job and known to nobody else. Nobody can submit code, nothing is restarted; state, checkpoints and temporary
files lie in private directories. The settings file holds the password of the key store, so it is 0600 and in the
private directory too; no key of data, and nothing secret, is in an argument or the environment.

Source: https://nightlies.apache.org/flink/flink-docs-release-2.3/docs/deployment/config/ and security/security-ssl/;
module options as in `conf/config.yaml` of Flink 2.3.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ppml_airflow.domain.documents import Limits
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.units import MIB
from ppml_airflow.workloads.environment import process_environment
from ppml_airflow.workloads.installation import ImageInstallation

MINIMUM_MEMORY_MIB = 1536

SHORT_INPUT_BYTES = 32 * MIB
"""Up to so much sealed input, Java's optimising compiler costs more than it gives."""

CHOSEN_BY_STEP = frozenset(
    {
        "execution.checkpointing.interval",
        "pipeline.auto-watermark-interval",
        "python.fn-execution.bundle.size",
        "table.exec.mini-batch.allow-latency",
        "table.exec.mini-batch.enabled",
        "table.exec.mini-batch.size",
        "table.exec.source.idle-timeout",
        "table.exec.state.ttl",
    }
)
"""Settings that a step may choose: an approved environment entry of such a name goes to Flink, not to the process."""

EVENT_TIME = "event_time."
"""An approved environment entry `event_time.DATASET` names the column and, after a space, how many seconds records may
come out of order."""

_JOB_MANAGER_HEAP_MIB = 384
_JOB_MANAGER_MIB = 640
_FRAMEWORK_HEAP_MIB, _FRAMEWORK_DIRECT_MIB, _NETWORK_MIB = 128, 128, 64
_METASPACE_MIB, _OVERHEAD_MIB, _MANAGED_MIB = 192, 128, 64
_SLOTS_A_CORE = 2
"""A job of several pipelines needs a slot for each; a slot costs nothing by itself."""

_MODULE_OPTIONS = (
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    *(
        f"--add-opens=java.base/{package}=ALL-UNNAMED"
        for package in (
            "java.lang",
            "java.net",
            "java.io",
            "java.nio",
            "sun.nio.ch",
            "java.lang.reflect",
            "java.text",
            "java.time",
            "java.util",
            "java.util.concurrent",
            "java.util.concurrent.atomic",
            "java.util.concurrent.locks",
        )
    ),
)

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

_SETTINGS: Mapping[str, str | int | bool] = {
    # Only this machine, and nobody's code but the job's.
    "jobmanager.rpc.address": "127.0.0.1",
    "jobmanager.bind-host": "127.0.0.1",
    "taskmanager.host": "127.0.0.1",
    "taskmanager.bind-host": "127.0.0.1",
    "rest.address": "127.0.0.1",
    "rest.bind-address": "127.0.0.1",
    "rest.bind-port": "0",
    "web.submit.enable": False,
    "web.cancel.enable": False,
    "web.rescale.enable": False,
    # TLS on both sides, for everything that goes between the two machines and for the REST endpoint.
    "security.ssl.protocol": "TLSv1.3",
    "security.ssl.algorithms": "TLS_AES_256_GCM_SHA384",
    "security.ssl.internal.enabled": True,
    "security.ssl.rest.enabled": True,
    "security.ssl.rest.authentication-enabled": True,
    # A job runs once: attempts are counted by the broker.
    "restart-strategy.type": "disable",
    "jobmanager.execution.failover-strategy": "full",
    "execution.shutdown-on-application-finish": True,
    # The program is on the class path; nothing is loaded from elsewhere.
    "classloader.resolve-order": "parent-first",
    "classloader.check-leaked-classloader": False,
    # What queries mean.
    "table.local-time-zone": "UTC",
    "pipeline.auto-watermark-interval": "50 ms",
    "python.execution-mode": "thread",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTime:
    """The event time of a stream: the column, and how many seconds records may come out of order."""

    column: str
    delay_s: int


def flink_settings(
    private: Path, *, limits: Limits, approved: Mapping[str, str], rpc_port: int, python: Path, members: int
) -> dict[str, str | int | bool]:
    """The settings of one job.

    Args:
        private: of the guest whose machines read them.
        limits: of the step; in a set each member has so much.
        approved: the step's environment, of which only `CHOSEN_BY_STEP` are settings.
        rpc_port: where the JobManager listens.
        python: the interpreter of Python jobs.
        members: how many enclaves do the job.
    """
    task_heap = limits.memory_mib - _JOB_MANAGER_MIB - _FRAMEWORK_HEAP_MIB - _off_heap_mib()
    tls = {
        f"security.ssl.{side}.{name}": value
        for side in ("internal", "rest")
        for store in ("keystore", "truststore")
        for name, value in ((store, str(private / "conf" / "tls.p12")), (f"{store}-type", "PKCS12"))
    }
    return {
        **_SETTINGS,
        **tls,
        "jobmanager.rpc.port": rpc_port,
        # In a set no member has more slots than work, so that each gets its share of it.
        "parallelism.default": limits.cores * max(1, members - 1),
        "taskmanager.numberOfTaskSlots": limits.cores * (_SLOTS_A_CORE if members == 1 else 1),
        "taskmanager.cpu.cores": limits.cores,
        "taskmanager.memory.task.heap.size": f"{task_heap}m",
        "taskmanager.memory.task.off-heap.size": "0m",
        "taskmanager.memory.framework.heap.size": f"{_FRAMEWORK_HEAP_MIB}m",
        "taskmanager.memory.framework.off-heap.size": f"{_FRAMEWORK_DIRECT_MIB}m",
        "taskmanager.memory.network.min": f"{_NETWORK_MIB}m",
        "taskmanager.memory.network.max": f"{_NETWORK_MIB}m",
        "taskmanager.memory.managed.size": f"{_MANAGED_MIB}m",
        "taskmanager.memory.jvm-metaspace.size": f"{_METASPACE_MIB}m",
        "taskmanager.memory.jvm-overhead.min": f"{_OVERHEAD_MIB}m",
        "taskmanager.memory.jvm-overhead.max": f"{_OVERHEAD_MIB}m",
        "io.tmp.dirs": str(private / "tmp"),
        "blob.storage.directory": str(private / "tmp"),
        "web.tmpdir": str(private / "tmp"),
        **_checkpoints(private / "checkpoints", members=members),
        "python.executable": str(python),
        "python.client.executable": str(python),
        **{name: value for name, value in approved.items() if name in CHOSEN_BY_STEP},
    }


def _checkpoints(folder: Path, *, members: int) -> dict[str, str]:
    """Where state is saved: a folder of one member is none of another's, so a set's goes to its JobManager."""
    if members > 1:
        return {"execution.checkpointing.storage": "jobmanager"}
    return {"execution.checkpointing.dir": folder.as_uri(), "execution.checkpointing.savepoint-dir": folder.as_uri()}


def tls_passwords(password: str) -> dict[str, str]:
    """The settings that open the key store."""
    names = ("keystore-password", "key-password", "truststore-password")
    return {f"security.ssl.{side}.{name}": password for side in ("internal", "rest") for name in names}


def format_settings(settings: Mapping[str, str | int | bool]) -> str:
    """Write settings as Flink's `config.yaml`, whose strict YAML takes JSON's scalars."""
    return "".join(f"{name}: {json.dumps(settings[name])}\n" for name in sorted(settings))


def job_manager_options(private: Path) -> list[str]:
    """Options of the JobManager's Java machine. It plans and coordinates; records do not pass it."""
    return [
        *_MODULE_OPTIONS,
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        f"-Xmx{_JOB_MANAGER_HEAP_MIB}m",
        *_common_options(private),
    ]


def task_manager_options(private: Path, *, limits: Limits, input_bytes: int) -> list[str]:
    """Options of the TaskManager's Java machine.

    Args:
        private: the job's private directory.
        limits: of the step.
        input_bytes: size of all sealed inputs.

    Raises:
        ConfigurationError: the step allows less memory than Flink starts with.
    """
    if limits.memory_mib < MINIMUM_MEMORY_MIB:
        raise ConfigurationError(
            f"limits.memory_mib is {limits.memory_mib}; Flink needs at least {MINIMUM_MEMORY_MIB}",
            hint="raise the limit of the step and have it approved again",
        )
    short = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"] if input_bytes <= SHORT_INPUT_BYTES else []
    return [
        *_MODULE_OPTIONS,
        *short,
        f"-Xmx{limits.memory_mib - _JOB_MANAGER_MIB - _off_heap_mib()}m",
        f"-XX:MaxDirectMemorySize={_FRAMEWORK_DIRECT_MIB + _NETWORK_MIB}m",
        f"-XX:MaxMetaspaceSize={_METASPACE_MIB}m",
        f"-XX:ActiveProcessorCount={limits.cores}",
        *_common_options(private),
    ]


def event_times(approved: Mapping[str, str], *, views: tuple[str, ...]) -> dict[str, EventTime]:
    """The event time of each stream that has one.

    Raises:
        ConfigurationError: an entry names no input, or is not a column and seconds.
    """
    found: dict[str, EventTime] = {}
    for name, value in approved.items():
        if not name.startswith(EVENT_TIME):
            continue
        view = name.removeprefix(EVENT_TIME)
        match = re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*) (\d{1,6})", value)
        if view not in views or match is None:
            raise ConfigurationError(
                f"{name} is {value[:100]!r}; wanted the column and the seconds of an input: {', '.join(views)}",
                code="no_event_time",
            )
        found[view] = EventTime(column=match[1], delay_s=int(match[2]))
    return found


def job_environment(
    private: Path, *, installation: ImageInstallation, code: Path, approved: Mapping[str, str]
) -> dict[str, str]:
    """The environment of a job's processes: nothing inherited.

    Raises:
        ConfigurationError: the step lists a variable that would change what code runs.
    """
    variables = {
        name: value
        for name, value in approved.items()
        if name not in CHOSEN_BY_STEP and not name.startswith(EVENT_TIME)
    }
    return process_environment(private, installation=installation, code=code, approved=variables) | {
        "FLINK_CONF_DIR": str(private / "conf"),
        "FLINK_OPT_DIR": str(installation.package("pyflink") / "opt"),
    }


def _off_heap_mib() -> int:
    return _FRAMEWORK_DIRECT_MIB + _NETWORK_MIB + _MANAGED_MIB + _METASPACE_MIB + _OVERHEAD_MIB


def _common_options(private: Path) -> list[str]:
    return [
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:+DisableAttachMechanism",
        "-XX:-UsePerfData",
        f"-XX:ErrorFile={private / 'tmp' / 'java-error'}",
        f"-Djava.io.tmpdir={private / 'tmp'}",
        "-Duser.timezone=UTC",
        "-Dfile.encoding=UTF-8",
        f"-Dlog4j2.configurationFile={(private / 'conf' / 'log4j2.properties').as_uri()}",
    ]
