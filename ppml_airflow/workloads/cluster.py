"""How the members of a set speak to each other: sealed messages, which hosts carry and cannot read, change or invent.

A message is a file in the storage that all members see, sealed under a key that is derived from their cluster secret,
for one place: this set, this round, this sender. It is padded to a size class. The host may withhold a message. A
member that replaces another says again what that one said; of the two the host chooses, and both are members' words.

Source: RFC 5869 (HKDF); bodies as in `sealing.body`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ppml_airflow import canonical
from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.sealing.body import open_part_bytes, padded_bytes, seal_part
from ppml_airflow.sealing.manifest import Part
from ppml_airflow.units import KIB

START, END = 0, 1
"""The turns in which the leader of an engine's set says how to come to it, and that it is over."""
LEADERS_WORD_BYTES = 64 * KIB
"""More it never says in them."""

_MESSAGES = b"ppml/v1/cluster/messages\0"
_PAUSE_S = 0.05
_OVERHEAD = 1.01
"""A sealed body is longer than its content: a tag for each chunk of it, less than a hundredth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterKeys:
    """The keys of one set's attempt, alike in each of its members; the secret itself goes no further."""

    messages: bytes = field(repr=False)
    """32 bytes, under which members speak to each other."""

    @classmethod
    def derive(cls, secret: bytes) -> Self:
        """Derive them from the cluster secret (32 bytes)."""
        return cls(messages=_derive(secret, info=_MESSAGES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One member's way to the others.

    Args:
        keys: of its set.
        folder: where messages lie; the host's.
        set_id: of its set.
        index: which member this is.
        members: how many there are.
    """

    keys: ClusterKeys
    folder: Path
    set_id: str
    index: int
    members: int

    def post(self, data: bytes, *, turn: int) -> None:
        """Say something to the others. `turn` counts what all of them say and hear, from 0."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path, context = self._place(turn=turn, sender=self.index)
        seal_part(data, path, key=self.keys.messages, context=context, padded=True)

    def hear(self, *, turn: int, sender: int, limit: int, is_over: Callable[[], bool]) -> bytes:
        """Wait for what a member says in a turn.

        Args:
            turn: which one.
            sender: which member.
            limit: bytes at most.
            is_over: whether nobody waits any more.

        Raises:
            VerificationError: it is no member's word, or not of this place.
            ConfigurationError: too large, or nobody waits any more.
        """
        path, context = self._place(turn=turn, sender=sender)
        while not path.exists():
            if is_over():
                raise ConfigurationError("the job is over", code="cancelled")
            time.sleep(_PAUSE_S)
        with contextlib.suppress(OSError):
            if path.stat().st_size > _OVERHEAD * padded_bytes(limit):
                raise ConfigurationError(f"message of member {sender} is larger than the step's memory")
        sealed = path.read_bytes()
        part = Part(path=path.name, size=len(sealed), digest=canonical.digest_bytes(sealed), sealed_version=1)
        try:
            return open_part_bytes(path, part=part, key=self.keys.messages, context=context, padded=True)
        except VerificationError as error:
            raise VerificationError(f"message of member {sender} is not this set's", code="other_set") from error

    def _place(self, *, turn: int, sender: int) -> tuple[Path, bytes]:
        context = canonical.encode(
            {"label": "ppml/v1/cluster-message", "set_id": self.set_id, "turn": turn, "sender": sender}
        )
        return self.folder / f"{turn}-{sender}", context


def messages_folder(storage: Path, *, set_id: str) -> Path:
    """Where the messages of a set lie. Whoever started it removes them at its end."""
    return storage / "sets" / set_id


def _derive(secret: bytes, *, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(secret)
