from __future__ import annotations

import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.guest.process import require_clean_environment
from tests.support.small_images import wait_until

BOUND = "from ppml_airflow.guest.process import die_with_parent; import os, sys; die_with_parent(int(sys.argv[1])); "


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "GLIBC_TUNABLES",
        "JAVA_TOOL_OPTIONS",
        "JDK_JAVA_OPTIONS",
        "_JAVA_OPTIONS",
        "CLASSPATH",
    ],
)
def test_a_variable_that_could_change_which_code_runs_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        require_clean_environment({"PATH": "/bin", name: "x"})


def test_the_variables_that_the_service_gives_are_clean() -> None:
    require_clean_environment(dict.fromkeys(("PATH", "HOME", "TMPDIR", "LANG", "JAVA_HOME", "LC_CTYPE"), "x"))


def test_a_guest_whose_service_is_gone_already_does_not_start() -> None:
    done = subprocess.run([sys.executable, "-c", BOUND, "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is gone" in done.stderr


def test_a_guest_dies_with_the_service_that_started_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    guest = BOUND + f"import time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    service = textwrap.dedent(
        f"""
        import os, subprocess, sys, time
        subprocess.Popen([sys.executable, "-c", {guest!r}, str(os.getpid())], start_new_session=True)
        time.sleep(600)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", service])
    wait_until(lambda: note.exists() and note.read_text())
    child = int(note.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not Path(f"/proc/{child}").exists() or ") Z" in Path(f"/proc/{child}/stat").read_text())


def test_a_guest_in_a_container_dies_when_the_service_closes_its_channel() -> None:
    ours, theirs = socket.socketpair()
    code = (
        "import socket, sys, time; from ppml_airflow.guest.process import die_with_channel; "
        "channel = socket.socket(fileno=int(sys.argv[1])); die_with_channel(channel); channel.sendall(b'x'); "
        "time.sleep(600)"
    )
    guest = subprocess.Popen([sys.executable, "-c", code, str(theirs.fileno())], pass_fds=(theirs.fileno(),))
    theirs.close()
    assert ours.recv(1) == b"x"
    assert guest.poll() is None
    ours.close()
    assert guest.wait(10) == 1
