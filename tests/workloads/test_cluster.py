"""Members of a set speak through a host that may do what it likes with their messages, but read or change them."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest

from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.workloads.cluster import Cluster, ClusterKeys, messages_folder

SECRET = bytes(32)


@pytest.fixture
def member(tmp_path: Path) -> Cluster:
    keys = ClusterKeys.derive(SECRET)
    return Cluster(keys=keys, folder=tmp_path / "sets", set_id="a" * 32, index=1, members=3)


def hear(member: Cluster, *, turn: int = 0, sender: int = 1, limit: int = 2**20) -> bytes:
    return member.hear(turn=turn, sender=sender, limit=limit, is_over=lambda: False)


def test_what_one_member_says_another_hears(member: Cluster) -> None:
    member.post(b"found 7", turn=0)
    assert hear(dataclasses.replace(member, index=0)) == b"found 7"


def test_a_member_waits_for_what_is_not_said_yet(member: Cluster) -> None:
    later = threading.Timer(0.2, member.post, args=(b"late",), kwargs={"turn": 3})
    later.start()
    assert hear(member, turn=3) == b"late"
    later.join()


def test_nobody_waits_when_the_job_is_over(member: Cluster) -> None:
    with pytest.raises(ConfigurationError, match="the job is over"):
        member.hear(turn=0, sender=2, limit=99, is_over=lambda: True)


def test_the_keys_are_not_the_secret(member: Cluster) -> None:
    assert len(member.keys.messages) == 32
    assert member.keys.messages != SECRET


def test_a_message_shows_neither_content_nor_size(member: Cluster) -> None:
    for turn, said in enumerate((b"canary", b"canary" * 999)):
        member.post(said, turn=turn)
    files = [file.read_bytes() for file in member.folder.iterdir()]
    assert len({len(content) for content in files}) == 1
    assert all(b"canary" not in content for content in files)


def test_a_changed_message_is_refused(member: Cluster) -> None:
    member.post(b"found 7", turn=0)
    (file,) = member.folder.iterdir()
    content = bytearray(file.read_bytes())
    content[99] ^= 1
    file.write_bytes(content)
    with pytest.raises(VerificationError):
        hear(member)


@pytest.mark.parametrize("place", ["1-1", "0-2"])
def test_a_message_of_another_turn_or_member_is_refused(member: Cluster, place: str) -> None:
    member.post(b"found 7", turn=0)
    (file,) = member.folder.iterdir()
    file.rename(member.folder / place)
    turn, sender = map(int, place.split("-"))
    with pytest.raises(VerificationError) as caught:
        hear(member, turn=turn, sender=sender)
    assert caught.value.code == "other_set"


@pytest.mark.parametrize("stranger", [{"keys": ClusterKeys.derive(b"1" * 32)}, {"set_id": "b" * 32}])
def test_a_message_of_another_set_is_refused(member: Cluster, stranger: dict[str, object]) -> None:
    dataclasses.replace(member, **stranger).post(b"found 7", turn=0)  # type: ignore[arg-type]
    with pytest.raises(VerificationError):
        hear(member)


def test_a_message_larger_than_the_jobs_memory_is_not_read(member: Cluster) -> None:
    member.post(bytes(3 * 2**20), turn=0)
    with pytest.raises(ConfigurationError, match="larger"):
        hear(member, limit=2**20)


def test_messages_lie_beside_the_datasets(tmp_path: Path) -> None:
    assert messages_folder(tmp_path, set_id="a" * 32) == tmp_path / "sets" / ("a" * 32)
