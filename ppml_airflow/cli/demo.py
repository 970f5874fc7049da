"""`ppml demo`: seal real data, run a shipped pipeline on Airflow with its gates and its enclave, verify its passport.

Acts as owner of its own simulated domain and says so. Exit code 0 only if the run succeeded and its passport verified;
2 for a source, query or params that cannot be used. The last lines on stdout are for scripts: `result:`, `passport:`,
`verify:`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import yaml

from ppml_airflow import canonical
from ppml_airflow.cli import acting, airflow_processes
from ppml_airflow.cli.agents import OWNER, agents_of, load_sealers, sealed_datasets
from ppml_airflow.cli.compile import compile_dag
from ppml_airflow.cli.home import Home, require_checkout, write_private
from ppml_airflow.cli.image import ensure_images
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.simulated import ensure_simulated_domain
from ppml_airflow.cli.sources import demo_source
from ppml_airflow.cli.users import describe
from ppml_airflow.domain.documents import Approval, ParamValue, Run
from ppml_airflow.domain.params import check_params
from ppml_airflow.enclaves.runtimes.registry import default_runtime
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from ppml_airflow.provenance.passport import parse_passport
from ppml_airflow.sealing.sources import is_table, open_files_source, open_source
from ppml_airflow.sealing.streams import is_stream, open_stream_source
from ppml_airflow.units import format_instant

JOINT_DAGS = {"batch_inference": 2}
"""Shipped DAGs whose inputs belong to several owners, and how many must sign."""
_TABLE = re.compile(r"^[A-Za-z][A-Za-z0-9_]{0,99}$")


@click.command()
@click.option("--dag", "dag_id", default="nightly_analytics", show_default=True, help="A DAG of dags/.")
@click.option("--conf", help="Params of the run, as JSON.")
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="[NAME=]FILE",
    help="A CSV or Parquet file, as the table NAME; by default the file's stem.",
)
@click.option("--sql", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Another query.")
def demo(*, dag_id: str, conf: str | None, sources: tuple[str, ...], sql: Path | None) -> None:
    """Run a shipped pipeline once, in a simulated domain."""
    say = acting.StageClock()
    home = demo_home(Home.default(), dag_id=dag_id, say=say)
    params = parse_params(conf or "{}")
    given = dict(map(parse_source, sources))
    with acting.alone(home, say=say):
        passport, approval, succeeded = _run(home, dag_id=dag_id, params=params, given=given, sql=sql, say=say)
        if not succeeded:
            if passport is not None:
                acting.print_passport(home, passport=passport)
            raise PolicyDeniedError(f"the run of {dag_id} failed; see {home.run}/airflow.log", code="run_failed")
        if passport is None:
            raise PolicyDeniedError(f"the run of {dag_id} left no passport", code="no_passport")
        report = acting.check_passport(home, passport)
        say(f"passport verified offline: run {report.run_id} {report.outcome}, trust: SIMULATED")
        acting.print_outcome(home, approval=approval, passport=passport)


def _run(
    home: Home, *, dag_id: str, params: Mapping[str, Any], given: Mapping[str, Path], sql: Path | None, say: acting.Say
) -> tuple[Path | None, Approval, bool]:
    for name, path in given.items():
        check_source(path)
        say(f"source {name}: {path}")
    dag_file = lay_dag(home, dag_id=dag_id, tables=given, sql=sql)
    owner, compiled = _prepare(home, dag_file=dag_file, dag_id=dag_id, say=say)
    sealers = load_sealers(_code_folder(home, dag_id), home=home)
    sources = choose_sources(
        home,
        given=given,
        datasets=sealed_datasets(compiled),
        params=source_params(compiled, given=params),
        sealers=sealers,
    )
    _, approval = acting.sign_approval(home, compiled=compiled, sealers=sealers, say=say)
    with acting.serving(home, owner=owner, approval=approval, sources=sources, sealers=sealers) as stack:
        say(describe(home))
        say(f"quoting service, broker and the agents of {', '.join(agents_of(home))} are ready")
        moment = datetime.now(UTC).replace(microsecond=0)
        succeeded = airflow_processes.test_dag(
            home,
            dag_id=dag_id,
            moment=moment,
            conf=json.dumps(params) if params else None,
            broker=stack.broker_socket,
            say=say,
        )
        say(f"the DAG run {'succeeded' if succeeded else 'failed'}")
    return find_passport(home, dag_id=dag_id, moment=moment), approval, succeeded


def _prepare(home: Home, *, dag_file: Path, dag_id: str, say: acting.Say) -> tuple[Owner, Approval]:
    """Compile, have Airflow's database and the images that the steps name."""
    owners = JOINT_DAGS.get(dag_id, 1)
    owner = ensure_simulated_domain(home, now=datetime.now(UTC), owners=owners, threshold=owners)
    with ThreadPoolExecutor() as pool:
        database = pool.submit(airflow_processes.migrate, home, database="demo.db")
        compiled = compile_dag(
            dag_file,
            dag_id=dag_id,
            domain_id=owner.domain.domain_id,
            code_folder=_code_folder(home, dag_id),
            airflow_home=home.compiler,
            options=acting.COMPILE_OPTIONS,
        )
        say(f"compiled {dag_file.name}: steps {', '.join(step.name for step in compiled.steps)}")
        ensure_images(home, owner=owner, approval=compiled, runtime=default_runtime(), say=say)
        database.result()
    return owner, compiled


def parse_source(text: str) -> tuple[str, Path]:
    """Read `[NAME=]FILE`.

    Raises:
        ConfigurationError: no such file, or the name cannot be that of a table.
    """
    name, has_name, file = text.partition("=")
    path = Path(file if has_name and _TABLE.match(name) else text)
    if not path.exists():
        raise ConfigurationError(f"source {path} is not there")
    table = name if has_name and _TABLE.match(name) else path.name.partition(".")[0]
    if not _TABLE.match(table):
        raise ConfigurationError(f"source {path}: {table!r} cannot name a table", hint="write NAME=FILE")
    return table, path.absolute()


def check_source(path: Path) -> None:
    """Read a table to its end, as the owner's agent will; look for the files of anything else.

    Raises:
        ConfigurationError: it cannot be sealed; names file and column.
    """
    if is_stream(path):
        open_stream_source(path)
        return
    if not is_table(path):
        open_files_source(path)
        return
    for _ in open_source(path).batches():
        pass


def choose_sources(
    home: Home,
    *,
    given: Mapping[str, Path],
    datasets: list[str],
    params: Mapping[str, ParamValue] = MappingProxyType({}),
    sealers: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Path]:
    """The file of each dataset that an agent seals: the one given, else the demo's own for these params.

    Args:
        home: where the demo's own lie, with the agent that seals them.
        given: dataset -> file or folder.
        datasets: all that are wanted.
        params: of the run.
        sealers: dataset -> agent that seals it; the owner's if not named.

    Raises:
        ConfigurationError: a dataset has neither, or a file is for none.
    """
    for name in given:
        if name not in datasets:
            raise ConfigurationError(
                f"source {name} is none of this pipeline's inputs: {', '.join(datasets) or 'none'}"
            )
    folders = {name: home.agent(sealers.get(name, OWNER)) / "sources" for name in datasets}
    own = {name: folders[name] for name in datasets if name not in given}
    return {**given, **{name: demo_source(name, folder=folder, params=params) for name, folder in own.items()}}


def shipped_dags() -> list[str]:
    """The ids of the DAGs in dags/."""
    return sorted(path.stem for path in (require_checkout() / "dags").glob("[a-z]*.py"))


def dags_of(home: Home) -> list[str]:
    """Those that the owners of this home's domain can run."""
    owners = len(home.load_domain().roots)
    return [dag_id for dag_id in shipped_dags() if JOINT_DAGS.get(dag_id, 1) <= owners]


def demo_home(home: Home, *, dag_id: str, say: acting.Say) -> Home:
    """The home in which a DAG is shown: this one, or, for a joint DAG, one of a joint domain below it.

    Who may command an image is measured with it, so a domain of other owners has images, broker and agents of its own.
    """
    owners = JOINT_DAGS.get(dag_id, 1)
    if owners == 1 or (home.domain_file.exists() and len(home.load_domain().roots) >= owners):
        return home
    joint = Home(home.path / "joint")
    say(f"{dag_id} needs a joint domain of {owners} owners: PPML_HOME={joint.path}")
    return joint


def lay_dag(home: Home, *, dag_id: str, tables: Mapping[str, Path], sql: Path | None) -> Path:
    """Lay a shipped DAG where Airflow looks, with its job files, its question changed to these tables and this query.

    Raises:
        ConfigurationError: no such DAG, or it takes no tables or query.
    """
    shipped = require_checkout() / "dags"
    file = shipped / f"{dag_id}.py"
    if dag_id not in shipped_dags():
        raise ConfigurationError(f"there is no dag {dag_id[:100]!r}; there are: {', '.join(shipped_dags())}")
    question = file.with_suffix(".yaml")
    if question.is_file():
        content = _ask(question, tables=tables, sql=sql) if tables or sql else question.read_text()
        write_private(home.dags / question.name, content.encode())
    elif sql:
        raise ConfigurationError(f"dag {dag_id} takes no --sql")
    beside = (path for path in file.with_suffix("").rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    for path in (shipped / ".airflowignore", *sorted(beside), file):
        write_private(home.dags / path.relative_to(shipped), path.read_bytes())
    return home.dags / file.name


def _code_folder(home: Home, dag_id: str) -> Path:
    return home.run / f"{dag_id}.code"


def find_passport(home: Home, *, dag_id: str, moment: datetime) -> Path | None:
    """The passport of the run that Airflow called so, by what the passport claims."""
    claimed = {"dag_id": dag_id, "logical_date": format_instant(moment)}
    for path in sorted(home.passports.glob("[!.]*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        if claimed.items() <= _claims(path).items():
            return path
    return None


def _claims(path: Path) -> Mapping[str, str]:
    return canonical.decode(parse_passport(path.read_bytes()).contents.run.payload, into=Run).claimed


def _ask(question: Path, *, tables: Mapping[str, Path], sql: Path | None) -> str:
    content = yaml.safe_load(question.read_text())
    if sql is not None:
        try:
            content["sql"] = sql.read_text()
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"query {sql} is not UTF-8 text") from error
    mentioned = {word.lower() for word in re.findall(r"[A-Za-z_][A-Za-z0-9_]*", content["sql"])}
    kept = [name for name in content["tables"] if name in mentioned and name not in tables]
    content["tables"] = [*kept, *tables] or content["tables"]
    return yaml.safe_dump(content, sort_keys=False)


def parse_params(conf: str) -> Mapping[str, Any]:
    """The params of a run, as JSON on the command line.

    Raises:
        ConfigurationError: not a JSON object.
    """
    try:
        value = json.loads(conf)
    except ValueError as error:
        raise ConfigurationError(f"--conf is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigurationError("--conf is not a JSON object of params")
    return value


def source_params(approval: Approval, *, given: Mapping[str, Any]) -> Mapping[str, ParamValue]:
    """The params by which sources are chosen; the defaults where what was given will be refused."""
    try:
        return check_params(approval, given={name: _spelled(value) for name, value in given.items()})
    except PolicyDeniedError:
        return check_params(approval, given={})


def _spelled(value: Any) -> ParamValue:
    """A float as the decimal that it is written as."""
    return value if isinstance(value, bool | int) else str(value)
