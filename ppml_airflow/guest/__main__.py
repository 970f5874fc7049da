"""`python -I -m ppml_airflow.guest --channel FD --parent PID`: what the quoting service starts and measures.

All that it is told comes over the socket handed over at its start; all that it says goes there. Job processes do not
inherit that socket, so they can neither ask for a quote nor speak.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from ppml_airflow.enclaves.installation import load_domain, load_installation
from ppml_airflow.errors import UnavailableError
from ppml_airflow.guest.process import harden, require_clean_environment
from ppml_airflow.guest.session import Surroundings, WorkloadFactory, run_guest
from ppml_airflow.guest.speech import Speech
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.protocol.launches import LineSocket, QuoteAnswer, QuoteRequest
from ppml_airflow.protocol.messages import LaunchRequest
from ppml_airflow.units import Name
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import Workload, WorkloadJob
from ppml_airflow.workloads.registry import find_workload


def main() -> int:
    """Run one guest."""
    parser = argparse.ArgumentParser(prog="ppml_airflow.guest")
    parser.add_argument("--channel", type=int, required=True, help="the socket that the quoting service handed over")
    parser.add_argument("--parent", type=int, required=True, help="the quoting service's process")
    arguments = parser.parse_args()
    os.set_inheritable(arguments.channel, False)
    channel = LineSocket(socket.socket(fileno=arguments.channel))
    speech = Speech(channel.send)
    try:
        harden(parent=arguments.parent)
        require_clean_environment(os.environ)
        request = channel.receive(LaunchRequest)
        if request is None:
            raise UnavailableError("the quoting service ended the guest before it began", code="service_gone")
        around = _surroundings(Path(sys.prefix).parent, quoter=_quoter(channel))
        channel.send(run_guest(request, around=around, speech=speech))
    except BaseException as error:
        channel.send(speech.problem(error))
        return 1
    return 0


def _surroundings(folder: Path, *, quoter: Callable[[bytes], bytes]) -> Surroundings:
    installation = load_installation(folder)
    return Surroundings(
        domain=load_domain(folder),
        image=installation.name,
        private=Path.cwd(),
        quoter=quoter,
        connect=BrokerClient,
        workload=_workloads(folder, java_home=installation.java_home),
        now=lambda: datetime.now(UTC),
    )


def _quoter(channel: LineSocket) -> Callable[[bytes], bytes]:
    def quote(report_data: bytes) -> bytes:
        channel.send(QuoteRequest(report_data=report_data))
        answer = channel.receive(QuoteAnswer)
        if answer is None:
            raise UnavailableError("the quoting service is gone", code="service_gone")
        made: bytes = answer.quote
        return made

    return quote


def _workloads(folder: Path, *, java_home: str | None) -> WorkloadFactory:
    installation = ImageInstallation.of_image(folder, java_home=None if java_home is None else Path(java_home))

    def make(name: Name, *, job: WorkloadJob, private: Path, log: Path) -> Workload:
        return find_workload(name)(job, installation=installation, private=private, log=log)

    return make


if __name__ == "__main__":
    sys.exit(main())
