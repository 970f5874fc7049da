"""What a job's process of one member may say to the others, and hear: through the guest, and nothing else."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ppml_airflow.domain.documents import Limits
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from ppml_airflow.workloads.cluster import Cluster, ClusterKeys
from ppml_airflow.workloads.contents import Contents
from ppml_airflow.workloads.guest_socket import GuestSocket
from ppml_airflow.workloads.job import FilesOutput, JobKeys, TableOutput, WorkloadJob
from ppml_airflow.workloads.mailbox import Mailbox
from ppml_airflow.workloads.memory_files import read_memory


@pytest.fixture
def job(tmp_path: Path) -> WorkloadJob:
    return WorkloadJob(
        code=tmp_path,
        argv=(),
        params={},
        environment={},
        inputs=(),
        outputs=(TableOutput(dataset="report", files=1),),
        folders=(FilesOutput(dataset="scores", files=2),),
        limits=Limits(wall_s=60, memory_mib=2, cores=1),
        members=2,
        index=1,
    )


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    keys = ClusterKeys.derive(bytes(32))
    return Cluster(keys=keys, folder=tmp_path / "sets", set_id="a" * 32, index=1, members=2)


@pytest.fixture
def mailbox(job: WorkloadJob, cluster: Cluster) -> Iterator[Mailbox]:
    mailbox = Mailbox(job)
    mailbox.arm(cluster)
    yield mailbox
    mailbox.close()


def post(mailbox: Mailbox, data: bytes, *, turn: int = 0) -> None:
    mail, descriptor = mailbox.new()
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    mailbox.post(mail, turn=turn)


def hear(mailbox: Mailbox, *, turn: int = 0, sender: int) -> bytes:
    descriptor = mailbox.hear(turn=turn, sender=sender)
    try:
        return read_memory(descriptor)
    finally:
        os.close(descriptor)


def test_what_is_posted_is_heard_by_the_others(mailbox: Mailbox, cluster: Cluster) -> None:
    post(mailbox, b"mine")
    dataclasses.replace(cluster, index=0).post(b"the leader's", turn=1)
    assert hear(mailbox, sender=1) == b"mine"
    assert hear(mailbox, turn=1, sender=0) == b"the leader's"


def test_a_job_that_is_no_sets_says_and_hears_nothing(job: WorkloadJob) -> None:
    lone = Mailbox(job)
    lone.arm(None)
    for ask in (lone.new, lambda: lone.post(1, turn=0), lambda: lone.hear(turn=0, sender=0)):
        with pytest.raises(PolicyDeniedError):
            ask()


@pytest.mark.parametrize(("turn", "sender"), [(0, 2), (0, -1), (-1, 0), (10**9, 0)])
def test_there_is_nothing_outside_the_set(mailbox: Mailbox, turn: int, sender: int) -> None:
    with pytest.raises(PolicyDeniedError):
        mailbox.hear(turn=turn, sender=sender)


def test_a_message_that_was_not_begun_is_not_sent(mailbox: Mailbox) -> None:
    with pytest.raises(PolicyDeniedError):
        mailbox.post(7, turn=0)


def test_not_more_messages_are_begun_than_are_sent(mailbox: Mailbox) -> None:
    begun = [mailbox.new()[1] for _ in range(64)]
    with pytest.raises(PolicyDeniedError, match="too many"):
        mailbox.new()
    for descriptor in begun:
        os.close(descriptor)


def test_a_message_larger_than_the_jobs_memory_is_not_sent(mailbox: Mailbox) -> None:
    with pytest.raises(ConfigurationError):
        post(mailbox, bytes(3 * 2**20))


def test_whoever_waits_hears_that_the_job_is_over(mailbox: Mailbox) -> None:
    threading.Timer(0.1, mailbox.close).start()
    with pytest.raises(ConfigurationError, match="the job is over"):
        mailbox.hear(turn=0, sender=0)


def test_a_member_that_does_not_lead_writes_no_output(job: WorkloadJob) -> None:
    contents = Contents(job)
    contents.arm(JobKeys(read={}, write=lambda dataset, path: pytest.fail("no key is asked for")))
    for dataset, name in (("report", ""), ("scores", "a")):
        with pytest.raises(PolicyDeniedError):
            contents.create(dataset, name=name)


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ({"op": "mail"}, "not_granted"),
        ({"op": "post", "mail": 1, "turn": 0}, "not_granted"),
        ({"op": "hear", "turn": 0, "sender": 0}, "not_granted"),
        ({"op": "hear", "turn": "0", "sender": 0}, "malformed"),
    ],
)
def test_a_process_is_refused_by_one_word(
    job: WorkloadJob, tmp_path: Path, message: dict[str, object], word: str
) -> None:
    guest = GuestSocket(tmp_path, job=job)
    assert guest.answer(message).message == {"refused": word}
    guest.close()


def test_a_forged_message_ends_the_job_as_corrupt_input(job: WorkloadJob, cluster: Cluster, tmp_path: Path) -> None:
    guest = GuestSocket(tmp_path, job=job)
    guest.arm(
        JobKeys(read={}, write=lambda dataset, path: pytest.fail("no key is asked for"), cluster=cluster),
        on_progress=lambda percent: None,
    )
    cluster.folder.mkdir()
    (cluster.folder / "0-0").write_bytes(b"forged" * 999)
    assert guest.answer({"op": "hear", "turn": 0, "sender": 0}).message == {"refused": "input_corrupt"}
    assert guest.failure == "input_corrupt"
    guest.close()
