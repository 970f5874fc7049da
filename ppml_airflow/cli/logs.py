"""`ppml logs RUN`: open the sealed logs of a run with the owner's log key.

Airflow sees codes only; what a job printed, its errors and stack traces are here. A log is compared with the receipt
that names it, out of the run's verified passport; of a run that is not closed yet it is shown with a warning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import click

from ppml_airflow import canonical
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.terminal import plain_lines
from ppml_airflow.domain.documents import Receipt
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, VerificationError
from ppml_airflow.provenance.passport import parse_passport
from ppml_airflow.provenance.trust_bundle import parse_trust_bundle
from ppml_airflow.provenance.verification import verify_passport
from ppml_airflow.sealing.logs import open_log
from ppml_airflow.sealing.wrapping import SealingKey
from ppml_airflow.signing import PublicKey
from ppml_airflow.units import Digest

_RUN = re.compile(r"^[0-9a-f]{1,32}$")


@click.command()
@click.argument("run")
@click.option("--step", help="Only this step.")
@click.option("--key", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The private log key.")
def logs(run: str, *, step: str | None, key: Path | None) -> None:
    """Open the sealed logs of RUN: a run id, or its beginning."""
    home = Home.default()
    folder = find_run(home, run=run)
    private = SealingKey.load(key or home.owner / "log.key")
    serials = log_serials(Owner(home, domain=home.load_domain(), keys=()), key=private.public)
    expected = expected_logs(home, run_id=folder.name)
    for attempt in sorted(folder.iterdir()):
        if step is None or attempt.name.rpartition("-")[0] == step:
            click.echo(f"--- {attempt.name}")
            log = _open(attempt, key=private, serials=serials, expected=expected.get(attempt.name))
            click.echo("\n".join(plain_lines(log)))


def find_run(home: Home, *, run: str) -> Path:
    """The folder of a run's sealed logs.

    Raises:
        ConfigurationError: there is none, or several begin so.
    """
    found = sorted((home.storage / "logs").glob(f"{run}*")) if _RUN.match(run) else []
    if len(found) != 1:
        raise ConfigurationError(f"{len(found)} runs with sealed logs begin with {run[:40]!r}; wanted one")
    return found[0]


def log_serials(owner: Owner, *, key: PublicKey) -> list[str]:
    """The certificates of a log key.

    Raises:
        PolicyDeniedError: the owners certified it for no log.
    """
    certificates = owner.certificates().by_serial.values()
    serials = [one.serial for one in certificates if one.role == "log" and one.key == key]
    if not serials:
        raise PolicyDeniedError("the log key is certified for no log", code="not_certified")
    return serials


def expected_logs(home: Home, *, run_id: str) -> Mapping[str, Digest]:
    """`<step>-<attempt>` -> digest of the log that its receipt names, from the run's passport; empty without one.

    Raises:
        VerificationError: the passport is not authentic.
    """
    path = home.passports / f"{run_id}.json"
    if not path.exists():
        return {}
    data = path.read_bytes()
    verify_passport(data, trust=parse_trust_bundle(home.trust_bundle.read_bytes()), now=datetime.now(UTC))
    receipts = (canonical.decode(one.payload, into=Receipt) for one in parse_passport(data).contents.receipts)
    return {f"{one.step}-{one.attempt}": one.log for one in receipts if one.log is not None}


def _open(attempt: Path, *, key: SealingKey, serials: list[str], expected: Digest | None) -> str:
    if expected is None:
        click.echo(f"warning: no receipt is at hand for {attempt.name}; this log is compared with nothing", err=True)
        expected = canonical.digest_bytes((attempt / "log.json").read_bytes())
    for serial in serials:
        try:
            return open_log(attempt, key=key, serial=serial, expected=expected).decode(errors="backslashreplace")
        except PolicyDeniedError:
            continue
    raise VerificationError(f"sealed log {attempt.name} is sealed to another key", code="not_a_recipient")
