"""`ppml approve FILE`: the owner reads what a compiled pipeline does, and signs exactly those bytes.

Parses canonical JSON only; no DAG is ever imported here. Code is shown only if it is what the approval names.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from ppml_airflow import canonical
from ppml_airflow.cli.agents import load_sealers
from ppml_airflow.cli.compile import code_folder, load_code
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.options import root_keys
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.simulated import ensure_certified
from ppml_airflow.cli.stack import Stack
from ppml_airflow.cli.terminal import plain_lines
from ppml_airflow.cli.words import describe_approval, describe_difference
from ppml_airflow.domain.adhoc import require_adhoc_rules
from ppml_airflow.domain.documents import Approval
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from ppml_airflow.units import KIB, spell_trust

_LONGEST_CODE = 64 * KIB


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@root_keys
@click.option("--yes", is_flag=True, help="Do not ask.")
def approve(file: Path, *, keys: tuple[Path, ...], yes: bool) -> None:
    """Show the approval in FILE in words, sign it, and hand it to the broker."""
    home = Home.default()
    owner = Owner.load(home, key_files=keys)
    payload = file.read_bytes()
    approval = canonical.decode(payload, into=Approval)
    if approval.domain_id != owner.domain.domain_id:
        raise PolicyDeniedError(
            f"approval is for domain {approval.domain_id}; this is {owner.domain.domain_id}", code="other_domain"
        )
    require_adhoc_rules(approval)
    in_force = owner.approval_in_force(approval.pipeline)
    _show(approval, in_force=in_force[1] if in_force else None, code=code_folder(file))
    if not yes:
        click.confirm(
            f"Sign as owner of domain {owner.domain.name} (trust: {spell_trust(owner.domain.trust)})?", abort=True
        )
    if owner.domain.trust == "simulated":
        sealers = load_sealers(code_folder(file), home=home)
        for line in ensure_certified(home, owner=owner, approval=approval, sealers=sealers, now=datetime.now(UTC)):
            click.echo(line)
    envelope = owner.store_approval(payload)
    click.echo(f"signed: {envelope.digest}")
    stack = Stack(home)
    if stack.is_running():
        with stack.broker() as broker:
            owner.publish(broker)
        click.echo("in force at the broker")
    else:
        click.echo("the broker is told when it next starts")


def _show(approval: Approval, *, in_force: Approval | None, code: Path) -> None:
    click.echo("\n".join(describe_approval(approval)))
    for step in approval.steps:
        try:
            files = load_code(code, step=step)
        except ConfigurationError as error:
            click.echo(f"step {step.name}: its code is not shown: {error.message}")
            continue
        for name, content in files.items():
            click.echo(f"--- {step.name}/{name}")
            for line in plain_lines(content[:_LONGEST_CODE].decode(errors="backslashreplace")):
                click.echo(f"    {line}")
            if len(content) > _LONGEST_CODE:
                click.echo(f"--- {len(content) - _LONGEST_CODE} more bytes in {code / step.name / name}")
    if in_force is None:
        click.echo("no approval of this pipeline is in force")
    else:
        click.echo("difference from the approval in force:")
        click.echo("\n".join(describe_difference(in_force, approval)) or "  none")
