from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ppml_airflow.domain.documents import Limits
from ppml_airflow.errors import MalformedInputError, VerificationError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.units import MIB
from ppml_airflow.workloads.guest_socket import Answer, Connection, GuestSocket
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import (
    FileKey,
    FilesInput,
    FilesOutput,
    JobKeys,
    TableInput,
    TableOutput,
    WorkloadJob,
)
from tests.support.spark_jobs import CHECKOUT

VECTORS: list[dict[str, Any]] = json.loads((CHECKOUT / "jvm" / "vectors" / "messages.json").read_text())
PART = Path("/storage/visits/part-00000")
REFUSED = Answer({"refused": "not_granted"})
MODEL = {"model.onnx": b"onnx", "labels/de.txt": b"ja! "}
KEYS = JobKeys(
    read={PART: FileKey(data_key=bytes(range(32)), aad=b"ppml vector read")},
    write=lambda dataset, path: FileKey(data_key=bytes(range(32)), aad=b"ppml vector write"),
    open_files=lambda dataset: iter(MODEL.items()),
)
JOB = WorkloadJob(
    code=Path("/private/code"),
    argv=("main.py",),
    params={},
    environment={},
    inputs=(TableInput(view="visits", columns=(Column(name="person", type="int64"),), parts=(PART,)),),
    outputs=(TableOutput(dataset="report", files=2),),
    files=(FilesInput(dataset="model"),),
    folders=(FilesOutput(dataset="scores", files=1),),
    limits=Limits(wall_s=60, memory_mib=1, cores=1),
)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[GuestSocket]:
    guest = GuestSocket(tmp_path, job=JOB)
    yield guest
    guest.close()


def placed(message: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The vector with the private directory of this test."""
    path = message.get("path")
    return message if path is None else {**message, "path": path.replace("/private", str(folder), 1)}


def ask(folder: Path, line: bytes) -> tuple[bytes, list[int]]:
    """What the guest answers to a line, and the descriptors that come with it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.connect(str(folder / "guest.sock"))
        channel.sendall(line)
        channel.shutdown(socket.SHUT_WR)
        answer, descriptors, _, _ = socket.recv_fds(channel, 65536, 4)
        return answer, descriptors


def content(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return os.pread(file.fileno(), MIB, 0)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["says"])
def test_messages_are_answered_as_written_down(vector: dict[str, Any], guest: GuestSocket, tmp_path: Path) -> None:
    guest.arm(KEYS, on_progress=lambda percent: None)
    answer, descriptors = ask(tmp_path, json.dumps(placed(vector["request"], tmp_path)).encode() + b"\n")
    assert json.loads(answer) == vector["answer"]
    assert [content(descriptor).hex() for descriptor in descriptors] == [
        vector[key] for key in ("content_hex",) if key in vector
    ]


def test_java_asks_and_reads_as_written_down(
    guest: GuestSocket, tmp_path: Path, installation: ImageInstallation
) -> None:
    guest.arm(KEYS, on_progress=lambda percent: None)
    asked = [placed(vector["request"], tmp_path) for vector in VECTORS[:3]]
    classes = f"{installation.jars}/ppml-spark.jar:{installation.package('pyspark')}/jars/*"
    program = Path(__file__).with_name("AskKeys.java")
    arguments = [word for message in asked for word in (message["op"], message["path"])]
    command = [str(installation.java), "-cp", classes, str(program), *arguments]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    read, written, refused = said
    assert read == f"{VECTORS[0]['key_hex']} {VECTORS[0]['aad_hex']}"
    assert written.startswith(f"{VECTORS[1]['key_hex']} {VECTORS[1]['aad_hex']}")
    assert "refused to read" in refused
    assert "not_granted" in refused


def test_no_key_is_given_before_the_lease(guest: GuestSocket, tmp_path: Path) -> None:
    granted = [vector for vector in VECTORS if vector["request"]["op"] in ("read", "write", "open", "table", "create")]
    for vector in granted[:-1]:
        assert guest.answer(placed(vector["request"], tmp_path)) == REFUSED


def test_no_key_is_given_after_the_end(guest: GuestSocket, tmp_path: Path) -> None:
    guest.arm(KEYS, on_progress=lambda percent: None)
    guest.close()
    assert guest.answer(placed(VECTORS[0]["request"], tmp_path)) == REFUSED
    assert guest.answer({"op": "open", "dataset": "model"}) == REFUSED
    assert not (tmp_path / "guest.sock").exists()


@pytest.mark.parametrize(
    "path",
    [
        "/storage/visits/part-00000",
        "{}/inputs/visits/../visits/part-00000",
        "{}/inputs/visits",
        "{}/output/report/part-00000",
        "/etc/passwd",
        "",
    ],
)
def test_a_part_has_one_name_only(path: str, guest: GuestSocket, tmp_path: Path) -> None:
    guest.arm(KEYS, on_progress=lambda percent: None)
    assert guest.answer({"op": "read", "path": path.format(tmp_path)}) == REFUSED


def test_what_is_read_cannot_be_changed(guest: GuestSocket, tmp_path: Path) -> None:
    guest.arm(KEYS, on_progress=lambda percent: None)
    _, (descriptor,) = ask(tmp_path, b'{"op":"open","dataset":"model","file":"model.onnx"}\n')
    with os.fdopen(descriptor, "rb") as file:
        for change in (lambda: os.write(file.fileno(), b"x"), lambda: os.truncate(file.fileno(), 0)):
            with pytest.raises(PermissionError):
                change()
        with pytest.raises(PermissionError):
            mmap.mmap(file.fileno(), 4, mmap.MAP_SHARED, mmap.PROT_WRITE)


def test_an_output_is_written_once(guest: GuestSocket, tmp_path: Path) -> None:
    guest.arm(KEYS, on_progress=lambda percent: None)
    for message in ({"op": "create", "dataset": "report"}, {"op": "create", "dataset": "scores", "file": "a"}):
        assert guest.answer(message).message == {"done": True}
        assert guest.answer(message) == REFUSED
    assert guest.answer({"op": "create", "dataset": "scores", "file": "one more"}) == REFUSED


def test_an_input_larger_than_the_steps_memory_is_refused(guest: GuestSocket) -> None:
    keys = replace(KEYS, open_files=lambda dataset: iter({"a": bytes(MIB), "b": b"x"}.items()))
    guest.arm(keys, on_progress=lambda percent: None)
    assert guest.answer({"op": "open", "dataset": "model"}).message == {"refused": "out_of_memory"}
    assert guest.failure == "out_of_memory"


def test_an_input_that_is_not_what_was_sealed_ends_the_job(guest: GuestSocket) -> None:
    def changed(dataset: str) -> Iterator[tuple[str, bytes]]:
        raise VerificationError("part of model is not whole: canary-17")

    guest.arm(replace(KEYS, open_files=changed), on_progress=lambda percent: None)
    assert guest.answer({"op": "open", "dataset": "model"}).message == {"refused": "input_corrupt"}
    assert guest.failure == "input_corrupt"


def test_progress_is_the_share_of_the_input_that_was_opened(guest: GuestSocket, tmp_path: Path) -> None:
    told: list[int] = []
    guest.arm(KEYS, on_progress=told.append)
    guest.answer({"op": "open", "dataset": "model"})
    guest.answer({"op": "open", "dataset": "model"})
    guest.answer({"op": "read", "path": str(tmp_path / "inputs/visits/part-00000")})
    assert told == [0, 50]


UUID = "0b0e3c2e-6a5f-4f0c-8f0e-1d2c3b4a5f60"


@pytest.mark.parametrize(
    "name",
    [
        f"part-00000-{UUID}-c001.snappy.parquet",
        f"../report/part-00000-{UUID}-c000.snappy.parquet",
        f"_temporary/0/_temporary/attempt_1_m_0/plan=a/part-00000-{UUID}-c000.snappy.parquet",
        f"_temporary/0/../part-00000-{UUID}-c000.snappy.parquet",
        f"other/part-00000-{UUID}-c000.snappy.parquet",
        "part-00000",
    ],
)
def test_only_parts_of_an_output_are_written(name: str, guest: GuestSocket, tmp_path: Path) -> None:
    guest.arm(KEYS, on_progress=lambda percent: None)
    assert guest.answer({"op": "write", "path": f"{tmp_path}/output/report/{name}"}) == REFUSED


@pytest.mark.parametrize("line", [b"no json\n", b"[1]\n", b'{"op":"read"', b"\xff\n"])
def test_what_is_no_message_gets_no_answer(line: bytes, guest: GuestSocket, tmp_path: Path) -> None:
    assert ask(tmp_path, line) == (b"", [])


def test_a_malformed_line_is_an_error_of_the_sender() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"{}{}\n")
        with pytest.raises(MalformedInputError, match="not JSON"):
            Connection(ours).receive(timeout_s=5)
        theirs.sendall(b"[]\n")
        with pytest.raises(MalformedInputError, match="not one JSON object"):
            Connection(ours).receive(timeout_s=5)
    ours.close()


def test_a_secret_is_not_shown() -> None:
    assert "data_key" not in repr(FileKey(data_key=b"k" * 32, aad=b""))


def test_the_socket_is_the_owners_alone(guest: GuestSocket, tmp_path: Path) -> None:
    assert (tmp_path / "guest.sock").stat().st_mode & 0o777 == 0o600
