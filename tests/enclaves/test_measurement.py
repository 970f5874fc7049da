from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ppml_airflow import canonical
from ppml_airflow.enclaves.installation import INSTALLATION, Installation, Interpreter, load_installation
from ppml_airflow.enclaves.measurement import FileDigestCache, difference, measure
from ppml_airflow.errors import ConfigurationError


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """An interpreter, a standard library and a JDK, in miniature."""
    host = tmp_path / "host"
    for path, text in {
        "bin/python3.11": "interpreter",
        "lib/python3.11/os.py": "stdlib",
        "lib/python3.11/site-packages/other.py": "not visible to an environment",
        "lib/libpython3.11.so": "library",
        "java/bin/java": "jdk",
        "etc/java/security.properties": "settings",
    }.items():
        (host / path).parent.mkdir(parents=True, exist_ok=True)
        (host / path).write_text(text)
    (host / "java/conf").symlink_to(host / "etc/java")
    return host


@pytest.fixture
def image(tmp_path: Path, host: Path) -> Path:
    """A set-up image, in miniature."""
    image = tmp_path / "images" / "spark"
    for path in ("image/domain.json", "env/lib/module.py", "bytecode/module.pyc"):
        (image / path).parent.mkdir(parents=True, exist_ok=True)
        (image / path).write_text(path)
    (image / "env/bin").mkdir()
    (image / "env/bin/python").symlink_to(host / "bin/python3.11")
    installation = Installation(
        name="spark",
        environments={
            "env": Interpreter(
                executable=str(host / "bin/python3.11"),
                standard_library=str(host / "lib/python3.11"),
                libraries=(str(host / "lib/libpython3.11.so"),),
            )
        },
        java_home=str(host / "java"),
    )
    (image / "image" / INSTALLATION).write_bytes(canonical.encode(installation))
    return image


def digest_of(image: Path) -> bytes:
    return measure(image, cache=FileDigestCache()).digest


def test_measuring_twice_gives_the_same_32_bytes(image: Path) -> None:
    assert digest_of(image) == digest_of(image)
    assert len(digest_of(image)) == 32


@pytest.mark.parametrize(
    "path",
    [
        "images/spark/image/domain.json",
        "images/spark/env/lib/module.py",
        "images/spark/bytecode/module.pyc",
        "host/bin/python3.11",
        "host/lib/python3.11/os.py",
        "host/lib/libpython3.11.so",
        "host/java/bin/java",
        "host/etc/java/security.properties",
    ],
)
def test_one_changed_byte_changes_the_measurement(tmp_path: Path, image: Path, path: str) -> None:
    before = digest_of(image)
    data = bytearray((tmp_path / path).read_bytes())
    data[0] ^= 1
    (tmp_path / path).write_bytes(data)
    assert digest_of(image) != before


def test_a_changed_mode_changes_the_measurement(image: Path) -> None:
    before = digest_of(image)
    (image / "env/lib/module.py").chmod(0o755)
    assert digest_of(image) != before


@pytest.mark.parametrize("folder", ["image", "env/lib", "bytecode", "env/lib/__pycache__"])
def test_an_added_file_changes_the_measurement(image: Path, folder: str) -> None:
    before = digest_of(image)
    (image / folder).mkdir(exist_ok=True)
    (image / folder / "added.py").write_text("")
    assert digest_of(image) != before


def test_a_removed_file_changes_the_measurement(image: Path) -> None:
    before = digest_of(image)
    (image / "env/lib/module.py").unlink()
    assert digest_of(image) != before


def test_a_moved_file_changes_the_measurement(image: Path) -> None:
    before = digest_of(image)
    (image / "env/lib/module.py").rename(image / "env/lib/other.py")
    assert digest_of(image) != before


def test_a_link_that_points_elsewhere_changes_the_measurement(image: Path) -> None:
    (image / "env/link").symlink_to("lib/module.py")
    before = digest_of(image)
    (image / "env/link").unlink()
    (image / "env/link").symlink_to("lib/absent.py")
    assert digest_of(image) != before


def test_a_file_added_where_a_link_leads_out_of_the_image_changes_the_measurement(image: Path, host: Path) -> None:
    before = digest_of(image)
    (host / "etc/java/added.policy").write_text("")
    assert digest_of(image) != before


def test_a_link_that_leads_in_a_circle_is_measured_once(image: Path, host: Path) -> None:
    (host / "etc/java/again").symlink_to(host / "java")
    (host / "etc/java/self").symlink_to(host / "etc/java")
    assert measure(image, cache=FileDigestCache()).files < 20


@pytest.mark.parametrize("folder", ["lib/python3.11/__pycache__", "lib/python3.11/site-packages/new"])
def test_what_others_leave_in_the_standard_library_and_no_guest_reads_changes_nothing(
    image: Path, host: Path, folder: str
) -> None:
    before = digest_of(image)
    (host / folder).mkdir(exist_ok=True)
    (host / folder / "stray.cpython-311.pyc").write_bytes(b"stray")
    assert digest_of(image) == before


def test_a_module_added_to_the_standard_library_changes_the_measurement(image: Path, host: Path) -> None:
    before = digest_of(image)
    (host / "lib/python3.11/sitecustomize.py").write_text("")
    assert digest_of(image) != before


def test_the_cache_does_not_hide_a_change_that_keeps_size_and_mtime(image: Path) -> None:
    cache = FileDigestCache()
    path = image / "env/lib/module.py"
    old = time.time() - 3600
    os.utime(path, (old, old))
    before = measure(image, cache=cache).digest
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, (old, old))
    assert measure(image, cache=cache).digest != before


def test_the_difference_of_two_listings_names_what_changed(image: Path) -> None:
    before = measure(image, cache=FileDigestCache()).listing
    (image / "env/lib/module.py").write_text("changed")
    (image / "env/lib/new.py").write_text("")
    (image / "bytecode/module.pyc").unlink()
    changes = difference(before, measure(image, cache=FileDigestCache()).listing)
    assert [(change.path, change.kind) for change in changes] == [
        ("bytecode/module.pyc", "removed"),
        ("env/lib/module.py", "changed"),
        ("env/lib/new.py", "added"),
    ]


def test_an_image_that_is_not_set_up_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no trusted image is set up"):
        measure(tmp_path, cache=FileDigestCache())


def test_an_environment_with_another_interpreter_is_refused(image: Path, host: Path) -> None:
    (host / "bin/other").write_text("another interpreter")
    (image / "env/bin/python").unlink()
    (image / "env/bin/python").symlink_to(host / "bin/other")
    with pytest.raises(ConfigurationError, match="but was set up with") as refused:
        load_installation(image)
    assert refused.value.code == "image_changed"


def test_a_pipe_in_an_image_is_refused(image: Path) -> None:
    os.mkfifo(image / "env/lib/pipe")
    with pytest.raises(ConfigurationError, match="neither a file"):
        measure(image, cache=FileDigestCache())


def test_a_missing_standard_library_is_refused(image: Path, host: Path) -> None:
    (host / "lib/python3.11").rename(host / "lib/elsewhere")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        measure(image, cache=FileDigestCache())


def test_a_missing_library_of_the_interpreter_is_refused(image: Path, host: Path) -> None:
    (host / "lib/libpython3.11.so").unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        measure(image, cache=FileDigestCache())
