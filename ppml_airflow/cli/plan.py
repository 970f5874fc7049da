"""`ppml plan DAG`: before any data is touched, what each task needs, who must sign, and why it would be denied.

Reads what the owners have signed from their folder, or from a broker; both are verified under the domain's roots.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from ppml_airflow import canonical
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.cli.compile import compile_dag
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.planning import Standing, TaskPlan, plan_pipeline
from ppml_airflow.cli.terminal import plain
from ppml_airflow.domain.documents import Approval
from ppml_airflow.domain.trust import Certificates, verify_owner_document
from ppml_airflow.enclaves.measurement import FileDigestCache, measure
from ppml_airflow.errors import PolicyDeniedError
from ppml_airflow.protocol.client import BrokerClient


@click.command()
@click.argument("dag_file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--dag", "dag_id", help="Which DAG of the file, if it has several.")
@click.option("--broker", help="Ask this broker what is signed, instead of reading the owners' folder.")
@click.option("--check", is_flag=True, help="Exit with 1 if anything would be denied.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(dag_file: Path, *, dag_id: str | None, broker: str | None, check: bool, as_json: bool) -> None:
    """Say what each task of DAG_FILE needs, and why it would be denied."""
    home = Home.default()
    with tempfile.TemporaryDirectory() as folder:
        compiled = compile_dag(
            dag_file,
            dag_id=dag_id,
            domain_id=home.load_domain().domain_id,
            code_folder=Path(folder) / "code",
            airflow_home=home.compiler,
        )
    standing = _ask_broker(home, broker, compiled=compiled) if broker else _read_folder(home, compiled=compiled)
    plans = plan_pipeline(compiled, standing=standing, now=datetime.now(UTC))
    if as_json:
        click.echo(canonical.encode({"pipeline": compiled.pipeline, "tasks": plans}).decode())
    else:
        for line in _lines(plans):
            click.echo(plain(line))
    if check and any(task.problems for task in plans):
        sys.exit(PolicyDeniedError.exit_code)


def _lines(plans: tuple[TaskPlan, ...]) -> Iterator[str]:
    for task in plans:
        yield f"{'DENIED' if task.problems else 'ok':<7}{task.task}"
        for need in task.needs:
            yield f"       needs {need}"
        for problem in task.problems:
            yield f"       [{problem.code}] {problem.reason} ({problem.hint})"
    denied = sum(bool(task.problems) for task in plans)
    yield (
        f"{denied} of {len(plans)} would be denied"
        if denied
        else f"all {len(plans)} would be allowed, as far as is signed"
    )


def _read_folder(home: Home, *, compiled: Approval) -> Standing:
    owner = Owner(home, domain=home.load_domain(), keys=())
    in_force = owner.approval_in_force(compiled.pipeline)
    return Standing(
        domain=owner.domain,
        certificates=owner.certificates(),
        policies=owner.policies(),
        in_force=in_force[1] if in_force else None,
        measured=_measured(home, compiled=compiled),
    )


def _ask_broker(home: Home, address: str, *, compiled: Approval) -> Standing:
    domain = home.load_domain()
    with BrokerClient(address) as broker:
        certificates = Certificates.verify(broker.domain().certificates, domain=domain)
        found = {name: broker.policy(name) for name in sorted({step.policy for step in compiled.steps})}
        approval = broker.approval(compiled.pipeline)
    return Standing(
        domain=domain,
        certificates=certificates,
        policies={
            name: verify_owner_document(envelope, into=Policy, domain=domain)
            for name, envelope in found.items()
            if envelope is not None
        },
        in_force=None if approval is None else verify_owner_document(approval, into=Approval, domain=domain),
        measured=_measured(home, compiled=compiled),
    )


def _measured(home: Home, *, compiled: Approval) -> dict[str, str]:
    """How the pipeline's images measure on this machine, where they are set up."""
    names = sorted({step.image for step in compiled.steps})
    return {name: measure(home.image(name), cache=FileDigestCache()).hex for name in names if home.image(name).is_dir()}
