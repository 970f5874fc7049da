"""`python -m ppml_airflow.operators.compile DAGFILE`: print the canonical, unsigned approval of a DAG.

Runs as a child process, because importing a DAG file runs it: no keys here, and stdout is kept for the approval alone.
Errors are one line on stderr and a second one with the hint; exit codes are the command line's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from ppml_airflow import canonical
from ppml_airflow.errors import ConfigurationError, PpmlError
from ppml_airflow.units import parse_instant

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from ppml_airflow.domain.documents import Approval
    from ppml_airflow.operators.enclaves import EnclaveOperator


@click.command()
@click.argument("dag_file", type=click.Path(path_type=Path))
@click.option("--dag", "dag_id", help="Which DAG of the file, if it has several.")
@click.option("--domain-id", required=True, help="The domain whose owners are asked.")
@click.option("--replaces", help="Digest of the approval in force, if there is one.")
@click.option("--valid-from", help="YYYY-MM-DDTHH:MM:SSZ; now if not given.")
@click.option("--valid-days", type=click.IntRange(1, 366), default=90, show_default=True)
@click.option("--runs-per-slot", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option("--backfill", type=click.IntRange(0, 1000), default=0, show_default=True, help="Older periods allowed.")
@click.option("--window-hours", type=click.IntRange(1, 1000), default=24, show_default=True)
@click.option("--log-recipient", "log_recipients", multiple=True, default=("owner",), show_default=True)
@click.option("--code-folder", type=click.Path(path_type=Path), help="Write each step's code to FOLDER/STEP/NAME.")
def main(
    dag_file: Path,
    *,
    dag_id: str | None,
    domain_id: str,
    replaces: str | None,
    valid_from: str | None,
    valid_days: int,
    runs_per_slot: int,
    backfill: int,
    window_hours: int,
    log_recipients: tuple[str, ...],
    code_folder: Path | None,
) -> None:
    """Print the canonical, unsigned approval of the DAG in DAG_FILE."""
    with airflow_home(), contextlib.redirect_stdout(sys.stderr):
        from ppml_airflow.operators.approvals import Terms, compile_approval

        terms = Terms(
            domain_id=domain_id,
            replaces=replaces,
            valid_from=parse_instant(valid_from) if valid_from else datetime.now(UTC),
            valid_days=valid_days,
            runs_per_slot=runs_per_slot,
            backfill=backfill,
            window_hours=window_hours,
            log_recipients=log_recipients,
        )
        dag = load_dag(dag_file, dag_id=dag_id)
        approval = compile_approval(dag, terms=terms)
        if code_folder is not None:
            write_code(dag, approval=approval, folder=code_folder)
    sys.stdout.buffer.write(canonical.encode(approval))


SEALERS = ".agents.json"
"""Which agent seals which dataset; no step can be called so."""


def write_code(dag: DAG, *, approval: Approval, folder: Path) -> None:
    """Write the code that an approval names, for its owner to read, and which agent seals which dataset."""
    from ppml_airflow.operators.encrypt import EncryptOperator

    sealers = {task.dataset: task.agent for task in dag.tasks if isinstance(task, EncryptOperator)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SEALERS).write_bytes(canonical.encode(sealers))
    for step in approval.steps:
        operator = cast("EnclaveOperator", dag.task_dict[step.name])
        (folder / step.name).mkdir(parents=True, exist_ok=True)
        for name, content in operator.code_files().items():
            (folder / step.name / name).write_bytes(content)


@contextlib.contextmanager
def airflow_home() -> Iterator[None]:
    """Keep Airflow from writing into ~/airflow when nobody has said where its home is."""
    with tempfile.TemporaryDirectory(prefix="ppml-compile-") as folder:
        os.environ.setdefault("AIRFLOW_HOME", folder)
        yield


def load_dag(dag_file: Path, *, dag_id: str | None) -> DAG:
    """Import a DAG file and return its DAG.

    Raises:
        ConfigurationError: it cannot be imported, or has not exactly one DAG (of that id).
    """
    from airflow.sdk import DAG
    from airflow.sdk.definitions._internal.contextmanager import DagContext

    path = dag_file.resolve()
    if not path.is_file():
        raise ConfigurationError(f"dag file {dag_file} is not there")
    name = f"ppml_compiled_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"dag file {dag_file} is not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    DagContext.current_autoregister_module_name = name
    try:
        spec.loader.exec_module(module)
    except PpmlError:
        raise
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        raise ConfigurationError(f"dag file {dag_file} fails: {type(error).__name__}: {first_line}") from error
    finally:
        DagContext.current_autoregister_module_name = None
    dags = {dag.dag_id: dag for dag in vars(module).values() if isinstance(dag, DAG)}
    dags |= {dag.dag_id: dag for dag, where in DagContext.autoregistered_dags if where is module}
    return _the_one(dags, dag_id=dag_id, dag_file=dag_file)


def _the_one(dags: dict[str, DAG], *, dag_id: str | None, dag_file: Path) -> DAG:
    found = ", ".join(sorted(dags)) or "none"
    if dag_id is not None:
        if dag_id not in dags:
            raise ConfigurationError(f"dag file {dag_file} has no DAG {dag_id}; it has: {found}")
        return dags[dag_id]
    if len(dags) != 1:
        raise ConfigurationError(f"dag file {dag_file} has not one DAG but: {found}", hint="choose one with --dag")
    return next(iter(dags.values()))


def run(arguments: list[str] | None = None) -> int:
    """The process: exit code 0, or the error's."""
    try:
        main.main(arguments, prog_name="ppml compile", standalone_mode=False)
    except PpmlError as error:
        click.echo(f"error: {error.message}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(run())
