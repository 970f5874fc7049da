"""`ppml quote verify`: judge one quote of real or simulated hardware, offline.

Asks no network and no broker: collateral, time and root are given. Exit code 0 says authentic and accepted.
"""

from __future__ import annotations

from pathlib import Path

import click

from ppml_airflow import canonical
from ppml_airflow.cli.evidence import (
    FILE,
    examine_file,
    format_examination,
    judging_options,
    read_policy,
    require_accepted,
)


@click.group()
def quote() -> None:
    """Judge quotes and reports of TEEs."""


@quote.command()
@click.argument("quote_file", metavar="QUOTE", type=FILE)
@click.option("--policy", "policy_file", metavar="FILE", type=FILE, help="Policy file; without it a strict default.")
@click.option("--explain", is_flag=True, help="Say for each clause what was got, what is wanted and what to do.")
@judging_options
def verify(
    quote_file: Path,
    *,
    policy_file: Path | None,
    explain: bool,
    collateral: Path | None,
    moment: str,
    trust_root: Path | None,
    as_json: bool,
) -> None:
    """Verify a QUOTE of SGX or TDX, or an SEV-SNP report: raw, hex or base64."""
    policy = read_policy(policy_file) if policy_file else None
    examination = examine_file(quote_file, collateral=collateral, moment=moment, trust_root=trust_root, policy=policy)
    if as_json:
        click.echo(canonical.encode(examination.report).decode())
    else:
        click.echo("\n".join(format_examination(examination, explain=explain)))
    require_accepted(examination.report)
