"""Judging a quote at the command line: what `ppml quote verify` and `ppml policy explain` have in common."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from ppml_airflow.attestation.policy import Policy
from ppml_airflow.attestation.policy_files import NO_DOMAIN, parse_policy_file
from ppml_airflow.attestation.quotes.files import MAX_TEXT_BYTES, parse_quote_file
from ppml_airflow.attestation.quotes.judgement import Examination, QuoteReport, examine_quote
from ppml_airflow.attestation.verification import MAX_COLLATERAL_BYTES
from ppml_airflow.cli.collateral import load_kept
from ppml_airflow.cli.terminal import plain
from ppml_airflow.cli.verify import read_bounded
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, VerificationError
from ppml_airflow.units import KIB, Digest, spell_trust
from ppml_airflow.yaml_files import InvalidFileError

MAX_SMALL_FILE_BYTES = 256 * KIB

FILE = click.Path(dir_okay=False, path_type=Path)

F = TypeVar("F", bound=Callable[..., Any])


def judging_options(command: F) -> F:
    """What a quote is judged by, and how the answer is written."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON."),
        click.option("--trust-root", metavar="FILE", type=FILE, help="PEM of the only root that counts."),
        click.option("--at", "moment", required=True, metavar="TIME", help="When to judge: 2026-03-01T00:00:00Z; UTC."),
        click.option(
            "--collateral", metavar="FILE", type=FILE, help="DCAP JSON, or AMD's chain as PEM; else what is kept."
        ),
    ):
        command = option(command)
    return command


def examine_file(
    quote: Path, *, collateral: Path | None, moment: str, trust_root: Path | None, policy: Policy | None
) -> Examination:
    """Judge the quote in a file; without a file of collateral by what `ppml collateral` keeps.

    Raises:
        ConfigurationError: a file cannot be read or is too long, no trust root, or no time.
        UnavailableError: no collateral of its platform is kept.
        MalformedInputError: nothing is named, and the quote does not say of which platform it is.
    """
    text = read_bounded(quote, what="quote", max_bytes=MAX_TEXT_BYTES)
    return examine_quote(
        text,
        collateral=read_bounded(collateral, what="collateral", max_bytes=MAX_COLLATERAL_BYTES)
        if collateral
        else _kept_for(text),
        trust_root=read_small(trust_root, what="trust root") if trust_root else None,
        policy=policy,
        now=parse_moment(moment),
    )


def _kept_for(text: bytes) -> bytes:
    tee, quote = parse_quote_file(text)
    if tee == "snp":
        raise ConfigurationError(
            "collateral of an SEV-SNP report is not kept here", hint="name its chain of certificates: --collateral FILE"
        )
    return load_kept(quote)


def format_examination(examination: Examination, *, explain: bool) -> list[str]:
    """The answer for people, line by line; with `explain` every clause, and what to do."""
    report = examination.report
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
    if explain:
        met = [finding for finding in examination.findings if finding.is_met]
        lines += [f"met by {one.clause}: got {one.got}, wanted {one.want}" for one in met]
    for reason in report.reasons:
        lines.append(f"refused by {reason.clause}: got {reason.got}, wanted {reason.want}")
        if explain and reason.hint:
            lines.append(f"  to do: {reason.hint}")
    if explain and not examination.findings:
        lines.append("no clause was asked: evidence that does not verify says nothing")
    if explain and not report.reasons:
        lines.append("every clause was met")
    if explain and examination.findings:
        lines.append("not judged outside a session: image, report_data, evidence_age, collateral_rollback")
    return [plain(line) for line in lines]


def require_accepted(report: QuoteReport) -> None:
    """End with the exit code of a refusal, unless the quote was accepted.

    Raises:
        PolicyDeniedError: authentic and refused.
        VerificationError: not authentic.
    """
    if report.verdict == "accepted":
        return
    first = report.reasons[0]
    if report.authentic:
        clauses = ", ".join(reason.clause for reason in report.reasons)
        raise PolicyDeniedError(f"quote is authentic and refused by {clauses}", code=first.clause, hint=first.hint)
    raise VerificationError(f"quote is not authentic: {first.got}", code=first.clause, hint=first.hint)


def read_small(path: Path, *, what: str) -> bytes:
    """Read a small file.

    Raises:
        ConfigurationError: it cannot be read or is not small.
    """
    return read_bounded(path, what=what, max_bytes=MAX_SMALL_FILE_BYTES)


def read_policy(path: Path, *, domain_id: Digest = NO_DOMAIN) -> Policy:
    """Read a policy file, of no domain if none is named.

    Raises:
        ConfigurationError: it cannot be read.
        InvalidFileError: it is no policy.
    """
    try:
        text = read_small(path, what="policy").decode()
    except UnicodeDecodeError as error:
        raise InvalidFileError((f"{path}:1: not UTF-8 text",)) from error
    return parse_policy_file(text, domain_id=domain_id, name=str(path))


def parse_moment(text: str) -> datetime:
    """Read a time; UTC unless it says otherwise.

    Raises:
        ConfigurationError: not ISO 8601.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(f"time {text!r} is not ISO 8601, such as 2026-03-01T00:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
