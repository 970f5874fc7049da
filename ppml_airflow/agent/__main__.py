"""`python -m ppml_airflow.agent --config agent.yaml`: serve the agent until SIGTERM.

Prints `ready` with its address once it listens. Exit codes as everywhere: 2 for a wrong configuration.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

import click
import uvicorn

from ppml_airflow.agent.agent import Agent
from ppml_airflow.agent.service import build_app
from ppml_airflow.agent.settings import load_settings
from ppml_airflow.agent.tasks import Tasks
from ppml_airflow.errors import PpmlError
from ppml_airflow.hardening import harden
from ppml_airflow.protocol.listening import listening_socket, serving_only


@click.command()
@click.option("--config", "config", required=True, type=click.Path(path_type=Path), help="The agent's YAML file.")
def main(config: Path) -> None:
    """Serve an owner's or recipient's agent."""
    harden()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        serve(config)
    except PpmlError as error:
        click.echo(f"ppml agent: {error}", err=True)
        sys.exit(error.exit_code)


def serve(config: Path) -> None:
    """Sweep what a crash left behind, then serve until told to stop.

    Raises:
        ConfigurationError: the configuration is wrong, or another agent runs with it.
    """
    settings = load_settings(config)
    with Agent.start(settings) as agent, listening_socket(settings.listen, users=settings.socket_users) as sock:
        tasks = Tasks(agent.perform)
        app = build_app(tasks, settings=settings)
        http = serving_only(settings.socket_users)
        server = uvicorn.Server(uvicorn.Config(app, http=http, log_level="warning", access_log=False, lifespan="off"))
        # Before uvicorn takes signals, and when it raises the one that ended it once more. An exception would be lost
        # where a signal meets Python in a finalizer.
        signal.signal(signal.SIGTERM, lambda number, frame: setattr(server, "should_exit", True))
        click.echo(f"ready {settings.listen}")
        try:
            server.run(sockets=[sock])
        finally:
            tasks.close()


if __name__ == "__main__":
    main()
