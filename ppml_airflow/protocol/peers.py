"""Who is at the other end of a Unix socket: the kernel says it (SO_PEERCRED), the other end cannot.

Source: unix(7).
"""

from __future__ import annotations

import os
import socket
import struct

_ROOT = 0
_CREDENTIALS = struct.Struct("3i")


def user_of(connection: socket.socket) -> int:
    """The user who connected, by number; as it was then, whatever became of the process since."""
    _, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(user)


def is_own(connection: socket.socket) -> bool:
    """Whether this process's user connected, or root, however far the socket's mode was opened."""
    return user_of(connection) in {os.geteuid(), _ROOT}
