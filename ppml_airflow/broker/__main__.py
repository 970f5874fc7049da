"""`python -m ppml_airflow.broker --config broker.yaml`: what `ppml broker serve` does, for a supervisor."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from ppml_airflow.broker.service.serving import run
from ppml_airflow.errors import PpmlError
from ppml_airflow.hardening import harden


@click.command()
@click.option("--config", type=click.Path(path_type=Path), required=True)
def main(config: Path) -> None:
    """Serve the broker."""
    harden()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        run(config)
    except PpmlError as error:
        click.echo(f"ppml broker: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
