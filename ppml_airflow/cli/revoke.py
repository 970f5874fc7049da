"""`ppml revoke`: the owners take back trust in something, having seen what depends on it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import click

from ppml_airflow import canonical
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.options import root_keys
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.simulated import airflow_token
from ppml_airflow.cli.stack import Stack
from ppml_airflow.cli.terminal import plain
from ppml_airflow.domain.documents import Revocation, RevocationKind
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.protocol.messages import Dependent, Dependents
from ppml_airflow.units import format_instant, spell_trust


@click.command()
@click.argument("kind", type=click.Choice(get_args(RevocationKind)))
@click.argument("subject")
@click.option("--reason", default="", help="Why, in words; it is signed, and shown to whoever is refused.")
@root_keys
@click.option("--broker", "url", metavar="URL", help="The broker; the one of this home if not given.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The token of a caller in whose scope the pipelines are.",
)
@click.option("--show", is_flag=True, help="Say what depends on it, and revoke nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="What depends on it as JSON, for scripts; with --show or --yes.")
def revoke(
    kind: RevocationKind,
    subject: str,
    *,
    reason: str,
    keys: tuple[Path, ...],
    url: str | None,
    token_file: Path | None,
    show: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Revoke SUBJECT: the hex of a measurement, the PPID of a platform, the digest of an approval, the serial of a
    certificate, or the id of a key. Leases that stand on it end, outputs that were made with it are inputs no more and
    are not released again. Nothing takes it back."""
    home = Home.default()
    owner = Owner.load(home, key_files=keys)
    if as_json and not yes and not show:
        raise ConfigurationError("--json asks nothing", hint="add --show to look, or --yes to revoke")
    if not show and not reason:
        raise ConfigurationError("--reason is missing", hint="say why; whoever is refused will read it")
    revocation = canonical.convert(
        {
            "domain_id": owner.domain.domain_id,
            "kind": kind,
            "subject": subject,
            "reason": reason or "shown only",
            "time": format_instant(datetime.now(UTC)),
        },
        into=Revocation,
    )
    with _connect(home, url=url, token_file=token_file) as broker:
        found = broker.dependents(kind, subject)
        if not as_json:
            click.echo("\n".join(plain(line) for line in describe_dependents(found)))
        if not show:
            if not yes:
                trust = spell_trust(owner.domain.trust)
                click.confirm(f"Revoke as owner of domain {owner.domain.name} (trust: {trust})?", abort=True)
            envelope = owner.sign(revocation)
            broker.put_revocation(envelope)
            owner.store_revocation(envelope)
            found = broker.dependents(kind, subject)
            if not as_json:
                click.echo(f"revoked: {envelope.digest}")
    if as_json:
        click.echo(canonical.encode(found).decode())


def describe_dependents(found: Dependents) -> list[str]:
    """What depends on a subject, in words."""
    state = "is revoked already" if found.revoked else "is not revoked"
    lines = [f"{found.kind} {found.subject} {state}"]
    lines += [f"sealed with it: {one.dataset}, version {one.version}" for one in found.sealed]
    for one in found.attempts:
        lines.append(_describe_attempt(one))
        for made in one.outputs:
            told = f"{', '.join(made.recipients) or 'nobody'}{', who has its key' if made.released else ''}"
            lines.append(f"  made {made.dataset}, version {made.version}, for {told}")
    running = sum(one.outcome == "open" for one in found.attempts)
    lines.append(f"depend on it: {len(found.attempts)} attempts, {running} of them running, which end with it")
    return lines


def _describe_attempt(one: Dependent) -> str:
    through = f", through its input {one.through}" if one.through else ""
    return f"{one.pipeline} {one.slot}, run {one.run_id}: {one.step}, attempt {one.attempt}, {one.outcome}{through}"


def _connect(home: Home, *, url: str | None, token_file: Path | None) -> BrokerClient:
    token = token_file.read_text().strip() if token_file else airflow_token(home)
    return BrokerClient(url, token=token) if url else Stack(home).broker(token=token)
