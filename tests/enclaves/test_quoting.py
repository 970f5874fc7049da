from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.attestation.evidence import Evidence
from ppml_airflow.attestation.verification import verify_evidence
from ppml_airflow.enclaves.measurement import FileDigestCache, measure
from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from ppml_airflow.enclaves.runtimes.long_lived import LongLivedGuest
from ppml_airflow.errors import ConfigurationError, MalformedInputError, PolicyDeniedError, UnavailableError
from ppml_airflow.protocol.launches import GuestEvent, GuestProblem, LineSocket, ToRuntime
from tests.support.small_images import Serving, SmallInstallation, launch_request, wait_until

GUEST = """
import base64, json, os, signal, socket, subprocess, sys, time

channel = socket.socket(fileno=int(sys.argv[sys.argv.index("--channel") + 1]))
lines = channel.makefile("rb")

def say(**message):
    channel.sendall(json.dumps(message, sort_keys=True, separators=(",", ":")).encode() + b"\\n")

def end(code="", state="committed"):
    say(type="result", state=state, code=code, attempt=1, lease_id=None, receipt=None, outputs=[])

def event(code):
    say(type="event", state="running", code=code, stage="", percent=0)

word = json.loads(lines.readline())["step"]
if word == "end":
    end()
elif word == "quote":
    say(type="quote", report_data=base64.b64encode(bytes(range(64))).decode())
    quote = json.loads(lines.readline())["quote"]
    say(type="problem", kind="PolicyDeniedError", code="quote", detail=quote, hint="")
elif word == "other-measurement":
    say(type="quote", report_data=base64.b64encode(bytes(64)).decode(), measurement="00" * 32)
elif word == "environment":
    said = json.dumps([dict(os.environ), os.getcwd(), sorted(os.listdir("/proc/self/fd")), sys.flags.isolated])
    say(type="problem", kind="PolicyDeniedError", code="environment", detail=said, hint="")
elif word == "crash":
    print("the reason", file=sys.stderr)
    sys.exit(3)
elif word == "secretive-crash":
    say(type="quote", report_data=base64.b64encode(bytes(64)).decode())
    lines.readline()
    print("a plaintext", file=sys.stderr)
    sys.exit(3)
elif word == "linger":
    end()
    time.sleep(600)
elif word == "spawn":
    code = "import os, time; os.setpgid(0, 0); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-I", "-c", code])
    open("secret", "w").write("plaintext")
    event(f"p{os.getpid()}_{child.pid}")
    time.sleep(600)
elif word == "serve":
    end(state="serving")
    for line in lines:
        end(code=json.loads(line)["step"].replace("-", "_"))
elif word == "prattle":
    say(type="event", state="running", code="The row of Smith", stage="", percent=0)
"""


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> SmallInstallation:
    return SmallInstallation(tmp_path_factory.mktemp("quoting"), guest=GUEST)


@pytest.fixture(scope="module")
def served(installation: SmallInstallation) -> Iterator[SmallInstallation]:
    with Serving(installation):
        yield installation


def ignore(event: GuestEvent) -> None:
    del event


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def connect(installation: SmallInstallation) -> LineSocket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(installation.socket))
    return LineSocket(connection)


def spawn(installation: SmallInstallation) -> tuple[LineSocket, list[int]]:
    """A guest that has started a child in a group of its own and holds a plaintext."""
    client = connect(installation)
    client.send(launch_request("spawn"))
    while True:
        event = client.receive(ToRuntime)
        assert isinstance(event, GuestEvent)
        if event.state == "running":
            return client, [int(process) for process in event.code[1:].split("_")]


def test_a_guest_runs_and_its_result_comes_back(served: SmallInstallation) -> None:
    events: list[GuestEvent] = []
    result = served.runtime.run(launch_request("end"), on_event=events.append)
    assert result.state == "committed"
    assert [event.state for event in events] == ["measuring", "starting"]
    assert list(served.private_root.iterdir()) == []


def test_a_guest_with_a_session_takes_one_launch_after_another_and_ends_with_its_connection(
    served: SmallInstallation,
) -> None:
    with LongLivedGuest(served.socket, launch_request("serve"), on_event=ignore) as guest:
        assert guest.run(launch_request("first"), on_event=ignore).code == "first"
        assert guest.run(launch_request("second"), on_event=ignore).code == "second"
        assert len(list(served.private_root.iterdir())) == 1
    wait_until(lambda: list(served.private_root.iterdir()) == [])


def test_a_guest_without_a_session_takes_no_second_launch(served: SmallInstallation) -> None:
    client, processes = spawn(served)
    client.send(launch_request("end"))
    wait_until(lambda: not any(is_alive(process) for process in processes))
    client.close()


@pytest.mark.parametrize("change", [{"runtime": "docker"}, {"is_watched": True}])
def test_a_session_that_nobody_could_speak_to_is_refused(served: SmallInstallation, change: dict[str, Any]) -> None:
    request = msgspec.structs.replace(launch_request("serve"), **change)
    with pytest.raises(ConfigurationError) as caught, LongLivedGuest(served.socket, request, on_event=ignore):
        pass
    assert caught.value.code == "session_unsupported"


def test_a_quote_carries_the_measurement_of_the_guest_that_asked(served: SmallInstallation) -> None:
    with pytest.raises(PolicyDeniedError) as said:
        served.runtime.run(launch_request("quote"), on_event=ignore)
    evidence = canonical.convert({"tee": "sgx", "quote": said.value.message}, into=Evidence)
    verified = verify_evidence(
        evidence,
        collateral=(served.home / "tee" / "collateral.json").read_bytes(),
        roots=(served.platform.root,),
        now=datetime.now(UTC),
    )
    assert verified.measurement == measure(served.image, cache=FileDigestCache()).hex
    assert verified.report_data == bytes(range(64))
    assert verified.trust == "simulated"


def test_a_guest_that_names_a_measurement_gets_no_quote(served: SmallInstallation) -> None:
    with pytest.raises(MalformedInputError, match="says") as refused:
        served.runtime.run(launch_request("other-measurement"), on_event=ignore)
    assert refused.value.code == "guest_refused"


def test_a_launch_request_that_names_a_measurement_is_refused(served: SmallInstallation) -> None:
    client = connect(served)
    request = json.loads(canonical.encode(launch_request("end"))) | {"measurement": "00" * 32}
    client.send(request)
    answer = client.receive(ToRuntime)
    client.close()
    assert isinstance(answer, GuestProblem)
    assert answer.kind == "MalformedInputError"


def test_a_changed_image_gets_quotes_with_another_measurement(tmp_path: Path) -> None:
    installation = SmallInstallation(tmp_path, guest=GUEST)
    with Serving(installation):
        quotes = []
        for _ in range(2):
            with pytest.raises(PolicyDeniedError) as said:
                installation.runtime.run(launch_request("quote"), on_event=ignore)
            quotes.append(canonical.convert({"tee": "sgx", "quote": said.value.message}, into=Evidence).quote)
            (installation.image / "image" / "README.md").write_text("Another.\n")
    offset = 48 + 64
    assert quotes[0][offset : offset + 32] != quotes[1][offset : offset + 32]


def test_a_guest_starts_from_an_empty_environment(served: SmallInstallation, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PolicyDeniedError) as said:
        served.runtime.run(launch_request("environment"), on_event=ignore)
    environment, working, _, is_isolated = json.loads(said.value.message)
    assert set(environment) - {"LC_CTYPE"} == {"PATH", "HOME", "TMPDIR", "LANG"}
    assert environment["HOME"] == working
    assert working.startswith(str(served.private_root))
    assert is_isolated == 1


def test_the_socket_is_for_its_owner_only(served: SmallInstallation) -> None:
    assert stat.S_IMODE(served.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(served.private_root.stat().st_mode) == 0o700


def test_closing_the_connection_leaves_no_process_and_no_private_directory(served: SmallInstallation) -> None:
    client, processes = spawn(served)
    assert all(is_alive(process) for process in processes)
    client.close()
    wait_until(lambda: not any(is_alive(process) for process in processes))
    wait_until(lambda: list(served.private_root.iterdir()) == [])


def test_a_guest_that_lingers_after_its_result_is_ended(served: SmallInstallation) -> None:
    assert served.runtime.run(launch_request("linger"), on_event=ignore).state == "committed"
    wait_until(lambda: list(served.private_root.iterdir()) == [])


def test_a_guest_that_crashes_before_its_quote_says_why(served: SmallInstallation) -> None:
    with pytest.raises(UnavailableError, match="exit code 3: the reason"):
        served.runtime.run(launch_request("crash"), on_event=ignore)


def test_a_guest_that_crashes_after_its_quote_says_nothing(served: SmallInstallation) -> None:
    with pytest.raises(UnavailableError) as ended:
        served.runtime.run(launch_request("secretive-crash"), on_event=ignore)
    assert ended.value.message == "the guest ended without an answer, exit code 3"


def test_an_event_outside_the_vocabulary_does_not_leave(served: SmallInstallation) -> None:
    with pytest.raises(MalformedInputError) as refused:
        served.runtime.run(launch_request("prattle"), on_event=ignore)
    assert "Smith" not in str(refused.value)


def test_an_image_that_is_not_set_up_is_named(served: SmallInstallation) -> None:
    with pytest.raises(ConfigurationError, match="no trusted image is set up"):
        served.runtime.run(launch_request("end", image="absent"), on_event=ignore)


def test_a_client_that_leaves_without_a_word_is_no_matter(served: SmallInstallation) -> None:
    connect(served).close()
    assert served.runtime.run(launch_request("end"), on_event=ignore).state == "committed"


def test_two_guests_run_side_by_side_in_directories_of_their_own(served: SmallInstallation) -> None:
    first, _ = spawn(served)
    second, _ = spawn(served)
    assert len(list(served.private_root.iterdir())) == 2
    first.close()
    second.close()
    wait_until(lambda: list(served.private_root.iterdir()) == [])


def test_an_error_in_on_event_ends_the_guest(served: SmallInstallation) -> None:
    def fail(event: GuestEvent) -> None:
        if event.state == "running":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        served.runtime.run(launch_request("spawn"), on_event=fail)
    wait_until(lambda: list(served.private_root.iterdir()) == [])


def test_closing_the_runtime_ends_the_guest_that_it_runs(served: SmallInstallation) -> None:
    def close(event: GuestEvent) -> None:
        if event.state == "running":
            threading.Thread(target=served.runtime.close).start()

    with pytest.raises(UnavailableError):
        served.runtime.run(launch_request("spawn"), on_event=close)
    wait_until(lambda: list(served.private_root.iterdir()) == [])


def test_a_second_service_of_an_installation_is_refused(served: SmallInstallation) -> None:
    done = subprocess.run(served.command(), check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "running already" in done.stderr


def test_a_service_without_a_platform_is_refused(tmp_path: Path, served: SmallInstallation) -> None:
    command = [*served.command()[:-3], str(tmp_path), "--socket", str(tmp_path / "s")]
    assert subprocess.run(command, check=False, capture_output=True, timeout=30).returncode == 2


def test_no_service_is_an_unavailable_one(tmp_path: Path) -> None:
    from ppml_airflow.enclaves.runtimes.process import ProcessRuntime

    with pytest.raises(UnavailableError, match="does not answer"):
        ProcessRuntime(tmp_path / "absent").run(launch_request("end"), on_event=ignore)


def test_stopping_the_service_ends_its_guests(tmp_path: Path) -> None:
    installation = SmallInstallation(tmp_path, guest=GUEST)
    with Serving(installation):
        _, processes = spawn(installation)
    assert not any(is_alive(process) for process in processes)
    assert not list(installation.private_root.parent.glob(f"{installation.private_root.name}/*"))
    assert not installation.socket.exists()


def test_clients_that_say_nothing_or_half_a_line_do_not_keep_the_service_from_stopping(tmp_path: Path) -> None:
    installation = SmallInstallation(tmp_path, guest=GUEST)
    with Serving(installation) as serving:
        idle, cut = connect(installation), connect(installation)
        cut.connection.sendall(b'{"image":')
        with pytest.raises(PolicyDeniedError):  # the service has accepted those before this one
            installation.runtime.run(launch_request("environment"), on_event=ignore)
        serving.process.terminate()
        assert serving.process.wait(10) == 0
    idle.close()
    cut.close()


def test_a_client_learns_that_the_service_was_killed(tmp_path: Path) -> None:
    installation = SmallInstallation(tmp_path, guest=GUEST)
    service = installation.start()
    started = threading.Event()
    threading.Thread(target=lambda: (started.wait(), service.kill())).start()

    def on_event(event: GuestEvent) -> None:
        if event.state == "running":
            started.set()

    with pytest.raises(UnavailableError, match="went away"):
        installation.runtime.run(launch_request("spawn"), on_event=on_event)
    service.wait()
    assert len(list(installation.private_root.iterdir())) == 1
    with Serving(installation):
        assert list(installation.private_root.iterdir()) == []


def test_the_next_start_kills_what_a_crash_left_in_private_directories(tmp_path: Path) -> None:
    folders = PrivateFolders(tmp_path / "private")
    folder = folders.make()
    (folder / "secret").write_text("plaintext")
    child = subprocess.Popen(["/bin/sleep", "600"], cwd=folder)
    folders.sweep_all()
    assert child.wait(10) == -9
    assert not folder.exists()


def test_a_private_directory_is_a_filesystem_of_its_own_where_it_may_be(tmp_path: Path) -> None:
    folders = PrivateFolders(tmp_path / "private")
    folder = folders.make()
    try:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        if os.getuid() == 0:
            assert folder.is_mount()
    finally:
        folders.sweep(folder)
    assert not folder.exists()


def test_a_folder_for_private_directories_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(ConfigurationError, match="is not a folder of ours"):
        PrivateFolders(tmp_path / "open")


STRANGER = """
import ctypes, os, socket, sys
os.seteuid(65534)
ctypes.CDLL(None).setfsuid(0)  # past the modes of folder and socket
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    print(connection.recv(1))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may connect as somebody else")
def test_another_user_who_reached_the_socket_is_hung_up_on(served: SmallInstallation) -> None:
    command = [sys.executable, "-c", STRANGER, str(served.socket)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "b''\n"
    assert served.runtime.run(launch_request("end"), on_event=ignore).state == "committed"
