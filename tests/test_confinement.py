"""Becoming another user in a view of its own, as a real process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ppml_airflow.confinement import can_confine, confined
from ppml_airflow.users import Users

pytestmark = pytest.mark.skipif(not can_confine(), reason="root with CAP_SYS_ADMIN confines")
USERS = Users.of_domain("sha256:" + "ab" * 32)
USER = USERS.of("broker")


def said(script: str, *, see: Sequence[Path] = (), **more: object) -> str:
    command = confined(("/bin/sh", "-c", script), user=USER, see=see, **more)  # type: ignore[arg-type]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder that only root enters, with a file that everybody may read and one that only root may."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    (folder / "open").write_text("open")
    (folder / "secret").write_text("secret")
    (folder / "secret").chmod(0o600)
    return folder


def test_user_groups_name_and_no_capability(tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_bytes(USERS.passwd())
    assert said("id -u; id -G; id -un", groups=[USERS.base], passwd=passwd).split() == [
        str(USER),
        str(USER),
        str(USERS.base),
        "ppml-broker",
    ]
    status = said("cat /proc/self/status").splitlines()
    assert {line.split()[1] for line in status if line.startswith("Cap") and "Bnd" not in line} == {"0" * 16}
    assert "NoNewPrivs:\t1" in status


def test_what_is_to_be_seen_is_there_with_the_rights_it_has_and_nothing_beside_it(closed: Path) -> None:
    assert said(f"cat {closed}/open", see=[closed / "open"]) == "open"
    assert said(f"cat {closed}/secret 2>&1; true", see=[closed / "secret"]).endswith("Permission denied")
    assert said(f"ls {closed} 2>&1; cat {closed}/open 2>&1; true", see=[closed / "secret"]).count("denied") == 1
    assert closed.stat().st_mode & 0o777 == 0o700


def test_a_closed_folder_itself_stays_closed(closed: Path) -> None:
    assert "denied" in said(f"cat {closed}/open 2>&1; true", see=[closed])


def test_what_is_listed_is_read_at_each_start(closed: Path, tmp_path: Path) -> None:
    listed = tmp_path / "listed"
    assert "denied" in said(f"cat {closed}/open 2>&1; true", see_listed=listed)
    listed.write_text(f"{closed}/open\n")
    assert said(f"cat {closed}/open", see_listed=listed) == "open"


def test_the_machine_keeps_its_view(closed: Path) -> None:
    said("true", see=[closed / "open"])
    assert (closed / "secret").read_text() == "secret"
    assert str(closed) not in Path("/proc/self/mountinfo").read_text()


def test_the_promise_to_end_with_the_parent_survives_the_change_of_user() -> None:
    script = (
        "import ctypes, os, signal, subprocess, sys\n"
        "prepare = lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
        "child = subprocess.Popen(sys.argv[1:], preexec_fn=prepare, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "signal.pause()\n"
    )
    command = confined(("/bin/sh", "-c", "echo; exec sleep 600"), user=USER)
    with subprocess.Popen((sys.executable, "-c", script, *command), stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        handle = os.pidfd_open(child)
        parent.send_signal(signal.SIGKILL)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        assert poll.poll(10_000)
        os.close(handle)


def test_what_cannot_be_done_is_said_and_nothing_is_run(tmp_path: Path) -> None:
    command = confined(("/bin/touch", str(tmp_path / "run")), user=USER, passwd=tmp_path / "missing")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"user {USER} cannot be confined" in done.stderr
    assert not (tmp_path / "run").exists()


def test_installations_have_users_of_their_own() -> None:
    other = Users.of_domain("sha256:" + "cd" * 32)
    assert not set(other.everybody) & set(USERS.everybody)
    assert len({*USERS.parties.values(), *USERS.guests, USERS.storage_group}) == 5 + len(USERS.guests) + 1
    assert 0x7000_0000 <= USERS.base < 0x8000_0000
