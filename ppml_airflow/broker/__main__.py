"""`python -m ppml_airflow.broker --config broker.yaml`: serve until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import click
import uvicorn
from fastapi import FastAPI

from ppml_airflow import canonical
from ppml_airflow.attestation.roots import INTEL_ROOT, TrustRoot
from ppml_airflow.broker.service.api import create_app
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.callers import load_callers
from ppml_airflow.broker.service.leases import RELEASE_KEK
from ppml_airflow.broker.settings import BrokerSettings, load_settings
from ppml_airflow.broker.store import Store
from ppml_airflow.domain.documents import Domain
from ppml_airflow.errors import ConfigurationError, PpmlError, UnavailableError
from ppml_airflow.keys.keystore import KeystoreFile
from ppml_airflow.signing import SigningKey

logger = logging.getLogger("ppml.broker")


def build_broker(settings: BrokerSettings) -> Broker:
    """Put the broker together from its files.

    Raises:
        ConfigurationError: a file is missing or wrong, or roots and domain do not match.
    """
    domain = canonical.decode(_read(settings.domain), into=Domain)
    keystore = KeystoreFile.load(settings.keystore, passphrase=_read(settings.passphrase).strip())
    try:
        keystore.create_key(RELEASE_KEK)
    except ConfigurationError as error:
        if error.code != "key_exists":
            raise
    roots = tuple(TrustRoot(_read(path)) for path in settings.tee_roots)
    if not roots and domain.trust == "hardware":
        roots = (INTEL_ROOT,)

    def collateral() -> bytes:
        try:
            return settings.collateral.read_bytes()
        except OSError as error:
            raise UnavailableError(f"collateral {settings.collateral} cannot be read", code="no_collateral") from error

    return Broker(
        domain=domain,
        signing_key=SigningKey.load(settings.signing_key),
        store=Store.file(settings.database),
        kms=keystore,
        dataset_keys=settings.dataset_keys,
        roots=roots,
        collateral=collateral,
        clock=lambda: datetime.now(UTC),
    )


def server_configs(app: FastAPI, *, listen: Sequence[str]) -> list[uvicorn.Config]:
    """One uvicorn configuration per address.

    Raises:
        ConfigurationError: an address is neither http://HOST:PORT nor unix:/PATH.
    """
    configs = []
    for address in listen:
        common = {"log_level": "warning", "access_log": False, "server_header": False, "lifespan": "off"}
        if address.startswith("unix:/"):
            configs.append(uvicorn.Config(app, uds=address.removeprefix("unix:"), **common))  # type: ignore[arg-type]
            continue
        parts = urlsplit(address)
        if parts.scheme != "http" or parts.hostname is None or parts.port is None:
            raise ConfigurationError(f"listen address {address!r} is neither http://HOST:PORT nor unix:/PATH")
        configs.append(uvicorn.Config(app, host=parts.hostname, port=parts.port, **common))  # type: ignore[arg-type]
    return configs


class _Server(uvicorn.Server):
    """Signals are handled once for all servers, below."""

    def install_signal_handlers(self) -> None:
        """Install none."""


async def serve(app: FastAPI, *, listen: Sequence[str]) -> None:
    """Serve on every address until SIGTERM or SIGINT."""
    servers = [_Server(config) for config in server_configs(app, listen=listen)]

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await asyncio.gather(*(server._serve() for server in servers))


@click.command()
@click.option("--config", type=click.Path(path_type=Path), required=True)
def main(config: Path) -> None:
    """Serve the broker."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        settings = load_settings(config)
        broker = build_broker(settings)
        app = create_app(broker, callers=lambda: load_callers(settings.tokens))
        logger.info("broker of domain %s, trust: %s", broker.domain.name, broker.domain.trust)
        asyncio.run(serve(app, listen=settings.listen))
    except PpmlError as error:
        sys.exit(f"broker: {error}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"file {path} cannot be read: {error.strerror}") from error


if __name__ == "__main__":
    main()
