"""`python -I -m ppml_airflow.guest --channel FD --parent PID | --socket PATH`: what the quoting service starts.

All that it is told comes over the socket handed over at its start; all that it says goes there. Job processes do not
inherit that socket, so they can neither ask for a quote nor speak. In a container it is the first process and connects
to the socket by its path; the service takes one connection there, before anything of a job is in the container.
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
from ppml_airflow.guest.channel import Channel
from ppml_airflow.guest.process import die_with_channel, die_with_parent, require_clean_environment
from ppml_airflow.guest.serving import serve_session
from ppml_airflow.guest.session import Surroundings, WorkloadFactory, run_guest
from ppml_airflow.guest.speech import Speech
from ppml_airflow.hardening import harden
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.protocol.launches import LineSocket
from ppml_airflow.units import Name
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import Workload, WorkloadJob
from ppml_airflow.workloads.registry import find_workload


def main() -> int:
    """Run one guest."""
    parser = argparse.ArgumentParser(prog="ppml_airflow.guest")
    parser.add_argument("--channel", type=int, help="the socket that the quoting service handed over")
    parser.add_argument("--parent", type=int, help="the quoting service's process")
    parser.add_argument("--socket", type=Path, help="in a container: the quoting service's socket")
    arguments = parser.parse_args()
    connection = _connect(arguments.socket) if arguments.socket else socket.socket(fileno=arguments.channel)
    connection.set_inheritable(False)
    lines = LineSocket(connection)
    speech = Speech(lines.send)
    try:
        harden()
        if arguments.socket:
            die_with_channel(connection)
        else:
            die_with_parent(arguments.parent)
        require_clean_environment(os.environ)
        channel = Channel(lines)
        request = channel.next_launch()
        if request is None:
            raise UnavailableError("the quoting service ended the guest before it began", code="service_gone")
        around = _surroundings(Path(sys.prefix).parent, quoter=channel.quote)
        if request.role == "session":
            serve_session(request, around=around, next_launch=channel.next_launch, send=lines.send)
        else:
            lines.send(run_guest(request, around=around, speech=speech))
    except BaseException as error:
        lines.send(speech.problem(error))
        return 1
    return 0


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    Path(os.environ["TMPDIR"]).mkdir(mode=0o700)
    return connection


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


def _workloads(folder: Path, *, java_home: str | None) -> WorkloadFactory:
    installation = ImageInstallation.of_image(folder, java_home=None if java_home is None else Path(java_home))

    def make(name: Name, *, job: WorkloadJob, private: Path, log: Path) -> Workload:
        found = find_workload(name, index=job.index)
        return found(job, installation=installation, private=private, log=log)

    return make


if __name__ == "__main__":
    sys.exit(main())
