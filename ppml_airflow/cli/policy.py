"""`ppml policy`: check, explain and compare policies; show the signed ones; sign the next version of one.

`check`, `explain` and `diff` need no keys and ask no broker, so they fit where policies are reviewed.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from ppml_airflow import canonical
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.attestation.policy_changes import compare_policies
from ppml_airflow.attestation.policy_files import format_policy_file
from ppml_airflow.attestation.policy_review import review_policy
from ppml_airflow.cli.evidence import (
    FILE,
    examine_file,
    format_examination,
    judging_options,
    read_policy,
    require_accepted,
)
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.options import root_keys
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.stack import Stack
from ppml_airflow.cli.terminal import plain
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.yaml_files import InvalidFileError


@click.group()
def policy() -> None:
    """Check, explain, compare, show and sign policies."""


@policy.command()
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@click.pass_context
def check(context: click.Context, file: Path, *, as_json: bool) -> None:
    """Say every mistake of the policy FILE with its line; exit code 1 if there is one."""
    problems: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    try:
        checked = read_policy(file)
        lines, notes = (f"{file}: policy {checked.name} version {checked.version} is valid",), review_policy(checked)
    except InvalidFileError as error:
        lines = problems = error.problems
    if as_json:
        click.echo(json.dumps({"valid": not problems, "problems": problems, "notes": notes}))
    else:
        click.echo("\n".join(plain(line) for line in (*lines, *(f"note: {note}" for note in notes))))
    context.exit(1 if problems else 0)


@policy.command()
@click.argument("name", metavar="[FILE | NAME]", default="default")
@click.option("--evidence", required=True, metavar="QUOTE", type=FILE, help="Quote or report: raw, hex or base64.")
@judging_options
def explain(
    name: str, *, evidence: Path, collateral: Path | None, moment: str, trust_root: Path | None, as_json: bool
) -> None:
    """Judge evidence by a policy, clause by clause: got, wanted, what to do.

    The policy is a FILE, or the newest signed one of that NAME.
    """
    judged_by = find_policy(name)
    examination = examine_file(evidence, collateral=collateral, moment=moment, trust_root=trust_root, policy=judged_by)
    if as_json:
        answer = {"report": examination.report, "clauses": examination.findings}
        click.echo(canonical.encode(answer).decode())
    else:
        head = plain(f"policy: {judged_by.name} version {judged_by.version}")
        click.echo("\n".join([head, *format_examination(examination, explain=True)]))
    require_accepted(examination.report)


@policy.command()
@click.argument("old")
@click.argument("new")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def diff(old: str, new: str, *, as_json: bool) -> None:
    """Say in words what NEW allows that OLD did not, and what it refuses now; each a file or a signed policy's name."""
    before, after = find_policy(old), find_policy(new)
    changes = compare_policies(before, new=after)
    if as_json:
        click.echo(json.dumps({"allowed": changes.allowed, "refused": changes.refused}))
        return
    lines = [f"{before.name} version {before.version} -> {after.name} version {after.version}"]
    if before.name != after.name:
        lines.append("note: two names: the one does not replace the other")
    elif after.version <= before.version:
        lines.append(f"note: versions only go up: wanted {before.version + 1} or later to sign it")
    click.echo("\n".join(plain(line) for line in (*lines, *_describe_changes(before, after))))


def _describe_changes(before: Policy, after: Policy) -> list[str]:
    changes = compare_policies(before, new=after)
    lines = [f"+ allowed now: {line}" for line in changes.allowed]
    lines += [f"- refused now: {line}" for line in changes.refused]
    return lines or ["nothing changes: whatever evidence the one accepts, the other does"]


@policy.command()
@click.argument("name", default="default")
def show(name: str) -> None:
    """Write the newest version of a policy as a policy file."""
    click.echo(format_policy_file(find_signed(name)), nl=False)


@policy.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@root_keys
def sign(file: Path, *, keys: tuple[Path, ...]) -> None:
    """Sign the policy in FILE (YAML) as the owner, and hand it to the broker."""
    home = Home.default()
    owner = Owner.load(home, key_files=keys)
    parsed = read_policy(file, domain_id=owner.domain.domain_id)
    before = owner.policies().get(parsed.name)
    if before is not None:
        click.echo("\n".join(_describe_changes(before, parsed)))
    envelope = owner.store_policy(parsed)
    click.echo(f"policy {parsed.name} version {parsed.version} signed: {envelope.digest}")
    stack = Stack(home)
    if stack.is_running():
        with stack.broker() as broker:
            owner.publish(broker)
        click.echo("in force at the broker")


def find_policy(name: str) -> Policy:
    """The policy in a file, or the newest signed one of a name.

    Raises:
        ConfigurationError: neither.
    """
    return read_policy(Path(name)) if Path(name).exists() else find_signed(name)


def find_signed(name: str) -> Policy:
    """The newest signed version of a policy.

    Raises:
        ConfigurationError: there is none.
    """
    newest = Owner.load(Home.default()).policies().get(name)
    if newest is None:
        raise ConfigurationError(f"no policy {name} is signed", hint="ppml policy sign FILE")
    return newest
