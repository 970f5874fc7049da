"""The same work in both pipelines: so many SHA-256, one after the other."""

import hashlib


def spin(rounds: int) -> str:
    """The end of a chain of digests, in hex."""
    value = b""
    for _ in range(rounds):
        value = hashlib.sha256(value).digest()
    return value.hex()
