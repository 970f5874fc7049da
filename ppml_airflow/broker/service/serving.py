"""The broker as a process: put together from `broker.yaml`, compared with its anchor, served until a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator, Sequence
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
from ppml_airflow.broker.service.watch import write_audit_log
from ppml_airflow.broker.settings import TlsSettings, load_settings
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.protocol.listening import listening_socket, serving_only
from ppml_airflow.protocol.peers import parse_users

MAX_CONNECTIONS = 1024
"""More are answered 503 at once."""

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
    write_audit_log(settings.audit_log)
    app = create_app(
        broker, callers=lambda: load_callers(settings.tokens), requests_per_second=settings.requests_per_second
    )
    logger.info("broker of domain %s, trust: %s", broker.domain.name, broker.domain.trust)
    with helped(broker):
        serve(app, listen=settings.listen, users=parse_users(settings.socket_users), tls=settings.tls)


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


def serve(app: FastAPI, *, listen: Sequence[str], users: Sequence[range] = (), tls: TlsSettings | None = None) -> None:
    """Serve on every address until SIGTERM or SIGINT; `https://` with TLS 1.3, Unix sockets these users only.

    Raises:
        ConfigurationError: an address cannot be bound, or the certificate cannot be used.
    """
    with ExitStack() as stack:
        plain = [
            stack.enter_context(listening_socket(one, users=users)) for one in listen if not one.startswith("https:")
        ]
        private = [stack.enter_context(listening_socket(one)) for one in listen if one.startswith("https:")]
        servers = [(uvicorn.Server(_configure(app, users=users)), plain)] if plain else []
        if private:
            servers.append((uvicorn.Server(_with_tls(_configure(app, users=users), tls=tls)), private))
        # When uvicorn raises the signal that ended it once more, there is still something to end.
        signal.signal(signal.SIGTERM, lambda number, frame: _end(server for server, _ in servers))
        asyncio.run(_together(servers))


def _end(servers: Iterable[uvicorn.Server]) -> None:
    for server in servers:
        server.should_exit = True


async def _together(servers: Iterable[tuple[uvicorn.Server, list[socket.socket]]]) -> None:
    await asyncio.gather(*(server.serve(sockets=sockets) for server, sockets in servers))


def _configure(app: FastAPI, *, users: Sequence[range]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=serving_only(users),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,  # a TLS client that is silent would be waited for
    )


def _with_tls(config: uvicorn.Config, *, tls: TlsSettings | None) -> uvicorn.Config:
    if tls is None:
        raise ConfigurationError("https:// needs a certificate", hint="set tls: certificate, key")
    config.ssl_certfile, config.ssl_keyfile = str(tls.certificate), str(tls.key)
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"certificate {tls.certificate} or its key cannot be used: {error}") from error
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return config
