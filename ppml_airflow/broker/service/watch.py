"""What operators see of the broker: Prometheus metrics, and an audit log of who asked for what with which outcome.

Neither holds a token, a cookie, a key, a quote or a byte of any body: routes by name, path parameters, callers by name,
outcomes by code.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from logging.handlers import WatchedFileHandler
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.units import Instant

_MAX_PARAMETER = 100
_audit = logging.getLogger("ppml.audit")


class Watch:
    """Counts and writes down what was asked."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "ppml_broker_requests", "Requests answered.", ("route", "status"), registry=self.registry
        )
        self._refusals = Counter("ppml_broker_refusals", "Requests refused.", ("code",), registry=self.registry)
        self._seconds = Histogram(
            "ppml_broker_request_seconds", "Time to the answer.", ("route",), registry=self.registry
        )
        self._entries = Gauge("ppml_broker_log_entries", "Entries of the log.", registry=self.registry)
        self._epoch = Gauge("ppml_broker_epoch", "How often the broker was recovered.", registry=self.registry)

    def answered(
        self,
        *,
        time: Instant,
        route: str,
        method: str,
        status: int,
        code: str,
        seconds: float,
        caller: str,
        peer: str,
        parameters: Mapping[str, str],
    ) -> None:
        """Count an answer. What changes anything, and what was refused, goes to the audit log."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if code:
            self._refusals.labels(code).inc()
        if code or method != "GET":
            said = {name: value[:_MAX_PARAMETER] for name, value in parameters.items()}
            line = {"time": time, "route": route, "status": status, "code": code, "caller": caller, "peer": peer}
            _audit.info("%s", json.dumps(line | ({"parameters": said} if said else {}), sort_keys=True))

    def metrics(self) -> bytes:
        """The metrics in Prometheus' text form."""
        with self._broker.decision() as ledger:
            self._entries.set(ledger.log.size)
            self._epoch.set(ledger.epoch)
        return generate_latest(self.registry)


def write_audit_log(path: Path) -> None:
    """Append the audit log to a file that is its owner's alone. It may be moved away while the broker runs."""
    path.touch(mode=0o600, exist_ok=True)
    handler = WatchedFileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    _audit.handlers = [handler]
    _audit.setLevel(logging.INFO)
    _audit.propagate = False
