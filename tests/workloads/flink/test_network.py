"""A running cluster as another user of the host sees it: loopback alone, and nothing is said to who has no key."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ppml_airflow.workloads.flink.sql import FlinkSql
from ppml_airflow.workloads.installation import ImageInstallation
from tests.support.commands import processes_in
from tests.support.flink_jobs import StreamWorld

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
LISTENING = "0A"


@pytest.fixture(scope="module")
def private(flink: ImageInstallation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    world = StreamWorld(folder=tmp_path_factory.mktemp("network"))
    world.seal("clicks", {"page": "string"}, [[{"page": "p"}]])
    job = world.job({"q.sql": "SELECT page FROM clicks"})
    workload = FlinkSql(job, installation=flink, private=world.private, log=world.log)
    try:
        workload.prepare()
        yield world.private
    finally:
        workload.close()


def listening(folder: Path) -> list[tuple[str, int]]:
    """Address, as /proc writes it, and port of every socket on which the cluster listens."""
    inodes = set()
    for pid in processes_in(folder):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                if match := re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink())):
                    inodes.add(match[1])
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and fields[9] in inodes:
                address, _, port = fields[1].partition(":")
                found.append((address, int(port, 16)))
    return found


def test_every_port_is_of_loopback(private: Path) -> None:
    found = listening(private)
    assert len(found) >= 3, "the REST endpoint, and an endpoint of each machine"
    assert {address for address, _ in found} <= LOOPBACK


def answer(port: int) -> bytes:
    """What somebody without a certificate is told: nothing, if the connection is refused or closed."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            context.wrap_socket(plain) as channel,
        ):
            channel.sendall(b"GET /config HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return channel.recv(1)
    except (ssl.SSLError, ConnectionError):
        return b""


def test_nothing_is_said_to_who_has_no_key(private: Path) -> None:
    assert {port: answer(port) for _, port in listening(private)} == {port: b"" for _, port in listening(private)}


def test_settings_and_key_are_their_owners_alone_and_hold_no_data_key(private: Path) -> None:
    for name in ("config.yaml", "tls.p12"):
        assert (private / "conf" / name).stat().st_mode & 0o077 == 0
    for pid in processes_in(private):
        assert b"password" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"password" not in Path(f"/proc/{pid}/environ").read_bytes()
