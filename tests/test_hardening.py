from __future__ import annotations

import subprocess
import sys

import pytest

SPY = """
import ctypes, os, signal, sys
from ppml_airflow.hardening import harden

hidden = sys.argv[1] == "hidden"
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as after the start of a program
ready, tell = os.pipe()
victim = os.fork()
if victim == 0:
    if hidden:
        harden()
    os.write(tell, b".")
    signal.pause()
os.read(ready, 1)
try:
    for file in ("mem", "environ"):
        try:
            os.close(os.open(f"/proc/{victim}/{file}", os.O_RDONLY))
            print(file)
        except PermissionError:
            pass
    if ctypes.CDLL(None).ptrace(16, victim, None, None) == 0:
        print("ptrace")
finally:
    os.kill(victim, signal.SIGKILL)
"""


def spied(victim: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", SPY, victim], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_process_of_the_same_user_neither_reads_nor_traces_a_hardened_process() -> None:
    assert spied("open") == ["mem", "environ", "ptrace"]
    assert spied("hidden") == []


@pytest.mark.parametrize(
    "main",
    ["cli.main", "broker.__main__", "agent.__main__", "enclaves.quoting.__main__"],
)
def test_every_process_that_holds_keys_hides_its_memory_and_writes_no_core(main: str) -> None:
    code = (
        f"import ctypes, resource, sys; from ppml_airflow.{main} import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--config", "/nowhere/x.yaml"], capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n")[-2:] == ["0 (0, 0)", ""], done.stderr
