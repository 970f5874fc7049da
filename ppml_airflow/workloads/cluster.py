"""What the members of a set make of their cluster secret: one key for each use, and never the secret itself.

Source: RFC 5869 (HKDF).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_MESSAGES = b"ppml/v1/cluster/messages\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterKeys:
    """The keys of one set's attempt, alike in each of its members."""

    messages: bytes = field(repr=False)
    """32 bytes, under which members speak to each other."""

    @classmethod
    def derive(cls, secret: bytes) -> Self:
        """Derive them from the cluster secret (32 bytes)."""
        return cls(messages=_derive(secret, info=_MESSAGES))


def _derive(secret: bytes, *, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(secret)
