"""`ppml quote verify`: judge one quote of real or simulated hardware, offline.

Asks no network and no broker: collateral, time and root are given. Exit code 0 says authentic and accepted.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from ppml_airflow import canonical
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.attestation.policy_files import NO_DOMAIN, parse_policy_file
from ppml_airflow.attestation.quotes.files import MAX_TEXT_BYTES
from ppml_airflow.attestation.quotes.judgement import QuoteReport, judge_quote
from ppml_airflow.attestation.verification import MAX_COLLATERAL_BYTES
from ppml_airflow.cli.terminal import plain
from ppml_airflow.cli.verify import read_bounded
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, VerificationError
from ppml_airflow.units import KIB, spell_trust

_MAX_SMALL_FILE_BYTES = 256 * KIB

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def quote() -> None:
    """Judge quotes and reports of TEEs."""


@quote.command()
@click.argument("quote_file", metavar="QUOTE", type=_FILE)
@click.option("--collateral", required=True, metavar="FILE", type=_FILE, help="DCAP JSON, or AMD's chain as PEM.")
@click.option("--at", "moment", required=True, metavar="TIME", help="When to judge, such as 2026-03-01T00:00:00Z; UTC.")
@click.option("--policy", "policy_file", metavar="FILE", type=_FILE, help="Policy file; without it a strict default.")
@click.option("--trust-root", metavar="FILE", type=_FILE, help="PEM of the only root that counts.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@click.option("--explain", is_flag=True, help="Say for each clause what was got, what is wanted and what to do.")
def verify(
    quote_file: Path,
    *,
    collateral: Path,
    moment: str,
    policy_file: Path | None,
    trust_root: Path | None,
    as_json: bool,
    explain: bool,
) -> None:
    """Verify a QUOTE of SGX or TDX, or an SEV-SNP report: raw, hex or base64."""
    report = judge_quote(
        read_bounded(quote_file, what="quote", max_bytes=MAX_TEXT_BYTES),
        collateral=read_bounded(collateral, what="collateral", max_bytes=MAX_COLLATERAL_BYTES),
        trust_root=_read_small(trust_root, what="trust root") if trust_root else None,
        policy=_read_policy(policy_file) if policy_file else None,
        now=_parse_moment(moment),
    )
    if as_json:
        click.echo(canonical.encode(report).decode())
    else:
        click.echo("\n".join(plain(line) for line in format_report(report, explain=explain)))
    _require_accepted(report)


def format_report(report: QuoteReport, *, explain: bool) -> list[str]:
    """The answer for people, line by line."""
    unknown = "not known"
    lines = [
        f"verdict: {report.verdict if report.verdict == 'accepted' else 'REFUSED'}",
        f"trust: {spell_trust(report.trust) if report.trust else 'none'}",
        f"tee: {report.tee or unknown}",
        f"authentic: {'yes' if report.authentic else 'NO'}",
        f"tcb status: {report.tcb_status or unknown}",
        f"advisories: {', '.join(report.advisories) or 'none'}",
        f"debug: {unknown if report.debug is None else 'YES' if report.debug else 'no'}",
        f"trust root: {report.trust_root or unknown}",
    ]
    lines += [f"  {name}: {value}" for name, value in (*report.measurements.items(), *report.svns.items())]
    for reason in report.reasons:
        lines.append(f"refused by {reason.clause}: got {reason.got}, wanted {reason.want}")
        if explain and reason.hint:
            lines.append(f"  to do: {reason.hint}")
    if explain and not report.reasons:
        lines.append("every clause was met")
    return lines


def _require_accepted(report: QuoteReport) -> None:
    if report.verdict == "accepted":
        return
    first = report.reasons[0]
    if report.authentic:
        clauses = ", ".join(reason.clause for reason in report.reasons)
        raise PolicyDeniedError(f"quote is authentic and refused by {clauses}", code=first.clause, hint=first.hint)
    raise VerificationError(f"quote is not authentic: {first.got}", code=first.clause, hint=first.hint)


def _read_policy(path: Path) -> Policy:
    text = _read_small(path, what="policy").decode(errors="replace")
    return parse_policy_file(text, domain_id=NO_DOMAIN, name=str(path))


def _read_small(path: Path, *, what: str) -> bytes:
    return read_bounded(path, what=what, max_bytes=_MAX_SMALL_FILE_BYTES)


def _parse_moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(f"time {text!r} is not ISO 8601, such as 2026-03-01T00:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
