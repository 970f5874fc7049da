"""What users know from spark-submit: how it is read here, and what has no place in an enclave, with the reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators.enclaves import mebibytes

DEFAULT_CORES = 2

_ONE_PROCESS = "all of Spark runs in one process inside the enclave", "leave it out"
_UNAPPROVED = "it would run code that no owner approved by its digest"
_NO_IDENTITY = "a job in an enclave has no identity but its evidence, and reaches no Kerberos realm", "leave it out"
_IN_THE_IMAGE = (
    f"{_UNAPPROVED}",
    "add the library to images/spark/requirements.in, set the image up, and have its measurement accepted",
)

REFUSED: Mapping[str, tuple[str, str]] = {
    "archives": (_UNAPPROVED, "name each file in py_files= or files="),
    "conn_id": ("there is no cluster to connect to", "ppml_conn_id= names the connection to broker and agents"),
    "deploy_mode": _ONE_PROCESS,
    "driver_class_path": _IN_THE_IMAGE,
    "environment": ("Spark's users know it by another name", "write env_vars="),
    "exclude_packages": _IN_THE_IMAGE,
    "jars": _IN_THE_IMAGE,
    "java_class": ("a job is one SQL query or one Python program", "write sql= or application='job.py'"),
    "keytab": _NO_IDENTITY,
    "master": _ONE_PROCESS,
    "memory": ("Spark's users know it by other names", "write driver_memory= and executor_memory="),
    "packages": _IN_THE_IMAGE,
    "principal": _NO_IDENTITY,
    "properties_file": ("settings of a file would not stand in the approval", "write them in conf="),
    "proxy_user": _NO_IDENTITY,
    "queue": ("there is no cluster with queues", "Airflow's pool= bounds how many steps run at once"),
    "repositories": _IN_THE_IMAGE,
    "spark_binary": ("Spark is the image's, which is measured", "image= names another image"),
    "status_poll_interval": ("the guest tells by itself when it is done", "leave it out"),
    "use_krb5ccache": _NO_IDENTITY,
    "yarn_queue": ("there is no cluster with queues", "Airflow's pool= bounds how many steps run at once"),
}
"""Parameter of SparkSubmitOperator -> why it is refused, and what to do instead."""


def require_known(options: Collection[str]) -> None:
    """Refuse parameters of spark-submit that make no sense here, by name.

    Raises:
        ConfigurationError: code `option_refused`; says why, and what to do instead.
    """
    for name in options:
        if name in REFUSED:
            reason, instead = REFUSED[name]
            raise ConfigurationError(f"{name}= is refused: {reason}", code="option_refused", hint=instead)


def names_of(files: str | Sequence[str]) -> tuple[str, ...]:
    """File names as a list, or as spark-submit has them: with commas between them."""
    return tuple(name.strip() for name in files.split(",") if name.strip()) if isinstance(files, str) else tuple(files)


def spelled(conf: Mapping[str, Any] | None) -> dict[str, str]:
    """Values as Spark reads them: True is `true`."""
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in (conf or {}).items()}


def total_memory_mib(driver: str, *, executor: str | None, executors: int | None, at_least: int) -> int:
    """The enclave's memory in MiB: the driver's and that of all executors, which are threads of its process.

    Raises:
        ConfigurationError: no such amount, or executors without memory of their own.
    """
    if executor is None:
        return mebibytes(driver, at_least=at_least)
    return mebibytes(driver, at_least=1) + (executors or 1) * mebibytes(executor, at_least=1)


def total_cores(cores: int | None, *, executor: int | None, executors: int | None, total: int | None) -> int:
    """How many tasks run at once, however it was said.

    Raises:
        ConfigurationError: said in two ways that do not agree, or not a number above 0.
    """
    product = None if executor is None and executors is None else (executor or 1) * (executors or 1)
    given = {
        "cores": cores,
        "total_executor_cores": total,
        "num_executors x executor_cores": product,
    }
    said = {name: value for name, value in given.items() if value is not None}
    if any(value < 1 for value in (executor, executors, total) if value is not None):
        raise ConfigurationError(f"cores are {said}; wanted whole numbers above 0")
    if len(set(said.values())) > 1:
        raise ConfigurationError(
            f"cores are {' and '.join(f'{name} = {value}' for name, value in said.items())}",
            hint="say it once: executors are threads of one process, so only their product counts",
        )
    return next(iter(said.values()), DEFAULT_CORES)


def require_alike(members: int, **sizes: object) -> None:
    """Refuse sizes of executors in a set: each of its members is an enclave with the step's limits.

    Raises:
        ConfigurationError: code `option_refused`; names the size.
    """
    for name, value in sizes.items():
        if members > 1 and value is not None:
            raise ConfigurationError(
                f"{name}= is refused: driver and executors of a set are members of one size",
                code="option_refused",
                hint="driver_memory= and cores= say what each member has, members= how many there are",
            )
