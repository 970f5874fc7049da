"""Guests whose installation has users of its own: nobody but root looks into one, nor does another guest."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ppml_airflow.confinement import can_confine, confined
from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from ppml_airflow.errors import UnavailableError
from ppml_airflow.users import PASSWD, Users
from tests.enclaves.test_quoting import GUEST, spawn
from tests.support.small_images import DOMAIN, Serving, SmallInstallation

pytestmark = pytest.mark.skipif(not can_confine(), reason="users of their own need root with CAP_SYS_ADMIN")
USERS = Users.of_domain(DOMAIN.domain_id)
SPY = """
import ctypes, os, sys
def tried(attempt):
    try:
        attempt()
    except PermissionError:
        return "refused"
    return "done"
def trace(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
folder, pid = sys.argv[1], int(sys.argv[2])
print(
    tried(lambda: os.listdir(folder)),
    tried(lambda: open(f"{folder}/secret")),
    tried(lambda: trace(pid)),
    tried(lambda: open(f"/proc/{pid}/mem")),
    tried(lambda: os.kill(pid, 9)),
)
"""


class WithUsers(SmallInstallation):
    """An installation whose guests have users of their own."""

    def command(self) -> list[str]:
        return [*super().command(), "--users", str(USERS.base)]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[SmallInstallation]:
    installation = WithUsers(tmp_path, guest=GUEST)
    passwd = installation.home / PASSWD
    passwd.parent.mkdir(exist_ok=True)
    passwd.write_bytes(USERS.passwd())
    for folder in (tmp_path, installation.home, installation.home / "images"):
        folder.chmod(0o711)
    with Serving(installation):
        yield installation


def spied_on(folder: Path, pid: int, *, by: int) -> list[str]:
    command = (sys.executable, "-c", SPY, str(folder), str(pid))
    spy = confined(command, user=by, see=[Path(sys.base_prefix), Path(sys.prefix)])
    return subprocess.run(spy, capture_output=True, text=True, check=True).stdout.split()


def test_each_guest_has_a_user_of_its_own_into_whose_memory_and_files_no_other_user_looks(
    served: SmallInstallation,
) -> None:
    with ExitStack() as stack:
        guests = {}
        for _ in range(2):
            client, (guest, child) = spawn(served)
            stack.callback(client.close)
            guests[Path(f"/proc/{guest}").stat().st_uid] = guest
            assert Path(f"/proc/{child}").stat().st_uid == Path(f"/proc/{guest}").stat().st_uid
        assert len(guests) == 2
        assert all(user in USERS.guests for user in guests)
        folders = {folder.stat().st_uid: folder for folder in served.private_root.iterdir()}
        first, second = guests
        for spy in (second, USERS.of("airflow"), USERS.of("broker")):
            assert spied_on(folders[first], guests[first], by=spy) == ["refused"] * 5
    served.runtime.close()


def test_no_two_guests_that_run_share_a_user_and_an_ended_ones_is_given_again_last(tmp_path: Path) -> None:
    folders = PrivateFolders(tmp_path / "private", users=USERS)
    made = [folders.make(in_memory=False) for _ in USERS.guests]
    assert [folder.stat().st_uid for folder in made] == list(USERS.guests)
    with pytest.raises(UnavailableError, match="more guests than"):
        folders.make(in_memory=False)
    folders.sweep(made[3])
    assert folders.make(in_memory=False).stat().st_uid == USERS.guests[3]
    folders.sweep_all()


def test_a_guest_cannot_list_who_else_has_a_private_directory(tmp_path: Path) -> None:
    folders = PrivateFolders(tmp_path / "private", users=USERS)
    assert folders.root.stat().st_mode & 0o777 == 0o711
    assert folders.root.stat().st_uid == os.getuid()
