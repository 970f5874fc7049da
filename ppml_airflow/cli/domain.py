"""`ppml domain`: make a simulated domain in this home, show the one that is there."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from ppml_airflow.cli.home import Home
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.simulated import ensure_simulated_domain
from ppml_airflow.units import spell_trust


@click.group()
def domain() -> None:
    """Make a domain, show it."""


@domain.command()
@click.option("--owners", type=click.IntRange(1, 20), default=1, show_default=True, help="How many root keys to make.")
@click.option("--threshold", type=click.IntRange(1, 20), default=1, show_default=True, help="How many must sign.")
def create(*, owners: int, threshold: int) -> None:
    """Make a simulated domain with all its keys, unless there is one."""
    owner = ensure_simulated_domain(Home.default(), now=datetime.now(UTC), owners=owners, threshold=threshold)
    _print(owner)


@domain.command()
def show() -> None:
    """Show the domain of this home, its certificates and policies."""
    owner = Owner.load(Home.default())
    _print(owner)
    for certificate in owner.certificates().by_serial.values():
        covered = f" for {', '.join(certificate.datasets)}" if certificate.datasets else ""
        click.echo(f"certificate {certificate.serial}: {certificate.subject} as {certificate.role}{covered}")
    for policy in owner.policies().values():
        click.echo(f"policy {policy.name}: version {policy.version}")


def _print(owner: Owner) -> None:
    click.echo(f"domain: {owner.domain.name} ({owner.domain.domain_id})")
    click.echo(f"trust: {spell_trust(owner.domain.trust)}")
    click.echo(f"owners: {len(owner.domain.roots)}, threshold {owner.domain.threshold}")
