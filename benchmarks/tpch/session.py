"""The Spark side of tpch.py: at each line that comes it runs all queries, and answers with what each of them took."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from time import perf_counter

from ppml_airflow.workloads.spark.api import session

OUTPUTS = {"nothing": {"nothing": "int"}}
"""A job has an output; this one is ended before it writes."""


def cpu_seconds() -> float:
    """What the Java machine, this process's parent, has used of the processor."""
    fields = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(query: str) -> tuple[float, float]:
    """CPU and wall seconds of one query, run to its last row."""
    cpu, wall = cpu_seconds(), perf_counter()
    session().sql(query).write.format("noop").mode("overwrite").save()
    return cpu_seconds() - cpu, perf_counter() - wall


def main() -> None:
    """Serve passes until nobody asks any more."""
    queries = {path.stem: path.read_text() for path in sorted(Path(__file__).parent.glob("q*.sql"))}
    session()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.connect("bench.sock")
        for _ in channel.makefile("r"):
            took = {name: timed(query) for name, query in queries.items()}
            channel.sendall(json.dumps(took).encode() + b"\n")


if __name__ == "__main__":
    main()
