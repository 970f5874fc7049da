"""`python -m ppml_airflow.broker --config broker.yaml`: serve until a signal ends it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

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
from ppml_airflow.protocol.listening import listening_socket
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


def serve(app: FastAPI, *, listen: Sequence[str]) -> None:
    """Serve on every address until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: an address cannot be bound.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(listening_socket(address)) for address in listen]
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off")
        uvicorn.Server(config).run(sockets=sockets)


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
        serve(app, listen=settings.listen)
    except PpmlError as error:
        click.echo(f"ppml broker: {error}", err=True)
        sys.exit(error.exit_code)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"file {path} cannot be read: {error.strerror}") from error


if __name__ == "__main__":
    main()
