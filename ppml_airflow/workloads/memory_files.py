"""Files that exist in memory only, handed to a job's processes as descriptors: plaintext never gets a path on a disk.

What a job reads is sealed (F_SEAL_*): no process that holds the descriptor can change, cut or grow it. Every size is
bounded by the caller.

Source: memfd_create(2), fcntl(2) "File Sealing".
"""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Callable
from typing import BinaryIO

from ppml_airflow.errors import ConfigurationError

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class _Bounded(io.RawIOBase):
    """Writes to a descriptor up to a number of bytes."""

    def __init__(self, descriptor: int, *, limit: int) -> None:
        self._descriptor = descriptor
        self._left = limit

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]  # RawIOBase leaves the buffer's type open
        if view.nbytes > self._left:
            raise too_large()
        written = os.write(self._descriptor, view)
        self._left -= written
        return written


def sealed_memory(fill: Callable[[BinaryIO], None], *, limit: int) -> int:
    """Make a file in memory, let `fill` write it, seal it; return its descriptor, which the caller closes.

    Args:
        fill: writes the content.
        limit: bytes at most.

    Raises:
        ConfigurationError: the content is larger.
    """
    descriptor = os.memfd_create("ppml", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with io.BufferedWriter(_Bounded(descriptor, limit=limit)) as writer:
            fill(writer)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def writable_memory() -> int:
    """Make an empty file in memory for a job to write; return its descriptor, which the caller closes."""
    return os.memfd_create("ppml", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def seal_written(descriptor: int, *, limit: int) -> int:
    """Seal what a job wrote, when its processes are gone, and return the size.

    Raises:
        ConfigurationError: the content is larger than the limit.
    """
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    size = os.fstat(descriptor).st_size
    if size > limit:
        raise too_large()
    return size


def read_memory(descriptor: int) -> bytes:
    """The content of a sealed file in memory."""
    size = os.fstat(descriptor).st_size
    content = bytearray()
    while len(content) < size:
        content += os.pread(descriptor, size - len(content), len(content))
    return bytes(content)


def too_large() -> ConfigurationError:
    """The error of a file that is larger than the step's memory."""
    return ConfigurationError("a file in memory is larger than the step's memory allows", code="out_of_memory")
