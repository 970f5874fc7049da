"""`ppml`: one word for what people do daily or sign. Each command is a module; this is the table of them.

Exit codes: 0 ok, 1 verification failed or denied, 2 wrong usage or configuration, 3 unavailable. An error is one line
on stderr, with what to do about it in brackets.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping

import click

from ppml_airflow.cli.terminal import plain
from ppml_airflow.errors import PpmlError
from ppml_airflow.hardening import harden

COMMANDS: Mapping[str, tuple[str, str]] = {
    "approve": ("approve:approve", "Show an approval in words, and sign it as an owner"),
    "broker": ("broker:broker", "Serve, back up and recover a broker, show and prove its log"),
    "collateral": ("collateral:collateral", "Fetch collateral, list it, carry it to machines without network"),
    "compile": ("compile:command", "Compile a DAG to an unsigned approval"),
    "demo": ("demo:demo", "Run a shipped pipeline once, in a simulated domain"),
    "dev": ("dev:dev", "Watch a DAG and run it again whenever it is saved"),
    "domain": ("domain:domain", "Make a domain, show it"),
    "down": ("up:down", "Stop what `ppml up` started"),
    "image": ("image:image", "Set up and measure trusted images"),
    "logs": ("logs:logs", "Open the sealed logs of a run"),
    "plan": ("plan:plan", "Say what each task of a DAG needs, and why it would be denied"),
    "policy": ("policy:policy", "Check, explain, compare and sign policies"),
    "quote": ("quote:quote", "Judge quotes and reports of TEEs"),
    "revoke": ("revoke:revoke", "Take back trust in an image, machine, approval, certificate or key"),
    "run": ("run:run", "Compile, sign and run a pipeline without Airflow's engine"),
    "trust": ("trust:trust", "Export what a verifier has to trust"),
    "up": ("up:up", "Start Airflow's UI, the broker and the agents"),
    "verify": ("verify:verify", "Verify a passport offline"),
}
"""Command: `module:attribute` in this package, and one line of help."""


class _Commands(click.Group):
    """Imports a command's module when it is asked for, and no sooner."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"ppml_airflow.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in sorted(COMMANDS.items())])


@click.group(cls=_Commands)
@click.version_option(package_name="ppml-airflow")
def cli() -> None:
    """Trusted pipelines on Apache Airflow."""


def main(arguments: list[str] | None = None) -> None:
    """The entry point: run a command and turn its error into an exit code."""
    harden()  # owners sign here, `ppml broker serve` serves here
    try:
        cli.main(arguments, prog_name="ppml", standalone_mode=True)
    except PpmlError as error:
        click.echo(plain(f"error: {error}"), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
