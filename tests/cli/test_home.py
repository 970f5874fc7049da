"""Where things lie, and that only their owner reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppml_airflow import canonical
from ppml_airflow.cli.home import Home, find_checkout, private_folder, write_private
from ppml_airflow.errors import ConfigurationError


def test_the_environment_names_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PPML_HOME", str(tmp_path / "here"))
    assert Home.default().path == tmp_path / "here"


def test_a_checkout_has_its_own_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PPML_HOME", raising=False)
    checkout = find_checkout()
    assert checkout is not None
    assert Home.default().path == checkout / ".ppml"


def test_a_short_home_has_its_sockets_in_run(tmp_path: Path) -> None:
    home = Home(Path("/h"))
    assert home.socket("broker") == Path("/h/run/broker/socket")


def test_a_long_home_has_its_sockets_in_a_private_folder(tmp_path: Path) -> None:
    path = Home(tmp_path / ("long" * 30)).socket("broker")
    assert len(str(path)) <= 107
    folder = path.parent.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()


def test_all_sockets_of_a_home_are_in_one_folder(tmp_path: Path) -> None:
    for length in range(1, 120):
        home = Home(Path("/") / ("h" * length))
        folders = {home.socket(name).parent.parent for name in ("broker", "quoting", "model_owner-agent")}
        assert folders == {home.sockets}
        assert all(len(str(home.socket(name))) <= 107 for name in ("broker", "model_owner-agent"))
        if home.sockets != home.run:
            home.sockets.rmdir()


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError):
        private_folder(tmp_path / "link")


def test_a_folder_that_others_enter_is_closed(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    assert private_folder(tmp_path / "open").stat().st_mode & 0o777 == 0o700


def test_written_files_are_private_and_replace_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    write_private(path, b"first")
    write_private(path, b"second")
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["file"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").touch()
    with pytest.raises(OSError, match="taken"):
        write_private(tmp_path / "taken", b"content")
    assert [found.name for found in tmp_path.iterdir()] == ["taken"]


def test_a_home_without_domain_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ppml domain create"):
        Home(tmp_path).load_domain()


def test_a_broken_domain_is_refused(tmp_path: Path) -> None:
    write_private(Home(tmp_path).domain_file, canonical.encode({"name": "x"}))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Home(tmp_path).load_domain()
