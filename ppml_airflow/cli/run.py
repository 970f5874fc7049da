"""`ppml run FILE`: compile, sign and run a pipeline without Airflow's engine. How a job is developed.

FILE is a DAG (.py) or what `ppml compile` wrote (.json, its code beside it). In a simulated domain only, as its owner.
The same agents, gates, enclave, broker and passport as a nightly run; only the order of the steps is kept here.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Literal

import click
import msgspec

from ppml_airflow import canonical
from ppml_airflow.cli import acting
from ppml_airflow.cli.agents import OWNER, delivery_sinks, load_sealers, sealed_datasets, source_in_file
from ppml_airflow.cli.compile import code_folder, compile_dag, load_code
from ppml_airflow.cli.demo import check_source, choose_sources, parse_params, parse_source, source_params
from ppml_airflow.cli.home import Home, write_private
from ppml_airflow.cli.image import ensure_images
from ppml_airflow.cli.simulated import airflow_token, ensure_simulated_domain
from ppml_airflow.domain.documents import Approval, Step
from ppml_airflow.enclaves.runtimes.process import ProcessRuntime
from ppml_airflow.enclaves.runtimes.registry import RUNTIMES, find_runtime, require_supported
from ppml_airflow.enclaves.runtimes.runtime import EnclaveRuntime
from ppml_airflow.enclaves.runtimes.sets import SetOfGuests
from ppml_airflow.errors import PpmlError
from ppml_airflow.protocol.agents import run_agent_task
from ppml_airflow.protocol.client import BrokerClient, JsonClient
from ppml_airflow.protocol.launches import GuestEvent
from ppml_airflow.protocol.messages import LaunchRequest, OpenRun, members_of
from ppml_airflow.units import format_instant


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--dag", "dag_id", help="Which DAG of the file, if it has several.")
@click.option("--conf", default="{}", help="Params of the run, as JSON.")
@click.option("--source", "sources", multiple=True, metavar="[NAME=]FILE", help="The file that is sealed as NAME.")
@click.option("--runtime", type=click.Choice(list(RUNTIMES)), default="process", help="Where enclaves run.")
def run(file: Path, *, dag_id: str | None, conf: str, sources: tuple[str, ...], runtime: str) -> None:
    """Compile, sign and run the pipeline in FILE."""
    home, say = Home.default(), acting.StageClock()
    given = dict(map(parse_source, sources))
    with acting.alone(home, say=say):
        run_file(home, file=file, dag_id=dag_id, params=_params(conf), given=given, runtime=runtime, say=say)


def run_file(
    home: Home,
    *,
    file: Path,
    dag_id: str | None,
    params: Mapping[str, Any],
    given: Mapping[str, Path],
    runtime: str = "process",
    say: acting.Say,
) -> None:
    """Do all of `ppml run`, and print where result and passport are.

    Raises:
        PpmlError: whatever went wrong; a passport is left once the run was open.
    """
    for path in given.values():
        check_source(path)
    owner = ensure_simulated_domain(home, now=datetime.now(UTC))
    compiled, code = _compiled(home, file=file, dag_id=dag_id, domain_id=owner.domain.domain_id)
    for step in compiled.steps:
        require_supported(step.image, runtime=runtime, members=step.members)
    ensure_images(home, owner=owner, approval=compiled, runtime=runtime, say=say)
    datasets = sealed_datasets(compiled)
    known = {dataset: source_in_file(home, dataset) for dataset in datasets}
    chosen = {dataset: path for dataset, path in known.items() if path is not None and path.exists()} | dict(given)
    sealers = load_sealers(code, home=home)
    sources = choose_sources(
        home, given=chosen, datasets=datasets, params=source_params(compiled, given=params), sealers=sealers
    )
    _, approval = acting.sign_approval(home, compiled=compiled, sealers=sealers, say=say)
    with (
        acting.serving(home, owner=owner, approval=approval, sources=sources, sealers=sealers) as stack,
        stack.broker(token=airflow_token(home)) as broker,
    ):
        enclaves = find_runtime(runtime, socket_path=home.socket("quoting"))
        passport = _run_pipeline(
            home, broker=broker, approval=approval, code=code, params=params, enclaves=enclaves, say=say
        )
    report = acting.check_passport(home, passport)
    say(f"passport verified offline: run {report.run_id} {report.outcome}, trust: SIMULATED")
    acting.print_outcome(home, approval=approval, passport=passport)


def _compiled(home: Home, *, file: Path, dag_id: str | None, domain_id: str) -> tuple[Approval, Path]:
    if file.suffix == ".json":
        approval = canonical.decode(file.read_bytes(), into=Approval)
        return msgspec.structs.replace(approval, domain_id=domain_id), code_folder(file)
    code = home.run / f"{file.stem}.code"
    approval = compile_dag(
        file,
        dag_id=dag_id,
        domain_id=domain_id,
        code_folder=code,
        airflow_home=home.compiler,
        options=acting.COMPILE_OPTIONS,
    )
    return approval, code


def _run_pipeline(
    home: Home,
    *,
    broker: BrokerClient,
    approval: Approval,
    code: Path,
    params: Mapping[str, Any],
    enclaves: EnclaveRuntime,
    say: acting.Say,
) -> Path:
    """One run from opening to passport. A run that fails is closed, too, and leaves its passport."""
    label = f"ppml-run-{format_instant(datetime.now(UTC))}-{secrets.token_hex(4)}"
    request = OpenRun(
        pipeline=approval.pipeline,
        slot=None,
        params=dict(params),
        claimed={"dag_id": approval.pipeline, "run_id": label},
    )
    opened = broker.open_run(request)
    say(f"run {opened.run_id} opened, slot {opened.slot}, trust: SIMULATED")
    try:
        _do_steps(home, broker=broker, approval=approval, run_id=opened.run_id, code=code, enclaves=enclaves, say=say)
    except PpmlError:
        acting.print_passport(home, passport=_store_passport(home, broker=broker, run_id=opened.run_id))
        raise
    return _store_passport(home, broker=broker, run_id=opened.run_id)


def _do_steps(
    home: Home,
    *,
    broker: BrokerClient,
    approval: Approval,
    run_id: str,
    code: Path,
    enclaves: EnclaveRuntime,
    say: acting.Say,
) -> None:
    sealers = load_sealers(code, home=home)
    for name in sealed_datasets(approval):
        _ask_agent(home, sealers.get(name, OWNER), verb="seal", names=[name], run_id=run_id, say=say)
    for step in ordered_steps(approval):
        files = load_code(code, step=step)
        roles: Sequence[Literal["preflight", "job"]] = ("preflight", "job") if "before" in step.gates else ("job",)
        for role in roles:
            launch = LaunchRequest(
                image=step.image,
                role=role,
                step=step.name,
                bundle=broker.bundle(run_id, step.name),
                code=files,
                broker=f"unix:{home.socket('broker')}",
                storage=str(home.storage),
            )
            if role == "job" and step.members > 1:
                members = members_of(launch, opened=broker.open_set(run_id, step.name))
                guests = SetOfGuests(lambda: ProcessRuntime(home.socket("quoting")), replacements=step.replacements)
                result = guests.run(members, on_event=_telling(step, role=role, say=say))
            else:
                result = enclaves.run(launch, on_event=_telling(step, role=role, say=say))
            say(f"step {step.name}: {role} {result.state}")
    delivered = sorted(delivery_sinks(home, approval=approval))
    _ask_agent(home, "recipient", verb="deliver", names=delivered, run_id=run_id, say=say)


def ordered_steps(approval: Approval) -> list[Step]:
    """The steps, each after those that must be committed before it."""
    before: dict[str, set[str]] = {step.name: set() for step in approval.steps}
    for earlier, later in approval.edges:
        before[later].add(earlier)
    by_name = {step.name: step for step in approval.steps}
    return [by_name[name] for name in TopologicalSorter(before).static_order()]


def _telling(step: Step, *, role: str, say: acting.Say) -> Any:
    def tell(event: GuestEvent) -> None:
        percent = f" {event.percent} %" if event.percent else ""
        say(f"step {step.name}: {role} " + f"{event.state} {event.stage} {event.code}".strip() + percent)

    return tell


def _ask_agent(
    home: Home, agent: str, *, verb: Literal["seal", "deliver"], names: list[str], run_id: str, say: acting.Say
) -> None:
    with JsonClient(f"unix:{home.socket(f'{agent}-agent')}") as client:
        for name in names:
            run_agent_task(
                client, verb=verb, name=name, run_id=run_id, progress=lambda text, *values: say(text % values)
            )


def _store_passport(home: Home, *, broker: BrokerClient, run_id: str) -> Path:
    broker.close_run(run_id)
    path = home.passports / f"{run_id}.json"
    write_private(path, broker.passport(run_id))
    return path


def _params(conf: str) -> Mapping[str, Any]:
    return {name: str(item) if isinstance(item, float) else item for name, item in parse_params(conf).items()}
