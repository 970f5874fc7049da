"""`ppml dev FILE`: run a pipeline whenever its file, one beside it or one of its job files is saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path

import click
import watchfiles

from ppml_airflow.cli import acting
from ppml_airflow.cli.agents import write_agent_files
from ppml_airflow.cli.demo import parse_source
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.run import run_file
from ppml_airflow.cli.simulated import ensure_simulated_domain
from ppml_airflow.cli.stack import Stack
from ppml_airflow.errors import PpmlError

_WATCHED = (".py", ".sql", ".yaml", ".json")
_LOOK_MS = 500
"""How often to look at the latest."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--dag", "dag_id", help="Which DAG of the file, if it has several.")
@click.option("--source", "sources", multiple=True, metavar="[NAME=]FILE", help="The file that is sealed as NAME.")
def dev(file: Path, *, dag_id: str | None, sources: tuple[str, ...]) -> None:
    """Watch FILE and run it whenever it is saved. The services stay up in between. Ctrl-C ends."""
    home, given = Home.default(), dict(map(parse_source, sources))
    ensure_simulated_domain(home, now=datetime.now(UTC))
    stack = Stack(home)
    write_agent_files(home, broker=stack.broker_socket, pipeline="", sources={}, sinks={})
    ending = _interrupts()
    with stack.attached():
        folders = [folder for folder in (file.parent, file.with_suffix("")) if folder.is_dir()]
        seen: dict[Path, int] = {}
        # What was saved is found by comparing times, so that nothing saved during a run is missed.
        for _ in watchfiles.watch(
            *folders, recursive=False, yield_on_timeout=True, rust_timeout=_LOOK_MS, stop_event=ending
        ):
            found = _times(folders)
            if found == seen:
                continue
            if seen:
                click.echo(f"saved: {', '.join(sorted({path.name for path, _ in found.items() ^ seen.items()}))}")
            seen = found
            _try(home, file=file, dag_id=dag_id, given=given)


def _interrupts() -> threading.Event:
    """Is set by Ctrl-C, too: an exception alone is lost where a library raises none (a destructor, a callback)."""
    ending = threading.Event()

    def end(_signal: int, _frame: object) -> None:
        ending.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, end)
    return ending


def _times(folders: list[Path]) -> dict[Path, int]:
    """When each watched file was last written, in nanoseconds."""
    found = {}
    for path in (path for folder in folders for path in folder.iterdir() if path.suffix in _WATCHED):
        with contextlib.suppress(FileNotFoundError):  # an editor replaces it just now
            found[path] = path.stat().st_mtime_ns
    return found


def _try(home: Home, *, file: Path, dag_id: str | None, given: dict[str, Path]) -> None:
    say = acting.StageClock()
    try:
        with acting.alone(home, say=say):
            run_file(home, file=file, dag_id=dag_id, params={}, given=given, say=say)
    except PpmlError as error:
        click.echo(f"error: {error}", err=True)
