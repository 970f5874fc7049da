"""Options that more than one command has."""

from __future__ import annotations

from pathlib import Path

import click

root_keys = click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A root key; several for a domain whose threshold is above one. Those in this home if not given.",
)
