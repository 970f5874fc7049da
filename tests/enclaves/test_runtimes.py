from __future__ import annotations

from pathlib import Path

import pytest

from ppml_airflow.enclaves.runtimes.docker import DockerRuntime
from ppml_airflow.enclaves.runtimes.process import ProcessRuntime
from ppml_airflow.enclaves.runtimes.registry import default_runtime, find_runtime
from ppml_airflow.errors import ConfigurationError


@pytest.mark.parametrize(("name", "kind"), [("process", ProcessRuntime), ("docker", DockerRuntime)])
def test_a_runtime_is_found_by_its_name(name: str, kind: type) -> None:
    assert isinstance(find_runtime(name, socket_path=Path("/nowhere")), kind)


def test_enclaves_are_processes_unless_somebody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PPML_RUNTIME", raising=False)
    assert default_runtime() == "process"
    monkeypatch.setenv("PPML_RUNTIME", "docker")
    assert default_runtime() == "docker"


def test_an_unknown_runtime_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPML_RUNTIME", "moon")
    with pytest.raises(ConfigurationError, match="PPML_RUNTIME is moon"):
        default_runtime()
