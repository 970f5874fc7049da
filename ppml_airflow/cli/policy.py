"""`ppml policy`: show the policies that are signed, and sign the next version of one."""

from __future__ import annotations

from pathlib import Path

import click

from ppml_airflow.attestation.policy_files import format_policy_file, parse_policy_file
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.options import root_keys
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.stack import Stack
from ppml_airflow.errors import ConfigurationError


@click.group()
def policy() -> None:
    """Show and sign policies."""


@policy.command()
@click.argument("name", default="default")
def show(name: str) -> None:
    """Write the newest version of a policy as a policy file."""
    newest = Owner.load(Home.default()).policies().get(name)
    if newest is None:
        raise ConfigurationError(f"no policy {name} is signed", hint="ppml policy sign FILE")
    click.echo(format_policy_file(newest), nl=False)


@policy.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@root_keys
def sign(file: Path, *, keys: tuple[Path, ...]) -> None:
    """Sign the policy in FILE (YAML) as the owner, and hand it to the broker."""
    home = Home.default()
    owner = Owner.load(home, key_files=keys)
    parsed = parse_policy_file(file.read_text(), domain_id=owner.domain.domain_id, name=str(file))
    envelope = owner.store_policy(parsed)
    click.echo(f"policy {parsed.name} version {parsed.version} signed: {envelope.digest}")
    stack = Stack(home)
    if stack.is_running():
        with stack.broker() as broker:
            owner.publish(broker)
        click.echo("in force at the broker")
