"""`ppml broker serve | recover | backup | checkpoint | prove`: for who runs a broker, and for auditors of its log."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from ppml_airflow import canonical
from ppml_airflow.cli.home import Home
from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.units import spell_trust

_CONFIG = click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="broker.yaml; this installation's by default."
)
_URL = click.option("--url", help="The broker's address; this installation's by default.")


@click.group()
def broker() -> None:
    """The key broker and its log."""


@broker.command()
@_CONFIG
def serve(*, config: Path | None) -> None:
    """Serve a broker until a signal ends it."""
    from ppml_airflow.broker.service.serving import run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    run(config or Home.default().broker / "broker.yaml")


@broker.command()
@_CONFIG
@click.option("--accept", is_flag=True, help="Go on without what is lost.")
def recover(*, config: Path | None, accept: bool) -> None:
    """Show what a rolled back store has lost; with --accept, go on from it in a new epoch.

    Everything open becomes void: leases, gates passed, runs. Stop every broker of the domain first.
    """
    from ppml_airflow.broker.service import recovery
    from ppml_airflow.broker.service.assembly import build_broker
    from ppml_airflow.broker.settings import load_settings

    found = build_broker(load_settings(config or Home.default().broker / "broker.yaml"))
    click.echo(f"domain: {found.domain.name}, trust: {spell_trust(found.domain.trust)}")
    lost = recovery.describe(found)
    if not lost:
        click.echo("store: continues the anchor; nothing to recover")
        return
    click.echo(f"store: {lost}")
    if not accept:
        raise VerificationError(
            "broker cannot start from this store",
            code="not_accepted",
            hint="restore a newer backup, or give --accept: what is lost stays lost, and everything open is void",
        )
    made = recovery.recover(found)
    if made is None:
        click.echo("anchor: follows the recovery that another instance has made")
    else:
        click.echo(f"epoch: {made.epoch}; leases, gates and runs of earlier ones are void")


@broker.command()
@click.argument("target", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@_CONFIG
def backup(target: Path, *, config: Path | None) -> None:
    """Copy the broker's SQLite database to a new FILE, while the broker works."""
    from ppml_airflow.broker.settings import load_settings
    from ppml_airflow.broker.store import Store

    store = Store.open(load_settings(config or Home.default().broker / "broker.yaml").database)
    store.back_up(target)
    store.close()
    click.echo(f"backup: {target}")


@broker.command()
@_URL
def checkpoint(*, url: str | None) -> None:
    """Print the log's signed head, to be pinned or handed to witnesses."""
    with _connect(url) as client:
        click.echo(client.checkpoint(), nl=False)


@broker.command()
@click.argument("first", type=click.IntRange(min=0))
@click.argument("second", type=click.IntRange(min=0))
@click.option("--output", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
@_URL
def prove(first: int, second: int, *, output: Path | None, url: str | None) -> None:
    """Ask for the proof that the log of SECOND entries begins with the log of FIRST."""
    with _connect(url) as client:
        text = canonical.encode(client.log_consistency(first, second)).decode()
    if output is None:
        click.echo(text)
        return
    try:
        output.write_text(text + "\n")
    except OSError as error:
        raise ConfigurationError(f"log proof {output} cannot be written: {error.strerror}") from error
    click.echo(f"log proof: {output}")


def _connect(url: str | None) -> BrokerClient:
    return BrokerClient(url or f"unix:{Home.default().socket('broker')}")
