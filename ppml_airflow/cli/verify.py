"""`ppml verify PASSPORT --trust FILE`: judge a run offline.

Asks no network and no service. Refuses without a trust bundle: what a passport is measured against never comes from
the passport. Exit code 0 says that it is authentic and whole, and that nothing of it stands on what is known to be
revoked; whether the run itself succeeded stands beside it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from ppml_airflow import canonical
from ppml_airflow.cli.terminal import plain
from ppml_airflow.errors import ConfigurationError, PpmlError, VerificationError
from ppml_airflow.provenance.log import Consistency
from ppml_airflow.provenance.passport import MAX_PASSPORT_BYTES
from ppml_airflow.provenance.report import PassportReport, StepReport
from ppml_airflow.provenance.revocations import RevokedReport, require_nothing_revoked
from ppml_airflow.provenance.trust_bundle import MAX_BUNDLE_BYTES, parse_trust_bundle
from ppml_airflow.provenance.verification import verify_passport
from ppml_airflow.signing import Envelope
from ppml_airflow.units import MIB, Trust, spell_trust


@click.command()
@click.argument("passport", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--trust",
    "bundle",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Whom you trust: domain, TEE roots, pinned checkpoints; made by: ppml trust export.",
)
@click.option(
    "--log-proof",
    "proofs",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="Connects the passport's log with a pinned checkpoint; made by: ppml broker prove.",
)
@click.option(
    "--revocation",
    "revocations",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="What the owners have revoked since the trust bundle was made.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report, or the refusal, as JSON.")
def verify(
    passport: Path,
    *,
    bundle: Path | None,
    proofs: tuple[Path, ...],
    revocations: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Verify a PASSPORT offline."""
    trust: Trust | None = None
    try:
        if bundle is None:
            raise VerificationError(
                "passport cannot be judged without knowing whom you trust",
                code="no_trust_bundle",
                hint="give --trust FILE; the owner makes it with: ppml trust export",
            )
        anchors = parse_trust_bundle(read_bounded(bundle, what="trust bundle", max_bytes=MAX_BUNDLE_BYTES))
        trust = anchors.domain.trust
        known = (*anchors.revocations, *map(load_revocation, revocations))
        anchors = msgspec.structs.replace(anchors, revocations=known)
        data = read_bounded(passport, what="passport", max_bytes=MAX_PASSPORT_BYTES)
        log_proofs = tuple(map(_load_proof, proofs))
        report = verify_passport(data, trust=anchors, now=datetime.now(UTC), log_proofs=log_proofs)
    except PpmlError as error:
        _print_refusal(error, trust=trust, as_json=as_json)
        raise
    if as_json:
        _print_json({"verdict": _verdict(report).lower(), **msgspec.to_builtins(report)})
    else:
        click.echo("\n".join(format_report(report)))
    require_nothing_revoked(report.revoked)


def format_report(report: PassportReport) -> list[str]:
    """The report for people, line by line."""
    lines = [
        f"verdict: {_verdict(report)}",
        f"trust: {spell_trust(report.trust)}",
        f"domain: {report.domain} ({report.domain_id})",
        f"run: {report.run_id} of {report.pipeline}, slot {report.slot}, {report.outcome.upper()}",
        f"time: {report.opened} to {report.closed}",
        f"log: {report.log.log_size} entries, {report.checkpoints_compared} pinned checkpoints compared",
        f"revocations: {report.revocations_known} known to the trust bundle",
    ]
    lines += [_format_revoked(one) for one in report.revoked]
    lines += [f"param {name}: {value}" for name, value in sorted(report.params.items())]
    for step in report.steps:
        lines += ["", *_format_step(step)]
    if report.denials or report.releases or report.earlier_inputs:
        lines.append("")
    lines += [f"denied: step {one.step} at {one.time}, {one.code}" for one in report.denials]
    lines += [f"released: {one.dataset} at {one.time} to certificate {one.recipient}" for one in report.releases]
    lines += [
        f"note: input {one.dataset} version {one.version} was made in an earlier run; its passport shows how"
        for one in report.earlier_inputs
    ]
    return [plain(line) for line in lines]


def _verdict(report: PassportReport) -> str:
    return "REVOKED" if report.revoked else "verified"


def _format_revoked(one: RevokedReport) -> str:
    attempt = f"attempt {one.attempt}" if one.attempt else "preflight"
    through = f" through its input {one.through}" if one.through else ""
    made = ", ".join(f"{output.dataset} version {output.version}" for output in one.outputs)
    return (
        f"revoked: step {one.step}, {attempt}, stands{through} on {one.kind} {one.subject}, revoked since {one.since}:"
        f" {one.reason}{f'; so does what it made: {made}' if made else ''}"
    )


def _format_step(step: StepReport) -> list[str]:
    lines = [f"step {step.step}: {step.outcome} (image {step.image})"]
    lines += [f"  reads   {one.dataset} version {one.version}, {one.manifest}" for one in step.inputs]
    for one in step.attempts:
        what = "preflight" if one.role == "preflight" else f"attempt {one.attempt}"
        what += f", member {one.index}" if one.role == "member" else ""
        lines.append(
            f"  {what:<9} {one.time}  {one.outcome:<10} {one.tee} {one.measurement[:16]}  "
            f"{one.tcb_status}, policy {one.policy}"
        )
    lines += [f"  writes  {one.dataset} version {one.version}, {one.manifest}" for one in step.outputs]
    lines += [f"  tells   {name}: {count}" for name, count in step.disclosed.items()]
    return lines


def read_bounded(path: Path, *, what: str, max_bytes: int) -> bytes:
    """Read a file that is not longer than it may be.

    Raises:
        ConfigurationError: it cannot be read, or is longer.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigurationError(f"{what} {path} cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise ConfigurationError(f"{what} {path} is longer than {max_bytes} bytes")
    return data


def load_revocation(path: Path) -> Envelope:
    """Read a signed revocation; verified with the passport.

    Raises:
        ConfigurationError: it cannot be read.
        MalformedInputError: it is none.
    """
    return canonical.decode(read_bounded(path, what="revocation", max_bytes=MIB).strip(), into=Envelope)


def _load_proof(path: Path) -> Consistency:
    return canonical.decode(read_bounded(path, what="log proof", max_bytes=MIB).strip(), into=Consistency)


def _print_refusal(error: PpmlError, *, trust: Trust | None, as_json: bool) -> None:
    if as_json:
        refusal = {"kind": type(error).__name__, "code": error.code, "message": error.message, "hint": error.hint}
        _print_json({"verdict": "refused", "trust": trust, **refusal})
    else:
        click.echo("verdict: REFUSED")
        click.echo(f"trust: {spell_trust(trust) if trust else 'none'}")


def _print_json(value: object) -> None:
    click.echo(canonical.encode(value).decode())
