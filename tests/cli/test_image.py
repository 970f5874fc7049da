"""The wheel that goes into images, and what the owner accepts."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import msgspec
import pytest

from ppml_airflow.cli.home import Home, require_checkout
from ppml_airflow.cli.image import build_wheel, ensure_images, measure_image
from ppml_airflow.cli.owner import Owner
from ppml_airflow.domain.documents import Approval
from ppml_airflow.errors import ConfigurationError


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources."""
    copy, source = tmp_path / "checkout", require_checkout()
    for name in ("ppml_airflow", "operators", "plugins"):
        shutil.copytree(source / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(source / name, copy / name)
    return copy


def test_the_wheel_holds_the_package_with_its_operators(checkout: Path, tmp_path: Path) -> None:
    names = zipfile.ZipFile(build_wheel(checkout, into=tmp_path / "wheels")).namelist()
    assert "ppml_airflow/guest/__main__.py" in names
    assert "ppml_airflow/operators/spark.py" in names
    assert not [name for name in names if name.startswith(("tests/", "operators/"))]
    assert not [path for path in checkout.iterdir() if path.name in ("build", "ppml_airflow.egg-info")]


def test_the_wheel_is_kept_until_a_source_changes(checkout: Path, tmp_path: Path) -> None:
    first = build_wheel(checkout, into=tmp_path / "wheels")
    built = first.stat().st_mtime_ns
    assert build_wheel(checkout, into=tmp_path / "wheels").stat().st_mtime_ns == built
    (checkout / "operators" / "spark.py").open("a").write("# changed\n")
    assert build_wheel(checkout, into=tmp_path / "wheels") != first


def test_the_same_sources_make_the_same_wheel_wherever_and_whenever(checkout: Path, tmp_path: Path) -> None:
    first = build_wheel(checkout, into=tmp_path / "wheels").read_bytes()
    for path in checkout.rglob("*.py"):
        os.utime(path, (0, 2_000_000_000))
    assert build_wheel(checkout, into=tmp_path / "others").read_bytes() == first


def test_a_build_that_fails_is_named_and_leaves_nothing(checkout: Path, tmp_path: Path) -> None:
    (checkout / "pyproject.toml").write_text("[build-system]\nrequires = []\n[project]\nname = 3\n")
    with pytest.raises(ConfigurationError, match="cannot be built"):
        build_wheel(checkout, into=tmp_path / "wheels")
    assert list((tmp_path / "wheels").iterdir()) == []


def test_an_image_that_is_not_set_up_says_how(home: Home) -> None:
    with pytest.raises(ConfigurationError, match="ppml image set-up spark"):
        measure_image(home, "spark")


def test_a_pipeline_with_a_step_that_containers_cannot_run_builds_nothing(
    home: Home, owner: Owner, approval: Approval
) -> None:
    (step,) = approval.steps
    pipeline = msgspec.structs.replace(approval, steps=(step, msgspec.structs.replace(step, name="s", image="flink")))
    said: list[str] = []
    with pytest.raises(ConfigurationError) as refused:
        ensure_images(home, owner=owner, approval=pipeline, runtime="docker", say=said.append)
    assert refused.value.code == "engine_unsupported"
    assert said == []
