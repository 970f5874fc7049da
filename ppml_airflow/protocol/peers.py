"""Who is at the other end of a Unix socket: the kernel says it (SO_PEERCRED), the other end cannot.

Source: unix(7).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

UserNumbers = Annotated[str, Field(pattern=r"^[0-9]{1,10}(-[0-9]{1,10})?$")]
"""A user by number, `1000`, or users from the first to the last, `1000-1999`, in a settings file."""

_ROOT = 0
_CREDENTIALS = struct.Struct("3i")


def user_of(connection: socket.socket) -> int:
    """The user who connected, by number; as it was then, whatever became of the process since."""
    _, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(user)


def is_served(connection: socket.socket, *, users: Sequence[range] = ()) -> bool:
    """Whether this process's user connected, or root, or one of `users`, however far the socket's mode was opened."""
    user = user_of(connection)
    return user in {os.geteuid(), _ROOT} or any(user in some for some in users)


def parse_users(entries: Sequence[str]) -> tuple[range, ...]:
    """Read what `UserNumbers` admits."""
    ends = [entry.partition("-") for entry in entries]
    return tuple(range(int(first), int(last or first) + 1) for first, _, last in ends)
