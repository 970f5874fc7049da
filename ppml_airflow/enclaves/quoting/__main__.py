"""`python -m ppml_airflow.enclaves.quoting --home PPML_HOME --socket PATH [...]`: the quoting service as a process."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from ppml_airflow.enclaves.quoting.service import QuotingService
from ppml_airflow.errors import PpmlError
from ppml_airflow.hardening import harden
from ppml_airflow.users import Users


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    harden()
    parser = argparse.ArgumentParser(prog="ppml_airflow.enclaves.quoting", description="Launch, measure, quote guests.")
    parser.add_argument("--home", type=Path, required=True, help="PPML_HOME")
    parser.add_argument("--socket", type=Path, required=True, help="the Unix socket to listen on")
    parser.add_argument("--storage", type=Path, help="the sealed datasets, for containers; PPML_HOME/storage")
    parser.add_argument("--broker", help="the broker's address, for containers")
    parser.add_argument("--users", type=int, help="the first of the installation's users; none: all share this one")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    os.umask(0o077)
    try:
        home = arguments.home.resolve()
        service = QuotingService(
            home=home,
            socket_path=arguments.socket,
            storage=arguments.storage or home / "storage",
            broker=arguments.broker,
            users=Users(arguments.users) if arguments.users else None,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: service.stop())
        service.serve()
    except PpmlError as error:
        logging.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
