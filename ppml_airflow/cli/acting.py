"""Acting as the owner of one's own simulated domain: `ppml demo`, `run` and `dev` set up, sign and say so each time.

Never for a domain of hardware trust: `require_simulated` stands before every signature here.
"""

from __future__ import annotations

import fcntl
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import msgspec

from ppml_airflow import canonical
from ppml_airflow.cli.agents import delivery_sinks, write_agent_files
from ppml_airflow.cli.home import Home, private_folder
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.simulated import ensure_certified, require_simulated
from ppml_airflow.cli.stack import Stack
from ppml_airflow.domain.documents import Approval
from ppml_airflow.errors import PolicyDeniedError, VerificationError
from ppml_airflow.provenance.report import PassportReport
from ppml_airflow.provenance.revocations import require_nothing_revoked
from ppml_airflow.provenance.trust_bundle import parse_trust_bundle
from ppml_airflow.provenance.verification import verify_passport
from ppml_airflow.signing import Envelope
from ppml_airflow.units import parse_instant

RUNS_PER_SLOT = 100
COMPILE_OPTIONS = ("--runs-per-slot", str(RUNS_PER_SLOT))
_SHORTEST_VALIDITY = timedelta(days=2)

Say = Callable[[str], None]


class StageClock:
    """Says what happens on stdout, a line per stage, with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, text: str) -> None:
        click.echo(f"{time.monotonic() - self._start:6.1f} s  {text}")


@contextmanager
def alone(home: Home, *, say: Say) -> Iterator[None]:
    """One command at a time acts on a home; the next one waits."""
    private_folder(home.run)
    with (home.run / "acting.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another ppml command on this home")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sign_approval(
    home: Home, *, compiled: Approval, sealers: Mapping[str, str] | None = None, say: Say
) -> tuple[Envelope, Approval]:
    """Sign what was compiled, as every owner of the simulated domain, unless exactly that is in force.

    Args:
        home: whose domain it is.
        compiled: the unsigned approval.
        sealers: input -> agent that seals it; the owner's if not named.
        say: takes a line per stage.

    Raises:
        PolicyDeniedError: the domain is not simulated.
    """
    owner = require_simulated(home)
    now = datetime.now(UTC)
    for line in ensure_certified(home, owner=owner, approval=compiled, sealers=sealers, now=now):
        say(line)
    in_force = owner.approval_in_force(compiled.pipeline)
    roots = len(owner.domain.roots)
    acting = f"acting as {'owner' if roots == 1 else f'all {roots} owners'} of the SIMULATED domain {owner.domain.name}"
    if in_force is not None and _says_the_same(in_force[1], compiled, now=now):
        say(f"{acting}: the approval of {compiled.pipeline} in force covers this, {in_force[0].digest}")
        return in_force
    approval = msgspec.structs.replace(compiled, replaces=in_force[0].digest if in_force else None)
    envelope = owner.store_approval(canonical.encode(approval))
    say(f"{acting}: signed the approval of {compiled.pipeline}, {envelope.digest}")
    return envelope, approval


@contextmanager
def serving(
    home: Home,
    *,
    owner: Owner,
    approval: Approval,
    sources: Mapping[str, Path],
    sealers: Mapping[str, str] | None = None,
) -> Iterator[Stack]:
    """Have the services know this pipeline while the block runs: agents' maps, everything that the owner signed.

    Args:
        home: whose services; those that run already are used, others end with the block.
        owner: of the domain.
        approval: of the pipeline.
        sources: the file of each dataset that an agent seals.
        sealers: dataset -> agent that seals it; the owner's if not named.
    """
    stack = Stack(home)
    was_running = stack.is_running()
    write_agent_files(
        home,
        broker=stack.broker_socket,
        pipeline=approval.pipeline,
        sources=sources,
        sinks=delivery_sinks(home, approval=approval),
        sealers=sealers,
    )
    with stack.attached():
        if was_running:
            stack.restart_agents()
            stack.wait_until_ready()
        with stack.broker() as broker:
            owner.publish(broker)
        yield stack


def check_passport(home: Home, path: Path) -> PassportReport:
    """Verify a run's passport under this home's trust bundle.

    Raises:
        VerificationError: it is not authentic or not whole.
        PolicyDeniedError: it is authentic, and says that the run failed, or stands on something that is revoked.
    """
    trust = parse_trust_bundle(home.trust_bundle.read_bytes())
    try:
        report = verify_passport(path.read_bytes(), trust=trust, now=datetime.now(UTC))
    except FileNotFoundError as error:
        raise VerificationError(f"passport {path} is missing") from error
    if report.outcome != "succeeded":
        raise PolicyDeniedError(f"run {report.run_id} failed; its passport says where: {path}", code="run_failed")
    require_nothing_revoked(report.revoked)
    return report


def print_outcome(home: Home, *, approval: Approval, passport: Path) -> None:
    """The last lines of a successful run, which scripts read."""
    sinks = tuple(delivery_sinks(home, approval=approval).values())
    click.echo(f"result: {sinks[0] if len(sinks) == 1 else home.agent('recipient') / 'opened'}")
    print_passport(home, passport=passport)


def print_passport(home: Home, *, passport: Path) -> None:
    """Where the passport lies, and the command that verifies it."""
    ppml = Path(sys.executable).with_name("ppml")
    command = (str(ppml if ppml.exists() else shutil.which("ppml") or "ppml"), "verify", str(passport))
    click.echo(f"passport: {passport}")
    click.echo(f"verify: {shlex.join((*command, '--trust', str(home.trust_bundle)))}")


def _says_the_same(in_force: Approval, compiled: Approval, *, now: datetime) -> bool:
    """Whether the two differ only in when they hold, and the one in force still holds for a while."""
    same = msgspec.structs.replace(
        compiled, replaces=in_force.replaces, valid_from=in_force.valid_from, valid_until=in_force.valid_until
    )
    return same == in_force and parse_instant(in_force.valid_until) > now + _SHORTEST_VALIDITY
