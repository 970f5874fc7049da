"""`ppml compile DAG`: the author's side. Writes the unsigned approval of a DAG, and the code that it names.

The DAG is imported by a child process, which knows Airflow and no key. What comes back is canonical JSON; beside it,
in a folder of the same name ending in `.code`, lies the code, for the owner to read and for `ppml run`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import msgspec

from ppml_airflow import canonical
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.stack import Stack
from ppml_airflow.domain.documents import Approval, Step
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, PpmlError, UnavailableError
from ppml_airflow.units import Digest

_BY_EXIT_CODE: Mapping[int, type[PpmlError]] = {1: PolicyDeniedError, 2: ConfigurationError, 3: UnavailableError}


@click.command("compile")
@click.argument("dag_file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--dag", "dag_id", help="Which DAG of the file, if it has several.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("approval.json"),
    show_default=True,
    help="Where to write it.",
)
@click.option("--domain-id", help="The domain whose owners are asked; this home's if not given.")
@click.option("--replaces", help="Digest of the approval in force; found out if not given.")
@click.option("--runs-per-slot", type=click.IntRange(1, 1000), default=1, show_default=True, help="Runs of one period.")
@click.option("--backfill", type=click.IntRange(0, 1000), default=0, show_default=True, help="Older periods allowed.")
@click.option(
    "--window-hours",
    type=click.IntRange(1, 1000),
    default=24,
    show_default=True,
    help="Hours that a run may last after its period.",
)
@click.option("--valid-days", type=click.IntRange(1, 366), default=90, show_default=True, help="Days from now.")
@click.option(
    "--log-recipient",
    "log_recipients",
    multiple=True,
    default=("owner",),
    show_default=True,
    help="A holder of a log key who may read what the jobs print; several if repeated.",
)
def command(
    dag_file: Path,
    *,
    dag_id: str | None,
    out: Path,
    domain_id: str | None,
    replaces: str | None,
    log_recipients: tuple[str, ...],
    **terms: int,
) -> None:
    """Compile DAG_FILE to an unsigned approval."""
    home = Home.default()
    approval = compile_dag(
        dag_file,
        dag_id=dag_id,
        domain_id=domain_id or home.load_domain().domain_id,
        code_folder=code_folder(out),
        airflow_home=home.compiler,
        options=[
            *(text for name, value in terms.items() for text in (f"--{name.replace('_', '-')}", str(value))),
            *(text for name in log_recipients for text in ("--log-recipient", name)),
        ],
    )
    replaced = replaces or digest_in_force(home, pipeline=approval.pipeline)
    out.write_bytes(canonical.encode(msgspec.structs.replace(approval, replaces=replaced)))
    click.echo(f"compiled: {out}, with its code in {code_folder(out)}")
    click.echo(f"read and sign it: ppml approve {out}")


def compile_dag(
    dag_file: Path,
    *,
    dag_id: str | None,
    domain_id: str,
    code_folder: Path,
    airflow_home: Path,
    options: Sequence[str] = (),
) -> Approval:
    """Compile a DAG in a child process. The approval that comes back replaces none.

    Raises:
        ConfigurationError: what the compiler refused; or the child broke.
    """
    shutil.rmtree(code_folder, ignore_errors=True)
    child = subprocess.run(
        (
            *(sys.executable, "-m", "ppml_airflow.operators.compile", str(dag_file), "--domain-id", domain_id),
            *(("--dag", dag_id) if dag_id else ()),
            *("--code-folder", str(code_folder)),
            *options,
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=os.environ | {"AIRFLOW_HOME": str(airflow_home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"},
    )
    if child.returncode != 0:
        raise _refusal(child.stderr.decode(errors="replace"), exit_code=child.returncode)
    return canonical.decode(child.stdout, into=Approval)


def code_folder(compiled: Path) -> Path:
    """Where the code of a compiled approval lies."""
    return compiled.with_suffix(".code")


def load_code(folder: Path, *, step: Step) -> dict[str, bytes]:
    """The code of a step, exactly as its approval names it.

    Raises:
        ConfigurationError: a file is missing, or is not the one that was compiled.
    """
    code = {}
    for name, digest in step.code.items():
        path = folder / step.name / name
        try:
            code[name] = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"code {path} cannot be read: {error.strerror}") from error
        if canonical.digest_bytes(code[name]) != digest:
            raise ConfigurationError(f"code {path} is not what was compiled", hint="ppml compile it again")
    return code


def digest_in_force(home: Home, *, pipeline: str) -> Digest | None:
    """The digest of a pipeline's approval in force: the owner's record if it lies here, else the broker's word."""
    if home.domain_file.exists():
        in_force = Owner(home, domain=home.load_domain(), keys=()).approval_in_force(pipeline)
        if in_force:
            return in_force[0].digest
    stack = Stack(home)
    if not stack.is_running():
        return None
    with stack.broker() as broker:
        envelope = broker.approval(pipeline)
    return envelope.digest if envelope else None


def _refusal(complaint: str, *, exit_code: int) -> PpmlError:
    """The error that the compiler wrote to stderr, among whatever else was written there."""
    said = {"error": "", "hint": ""}
    for line in complaint.splitlines():
        kind, _, text = line.partition(": ")
        if kind in said:
            said[kind] = text
    message = said["error"] or f"the compiler broke: {complaint.strip().rpartition(chr(10))[2][:300]}"
    return _BY_EXIT_CODE.get(exit_code, ConfigurationError)(message, hint=said["hint"])
