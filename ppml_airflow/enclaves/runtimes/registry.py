"""The runtimes that a step may name. One more runtime = one module and one line here."""

from __future__ import annotations

import os
from pathlib import Path

from ppml_airflow.enclaves.runtimes.docker import DockerRuntime
from ppml_airflow.enclaves.runtimes.process import ProcessRuntime
from ppml_airflow.errors import ConfigurationError

RUNTIMES: dict[str, type[ProcessRuntime] | type[DockerRuntime]] = {"process": ProcessRuntime, "docker": DockerRuntime}

PROCESS_ONLY = frozenset({"bigdl", "flink", "training"})
"""Images of this project that containers are not built of: those with an engine of their own beside the guest, and
`training`, which lacks a list of the system's packages that it needs."""


def find_runtime(name: str, *, socket_path: Path) -> ProcessRuntime | DockerRuntime:
    """The runtime of this name, at the quoting service behind this socket.

    Raises:
        ConfigurationError: there is no such runtime; lists those that are.
    """
    if name not in RUNTIMES:
        raise ConfigurationError(f"runtime {name} is unknown", hint=f"runtimes: {', '.join(RUNTIMES)}")
    return RUNTIMES[name](socket_path)


def require_supported(image: str, *, runtime: str, members: int = 1) -> None:
    """Refuse an image or a set that a runtime cannot start, before anything is sealed, sent or started for it.

    Raises:
        ConfigurationError: code `engine_unsupported` or `set_unsupported`.
    """
    if runtime == "docker" and members > 1:
        raise ConfigurationError(
            f"the docker runtime starts no sets, and this one has {members} members",
            code="set_unsupported",
            hint='use runtime="process" for the step',
        )
    if runtime == "docker" and image in PROCESS_ONLY:
        raise ConfigurationError(
            f"image {image} is one that the docker runtime does not run",
            code="engine_unsupported",
            hint='use runtime="process" for its steps',
        )


def default_runtime() -> str:
    """Where enclaves run whose step does not say it, for commands that set up a home: PPML_RUNTIME, else `process`.

    Raises:
        ConfigurationError: there is no such runtime.
    """
    name = os.environ.get("PPML_RUNTIME") or "process"
    if name not in RUNTIMES:
        raise ConfigurationError(f"PPML_RUNTIME is {name}", hint=f"runtimes: {', '.join(RUNTIMES)}")
    return name
