"""Where whoever judges quotes gets collateral: from one file, or from a cache that is filled and refreshed ahead.

A decision only ever reads what is kept here already, so that it waits for no network. What is missing is fetched
before, when evidence comes in (`prepare`); what is there is fetched anew long before it expires, by its own thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from ppml_airflow.attestation.collateral.cache import CollateralCache
from ppml_airflow.attestation.collateral.service import CollateralService, fetch_collateral
from ppml_airflow.attestation.collateral.statements import PlatformFamily, VerifiedCollateral, family_of
from ppml_airflow.errors import PpmlError

logger = logging.getLogger("ppml.collateral")

_LOOK_S = 600.0


class CollateralSource(Protocol):
    """Collateral for whoever judges quotes."""

    def prepare(self, quote: bytes, *, now: datetime) -> None:
        """Have collateral for a quote, if it can be had. May wait for a network; never raises for want of it."""

    def load(self, quote: bytes) -> bytes:
        """The newest collateral for a quote, expired or not. Waits for nothing.

        Raises:
            UnavailableError: there is none.
            MalformedInputError: the quote does not say of which platform it is.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class OneCollateral:
    """The same collateral for every quote: a machine of one platform, or a simulated one."""

    read: Callable[[], bytes]

    def prepare(self, quote: bytes, *, now: datetime) -> None:
        """Nothing to do."""

    def load(self, quote: bytes) -> bytes:
        """The collateral as it is now."""
        return self.read()


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedCollateral:
    """A cache, and perhaps the service that fills it."""

    cache: CollateralCache
    service: CollateralService | None
    """None: what is imported is all there is."""
    refresh_after: timedelta
    _fetching: threading.Lock = field(default_factory=threading.Lock)

    def prepare(self, quote: bytes, *, now: datetime) -> None:
        """Fetch what is not there yet."""
        if self.service is None:
            return
        try:
            family = family_of(quote)
            if self.cache.fetched(family) is None:
                with self._fetching:  # one at a time: many guests of one platform ask at once
                    if self.cache.fetched(family) is None:
                        self.refresh(family, service=self.service, now=now)
        except PpmlError as error:
            logger.warning("no collateral was fetched: %s", error)

    def load(self, quote: bytes) -> bytes:
        """What the cache has."""
        return self.cache.load(family_of(quote))

    def refresh(self, family: PlatformFamily, *, service: CollateralService, now: datetime) -> VerifiedCollateral:
        """Fetch the newest collateral of a family and keep it.

        Raises:
            UnavailableError: the service does not answer.
            VerificationError: its answer, or the service itself, is not authentic, or the answer is older than seen.
            MalformedInputError: its answer does not parse.
        """
        return self.cache.store(family, collateral=fetch_collateral(family, service=service), now=now)

    def refresh_due(self, *, now: datetime) -> tuple[PlatformFamily, ...]:
        """Fetch anew whatever was fetched long enough ago; what fails stays, and is tried again at the next call."""
        if self.service is None:
            return ()
        refreshed = []
        for family in self.cache.families():
            fetched = self.cache.fetched(family)
            if fetched is not None and now - fetched < self.refresh_after:
                continue
            try:
                self.refresh(family, service=self.service, now=now)
                refreshed.append(family)
            except PpmlError as error:
                logger.warning("collateral of %s was not refreshed: %s", family, error)
        return tuple(refreshed)

    def keep_fresh(self, *, clock: Callable[[], datetime], stop: threading.Event) -> None:
        """Refresh ahead until `stop` is set. For a thread."""
        while not stop.is_set():
            self.refresh_due(now=clock())
            stop.wait(_LOOK_S)
