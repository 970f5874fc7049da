"""How much anybody may ask: so many requests a second for each peer, judged before a body or a signature is looked at.

A peer is an address, never what a request says of itself: a token or a cookie that somebody makes up buys nothing.
Whoever comes over a Unix socket is one peer.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from ppml_airflow.errors import UnavailableError

_MAX_PEERS = 10_000
BURST_SECONDS = 2
"""A peer that was silent may ask at once what it could have asked in so many seconds."""


class Admission:
    """A token bucket for each peer. Not for threads: it belongs to the event loop."""

    def __init__(self, *, requests_per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = requests_per_second
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def require_room(self, peer: str) -> None:
        """Count a request.

        Raises:
            UnavailableError: the peer has asked too much; it may ask again in a second.
        """
        now, full = self._clock(), float(self._rate * BURST_SECONDS)
        left, then = self._buckets.pop(peer, (full, now))
        left = min(full, left + (now - then) * self._rate)
        self._buckets[peer] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > _MAX_PEERS:
            self._buckets.popitem(last=False)
        if left < 1:
            raise UnavailableError(
                f"peer asks more than {self._rate} times a second",
                code="too_many_requests",
                hint="ask again in a second",
            )
