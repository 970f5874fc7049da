"""Spark's settings that a step may choose: they change how fast a job is or what a query means, never what it reaches.

All others are fixed by `settings.py`. Left out on purpose is whatever names a class, a file, an address or a file
system, loosens encryption, or makes Spark speak to somebody; `REASONS` says so by name.

Source: https://spark.apache.org/docs/4.0.0/configuration.html and sql-performance-tuning.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from ppml_airflow.errors import ConfigurationError

_BOOLEAN = ("true or false", r"true|false")
_COUNT = ("a whole number", r"\d{1,9}")
_SHARE = ("a number from 0 to 1", r"0?\.\d{1,6}|[01](\.0+)?")
_SIZE = ("a size such as 64m", r"\d{1,12}[bkmgt]?b?")
_LIMIT = ("a size such as 64m, or -1", r"-1|\d{1,12}[bkmgt]?b?")
_TIME = ("a time such as 30s", r"\d{1,9}(ms|s|m|min|h)?")
_ZONE = ("a time zone such as Europe/Berlin", r"[A-Za-z][A-Za-z0-9_+/-]{0,49}|[+-]\d\d:\d\d")

CHOICES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "spark.app.name": ("letters, digits, spaces and -_.", r"[A-Za-z0-9 _.-]{1,100}"),
        "spark.default.parallelism": _COUNT,
        "spark.driver.maxResultSize": _SIZE,
        "spark.locality.wait": _TIME,
        "spark.log.level": ("ERROR, WARN, INFO or DEBUG", r"ERROR|WARN|INFO|DEBUG"),
        "spark.memory.fraction": _SHARE,
        "spark.memory.storageFraction": _SHARE,
        "spark.rdd.compress": _BOOLEAN,
        "spark.shuffle.compress": _BOOLEAN,
        "spark.shuffle.spill.compress": _BOOLEAN,
        "spark.sql.adaptive.advisoryPartitionSizeInBytes": _SIZE,
        "spark.sql.adaptive.autoBroadcastJoinThreshold": _LIMIT,
        "spark.sql.adaptive.coalescePartitions.enabled": _BOOLEAN,
        "spark.sql.adaptive.coalescePartitions.initialPartitionNum": _COUNT,
        "spark.sql.adaptive.coalescePartitions.minPartitionSize": _SIZE,
        "spark.sql.adaptive.enabled": _BOOLEAN,
        "spark.sql.adaptive.localShuffleReader.enabled": _BOOLEAN,
        "spark.sql.adaptive.skewJoin.enabled": _BOOLEAN,
        "spark.sql.ansi.enabled": _BOOLEAN,
        "spark.sql.autoBroadcastJoinThreshold": _LIMIT,
        "spark.sql.broadcastTimeout": _TIME,
        "spark.sql.caseSensitive": _BOOLEAN,
        "spark.sql.codegen.wholeStage": _BOOLEAN,
        "spark.sql.crossJoin.enabled": _BOOLEAN,
        "spark.sql.decimalOperations.allowPrecisionLoss": _BOOLEAN,
        "spark.sql.execution.arrow.maxRecordsPerBatch": _COUNT,
        "spark.sql.execution.arrow.pyspark.enabled": _BOOLEAN,
        "spark.sql.files.maxPartitionBytes": _SIZE,
        "spark.sql.files.openCostInBytes": _SIZE,
        "spark.sql.inMemoryColumnarStorage.batchSize": _COUNT,
        "spark.sql.inMemoryColumnarStorage.compressed": _BOOLEAN,
        "spark.sql.join.preferSortMergeJoin": _BOOLEAN,
        "spark.sql.mapKeyDedupPolicy": ("EXCEPTION or LAST_WIN", r"EXCEPTION|LAST_WIN"),
        "spark.sql.optimizer.dynamicPartitionPruning.enabled": _BOOLEAN,
        "spark.sql.optimizer.runtime.bloomFilter.enabled": _BOOLEAN,
        "spark.sql.parquet.enableVectorizedReader": _BOOLEAN,
        "spark.sql.parquet.filterPushdown": _BOOLEAN,
        "spark.sql.session.timeZone": _ZONE,
        "spark.sql.shuffle.partitions": _COUNT,
        "spark.task.cpus": _COUNT,
    }
)
"""Name -> what its value has to be, in words and as a pattern."""

REASONS = {
    r"spark\.hadoop\.|spark\.sql\.(sources|hive|catalog|warehouse)|spark\.local\.dir": (
        "it could reach files past the sealed inputs, or write them unencrypted",
        "name datasets in inputs= and outputs=",
    ),
    r"spark\.(authenticate|network|ssl|io\.encryption|acls|admin)": (
        "what Spark sends and spills is always authenticated and encrypted",
        "leave it out",
    ),
    r"spark\.(jars|files|archives|plugins|extraListeners|serializer|kryo|closure|submit\.pyFiles)"
    r"|spark\.(driver|executor)\.(extra|default)"
    r"|spark\.sql\.(extensions|queryExecutionListeners|streaming|catalogImplementation)": (
        "it would load code that nobody approved",
        "name code files in py_files=; other libraries belong in the image",
    ),
    r"spark\.(ui|eventLog|metrics|history|executor\.metrics|sql\.ui|sql\.event)": (
        "it would tell of the data outside the enclave",
        "spark.log.level says what is written to the sealed log",
    ),
    r"spark\.(driver|executor)\.(memory|cores|instances|memoryOverhead)|spark\.cores\.max": (
        "the step's own limits say it, and the approval lists them",
        "write driver_memory=, executor_memory=, executor_cores=, num_executors= or cores=",
    ),
    r"spark\.(master|submit|yarn|kubernetes|dynamicAllocation|deploy|executor|worker|shuffle\.service)": (
        "all of Spark runs in one process inside the enclave",
        "leave it out; cores= says how many tasks run at once",
    ),
    r"spark\.(executorEnv|pyspark|python)": (
        "jobs run with the image's Python and an empty environment",
        "env_vars= adds variables",
    ),
}
"""Why settings are refused whose names begin so, and what to write instead. The first that fits is told."""


def require_choices(conf: Mapping[str, str]) -> None:
    """Refuse a setting that no step may choose, and a value that is none.

    Raises:
        ConfigurationError: code `conf_refused`; says which, why and what to do.
    """
    for name, value in conf.items():
        if name not in CHOICES:
            reason, instead = _reason(name)
            raise ConfigurationError(f"conf {name} is refused: {reason}", code="conf_refused", hint=instead)
        wanted, pattern = CHOICES[name]
        if not re.fullmatch(pattern, value):
            raise ConfigurationError(f"conf {name} is {value[:100]!r}; wanted {wanted}", code="conf_refused")


def _reason(name: str) -> tuple[str, str]:
    for beginning, told in REASONS.items():
        if re.match(beginning, name):
            return told
    return "it is not among the settings that are known to be harmless", f"these are: {', '.join(CHOICES)}"
