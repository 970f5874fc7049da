"""Flink in a set: what the leader's guest tells those of the TaskManagers, and what they hand over."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ppml_airflow import canonical
from ppml_airflow.canonical import Document
from ppml_airflow.workloads.cluster import END, Cluster
from ppml_airflow.workloads.flink.streams import Segment


class JobManager(Document, frozen=True, kw_only=True):
    """How a member's TaskManager finds the JobManager, and under which keys the members of a set work."""

    rpc_port: int
    key_store: bytes
    """A PKCS #12 file: the one key and certificate of all ends."""
    password: str
    inside_key: bytes
    """Of frames that stay inside (32 bytes): what subtasks write."""

    def __repr__(self) -> str:
        return f"JobManager(rpc_port={self.rpc_port})"


class _Names(Document, frozen=True, kw_only=True):
    """Dataset and name of each segment that follows."""

    segments: tuple[tuple[str, str], ...]


_NAMES = END + 1


def post_segments(cluster: Cluster, segments: list[Segment]) -> None:
    """Hand over what this member's subtasks wrote: a message with the names, then one for each segment."""
    names = tuple((segment.dataset, segment.name) for segment in segments)
    cluster.post(canonical.encode(_Names(segments=names)), turn=_NAMES)
    for number, segment in enumerate(segments, start=1):
        cluster.post(segment.content, turn=_NAMES + number)


def hear_segments(cluster: Cluster, *, limit: int, is_over: Callable[[], bool]) -> Iterator[Segment]:
    """What all other members hand over, one segment after the other.

    Args:
        cluster: the leader's way to the others.
        limit: bytes of a segment at most.
        is_over: whether nobody waits any more.

    Raises:
        VerificationError: it is no member's word.
        MalformedInputError: a member says something else.
        ConfigurationError: too large, or nobody waits any more.
    """
    for sender in range(1, cluster.members):
        said = cluster.hear(turn=_NAMES, sender=sender, limit=limit, is_over=is_over)
        for number, (dataset, name) in enumerate(canonical.decode(said, into=_Names).segments, start=1):
            content = cluster.hear(turn=_NAMES + number, sender=sender, limit=limit, is_over=is_over)
            yield Segment(dataset=dataset, name=name, content=content)
