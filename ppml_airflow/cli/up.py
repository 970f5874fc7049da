"""`ppml up` and `ppml down`: Airflow's UI, the broker and the agents, in the background, for a person.

`up` makes the simulated domain, its keys and its image where they are missing. It never signs an approval: it prints
the commands by which the owner reads and signs one. It goes on until `down`, which leaves no process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from ppml_airflow.cli import acting, airflow_processes
from ppml_airflow.cli.agents import delivery_sinks, load_sealers, pipelines_in_files, sealed_datasets, write_agent_files
from ppml_airflow.cli.compile import compile_dag
from ppml_airflow.cli.demo import choose_sources, dags_of, lay_dag, source_params
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.image import ensure_image_for
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.simulated import ensure_simulated_domain
from ppml_airflow.cli.stack import Stack, core_services
from ppml_airflow.cli.users import describe
from ppml_airflow.domain.documents import Approval
from ppml_airflow.enclaves.runtimes.registry import default_runtime
from ppml_airflow.errors import PpmlError, UnavailableError


@click.command()
def up() -> None:
    """Start Airflow's UI, the broker and the agents, and say where they are."""
    home = Home.default()
    stack = Stack(home)
    if not stack.is_running():
        say = acting.StageClock()
        with acting.alone(home, say=say):
            _start(home, stack=stack, say=say)
    _tell(home, stack=stack)


@click.command()
def down() -> None:
    """Stop what `ppml up` started; no process is left."""
    home = Home.default()
    stopped = Stack(home).stop()
    (home.run / "ui").unlink(missing_ok=True)
    click.echo("stopped" if stopped else "nothing runs here")


def _start(home: Home, *, stack: Stack, say: Callable[[str], None]) -> None:
    owner = ensure_simulated_domain(home, now=datetime.now(UTC))
    with ThreadPoolExecutor() as pool:
        image = pool.submit(ensure_image_for(default_runtime()), home, owner=owner, name="spark", say=say)
        airflow_processes.migrate(home, database="airflow.db")
        airflow_processes.store_connection(home, broker=stack.broker_socket, database="airflow.db")
        _lay_shipped(home, stack=stack)
        image.result()
    services, url = airflow_processes.airflow_services(home)
    stack.start([*core_services(home), *services], stays=True)
    try:
        stack.wait_until_ready()
        with stack.broker() as broker:
            owner.publish(broker)
        say(describe(home))
        say("quoting service, broker and agents are ready")
        stack.wait_for(lambda: airflow_processes.is_healthy(url), service="airflow-api-server")
    except PpmlError:
        stack.stop()
        raise
    (home.run / "ui").write_text(url)
    say("Airflow is ready")


def _lay_shipped(home: Home, *, stack: Stack) -> None:
    """Lay the shipped DAGs and their agents' entries, unless `ppml demo` or a person has laid them already."""
    write_agent_files(home, broker=stack.broker_socket, pipeline="", sources={}, sinks={})
    shipped = dags_of(home)
    for dag_id in shipped:
        if not (home.dags / f"{dag_id}.py").exists():
            lay_dag(home, dag_id=dag_id, tables={}, sql=None)
    unknown = [dag_id for dag_id in shipped if dag_id not in pipelines_in_files(home)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for dag_id, compiled in zip(unknown, pool.map(partial(_compiled, home), unknown), strict=True):
            sealers = load_sealers(home.run / f"{dag_id}.code", home=home)
            write_agent_files(
                home,
                broker=stack.broker_socket,
                pipeline=dag_id,
                sources=choose_sources(
                    home,
                    given={},
                    datasets=sealed_datasets(compiled),
                    params=source_params(compiled, given={}),
                    sealers=sealers,
                ),
                sinks=delivery_sinks(home, approval=compiled),
                sealers=sealers,
            )


def _compiled(home: Home, dag_id: str) -> Approval:
    return compile_dag(
        home.dags / f"{dag_id}.py",
        dag_id=dag_id,
        domain_id=home.load_domain().domain_id,
        code_folder=home.run / f"{dag_id}.code",
        airflow_home=home.compiler,
    )


def _tell(home: Home, *, stack: Stack) -> None:
    """The lines that scripts read, after what a person may have to do."""
    try:
        url = airflow_processes.require_url(home)
    except UnavailableError as error:
        raise UnavailableError(
            "another ppml command runs its services here", hint="wait until it ends, then ppml up"
        ) from error
    owner = Owner(home, domain=home.load_domain(), keys=())
    click.echo(f"dags: {home.dags}")
    for dag_id in dags_of(home):
        if owner.approval_in_force(dag_id) is None:
            compiled = home.path / f"{dag_id}.json"
            click.echo(f"no approval of {dag_id} is in force; as its owner, read and sign one:")
            click.echo(f"  ppml compile {home.dags / dag_id}.py --out {compiled}")
            click.echo(f"  ppml approve {compiled}")
    click.echo(f"ui: {url}")
    click.echo(f"user: {airflow_processes.USER}")
    click.echo(f"password-file: {airflow_processes.password_file(home)}")
    click.echo(f"broker: {stack.broker_url}")
    click.echo(f"trust: {Path(home.trust_bundle)}")
