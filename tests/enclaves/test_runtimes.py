from __future__ import annotations

from pathlib import Path

import pytest

from ppml_airflow.enclaves.runtimes.docker import DockerRuntime
from ppml_airflow.enclaves.runtimes.process import ProcessRuntime
from ppml_airflow.enclaves.runtimes.registry import PROCESS_ONLY, default_runtime, find_runtime, require_supported
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


def test_containers_run_every_image_of_this_project_that_has_no_engine_of_its_own_and_lists_its_packages() -> None:
    images = Path(__file__).parents[2] / "images"
    engines = {path.parent.name for path in images.glob("*/engine")}
    spark = {path.parent.name for path in images.glob("*/requirements.in") if "pyspark" in path.read_text()}
    listed = {path.parent.name for path in images.glob("*/packages.txt")}
    assert engines | (spark - listed) == PROCESS_ONLY
    for image in PROCESS_ONLY:
        require_supported(image, runtime="process")
        with pytest.raises(ConfigurationError) as refused:
            require_supported(image, runtime="docker")
        assert refused.value.code == "engine_unsupported"
        assert 'runtime="process"' in refused.value.hint
