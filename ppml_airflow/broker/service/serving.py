"""The broker as a process: put together from `broker.yaml`, compared with its anchor, served until a signal."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from ppml_airflow.attestation.collateral.source import CachedCollateral
from ppml_airflow.attestation.verifiers import VerifierPool
from ppml_airflow.broker.service.api import create_app
from ppml_airflow.broker.service.assembly import build_broker
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.callers import load_callers
from ppml_airflow.broker.service.recovery import require_anchored
from ppml_airflow.broker.settings import load_settings
from ppml_airflow.protocol.listening import listening_socket

logger = logging.getLogger("ppml.broker")


def run(config: Path) -> None:
    """Serve the broker that a file describes until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: a file is missing or wrong, or an address cannot be bound.
        VerificationError: the store is behind its anchor.
        UnavailableError: the database does not answer.
    """
    settings = load_settings(config)
    broker = build_broker(settings)
    require_anchored(broker)
    app = create_app(broker, callers=lambda: load_callers(settings.tokens))
    logger.info("broker of domain %s, trust: %s", broker.domain.name, broker.domain.trust)
    with helped(broker):
        serve(app, listen=settings.listen)


@contextmanager
def helped(broker: Broker) -> Iterator[None]:
    """Refresh collateral ahead in a thread as long as the broker serves; end its verifiers with it."""
    stop = threading.Event()
    if isinstance(broker.collateral, CachedCollateral):
        arguments = {"clock": broker.clock, "stop": stop}
        threading.Thread(target=broker.collateral.keep_fresh, kwargs=arguments, daemon=True).start()
    try:
        yield
    finally:
        stop.set()
        if isinstance(broker.verify, VerifierPool):
            broker.verify.close()


def serve(app: FastAPI, *, listen: Sequence[str]) -> None:
    """Serve on every address until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: an address cannot be bound.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(listening_socket(address)) for address in listen]
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off")
        server = uvicorn.Server(config)
        # When uvicorn raises the signal that ended it once more, there is still something to end.
        signal.signal(signal.SIGTERM, lambda number, frame: setattr(server, "should_exit", True))
        server.run(sockets=sockets)
