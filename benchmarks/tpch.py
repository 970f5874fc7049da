"""TPC-H on encrypted Parquet against plain Parquet: CPU seconds of each query, in Spark as an enclave runs it.

Two sessions with the same settings, but that one reads plain files without the crypto factory. The plain files are
copies of the sealed ones, row group by row group. Keys come over the guest's socket, as in every job. Passes over all
queries are interleaved in pairs, whose order alternates; the first ones are not counted. Writes results/tpch.json.

    python benchmarks/tpch.py [--scale-factor 1] [--pairs 6] [--warm-ups 2] [--cores 2] [--memory 6144]
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Self

import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

from ppml_airflow.cli.home import Home
from ppml_airflow.domain.documents import Limits
from ppml_airflow.enclaves.installation import load_installation
from ppml_airflow.sealing.columns import columns_of
from ppml_airflow.sealing.sources import open_source
from ppml_airflow.sealing.tables import file_key, parquet_aad, write_sealed_parquet
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import FileKey, JobKeys, TableInput, TableOutput, WorkloadJob
from ppml_airflow.workloads.spark.python import SparkPython

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "tpch.json"
DOMAIN_ID = "sha256:" + "0" * 64
TARGET = 1.03
Pass = dict[str, tuple[float, float]]
"""Of each query: CPU and wall seconds."""

# ---------------------------------------------------------------- the tables


def make_tables(folder: Path, *, scale_factor: str, data_key: bytes) -> tuple[list[TableInput], list[TableInput]]:
    """The eight tables, sealed, and as plain copies with the same row groups."""
    tpchgen = shutil.which("tpchgen-cli", path=str(Path(sys.executable).parent))
    if tpchgen is None:
        sys.exit("tpchgen-cli is not installed: pip install 'ppml-airflow[demo]'")
    arguments = ["parquet", "--quiet", "--scale-factor", scale_factor, "--output-dir", str(folder / "made")]
    subprocess.run([tpchgen, *arguments], check=True)
    sealed: list[TableInput] = []
    plain: list[TableInput] = []
    for made in sorted((folder / "made").glob("*.parquet")):
        source, paths = open_source(made), [folder / kind / made.stem / "part-00000" for kind in ("sealed", "plain")]
        for path in paths:
            path.parent.mkdir(parents=True)
        write_sealed_parquet(source.batches(), paths[0], schema=source.schema, data_key=data_key, aad=aad_of(paths[0]))
        copy_plain(*paths, data_key=data_key)
        size = paths[0].stat().st_size
        for tables, path in zip((sealed, plain), paths, strict=True):
            tables.append(
                TableInput(view=made.stem, columns=columns_of(source.schema), parts=(path,), sealed_bytes=size)
            )
    return sealed, plain


def aad_of(part: Path) -> bytes:
    return parquet_aad(domain_id=DOMAIN_ID, dataset=part.parent.name, version=1, path=part.name)


def copy_plain(sealed: Path, plain: Path, *, data_key: bytes) -> None:
    """Copy a sealed part as plain Parquet, row group by row group."""
    aad = aad_of(sealed)
    properties = pe.create_decryption_properties(file_key(data_key, aad=aad), aad_prefix=aad)
    with (
        pq.ParquetFile(sealed, decryption_properties=properties) as source,
        pq.ParquetWriter(plain, source.schema_arrow) as target,
    ):
        for index in range(source.num_row_groups):
            target.write_table(source.read_row_group(index))


# ---------------------------------------------------------------- the sessions


def installation() -> ImageInstallation:
    """The image that is set up under PPML_HOME."""
    image = Home.default().image("spark")
    java_home = load_installation(image).java_home
    return ImageInstallation.of_image(image, java_home=Path(java_home) if java_home else None)


class Session:
    """A Spark session that runs a pass when it is asked; a job of the workload that enclaves run."""

    def __init__(
        self, folder: Path, *, tables: list[TableInput], limits: Limits, keys: JobKeys, is_plain: bool
    ) -> None:
        private, code = folder / "private", folder / "private" / "code"
        code.mkdir(parents=True)
        for file in (HERE / "tpch" / "session.py", *(HERE.parent / "dags" / "tpch").glob("q*.sql")):
            shutil.copy(file, code)
        job = WorkloadJob(
            code=code,
            argv=("session.py",),
            params={},
            environment={},
            inputs=tuple(tables),
            outputs=(TableOutput(dataset="nothing", files=1),),
            limits=limits,
        )
        self._workload = SparkPython(job, installation=installation(), private=private, log=folder / "log")
        self._keys, self._log = keys, folder / "log"
        self._workload.prepare()
        if is_plain:
            read_plain_files(private / "conf" / "spark-defaults.conf")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(private / "bench.sock"))
        self._listener.listen(1)

    def __enter__(self) -> Self:
        run = {"keys": self._keys, "on_progress": lambda percent: None}
        threading.Thread(target=self._workload.run, kwargs=run, daemon=True).start()
        self._listener.settimeout(120)
        self._channel, _ = self._listener.accept()
        self._answers = self._channel.makefile("r")
        return self

    def __exit__(self, *_: object) -> None:
        self._workload.close()
        self._channel.close()
        self._listener.close()

    def run_pass(self) -> Pass:
        """Run all queries once."""
        self._channel.sendall(b"go\n")
        line = self._answers.readline()
        if not line:
            sys.exit(f"spark ended: {self._log.read_text()[-2000:]}")
        return {query: (cpu, wall) for query, (cpu, wall) in json.loads(line).items()}


def read_plain_files(settings: Path) -> None:
    """Leave the crypto factory out of a session's settings, and nothing else."""
    lines = settings.read_text().splitlines(keepends=True)
    settings.write_text("".join(line for line in lines if "parquet.crypto.factory.class" not in line))


# ---------------------------------------------------------------- report


def report(pairs: list[tuple[Pass, Pass]]) -> None:
    """Print a table and write the results."""
    print(f"{'query':6} {'plain CPU s':>12} {'sealed CPU s':>13} {'ratio':>6} {'min':>6} {'max':>6}")
    medians = []
    for query in pairs[0][0]:
        ratios = [sealed[query][0] / plain[query][0] for plain, sealed in pairs]
        medians.append(statistics.median(ratios))
        plain_s = statistics.median(plain[query][0] for plain, _ in pairs)
        sealed_s = statistics.median(sealed[query][0] for _, sealed in pairs)
        print(f"{query:6} {plain_s:12.2f} {sealed_s:13.2f} {medians[-1]:6.2f} {min(ratios):6.2f} {max(ratios):6.2f}")
    totals = [total(sealed, 0) / total(plain, 0) for plain, sealed in pairs]
    walls = [total(sealed, 1) / total(plain, 1) for plain, sealed in pairs]
    figures = {
        "median of the queries' median CPU ratios, sealed to plain": (medians, TARGET),
        "CPU of a whole pass, sealed to plain": (totals, None),
        "wall time of a whole pass, sealed to plain": (walls, None),
    }
    results = []
    print()
    for figure, (values, target) in figures.items():
        value = round(statistics.median(values), 3)
        met = None if target is None else value <= target
        results.append({"figure": figure, "value": value, "unit": "ratio", "target": target, "met": met})
        told = "" if target is None else f" {target:6.3f}{'' if met else '  not met'}"
        print(f"{figure:58} {value:6.3f} {min(values):6.3f} {max(values):6.3f}{told}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def total(one: Pass, index: int) -> float:
    return sum(took[index] for took in one.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale-factor", default="1")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--warm-ups", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--memory", type=int, default=6144, metavar="MIB")
    options = parser.parse_args()
    limits = Limits(wall_s=24 * 3600, memory_mib=options.memory, cores=options.cores)
    data_key = secrets.token_bytes(32)
    with tempfile.TemporaryDirectory(prefix="tpch-") as name:
        folder = Path(name)
        sealed, plain = make_tables(folder, scale_factor=options.scale_factor, data_key=data_key)
        keys = JobKeys(
            read={part: FileKey(data_key=data_key, aad=aad_of(part)) for table in sealed for part in table.parts},
            write=lambda dataset, path: FileKey(data_key=data_key, aad=f"{dataset}/{path}".encode()),
        )
        none = JobKeys(read={}, write=keys.write)
        with (
            Session(folder / "p", tables=plain, limits=limits, keys=none, is_plain=True) as plain_session,
            Session(folder / "s", tables=sealed, limits=limits, keys=keys, is_plain=False) as sealed_session,
        ):
            pairs: list[tuple[Pass, Pass]] = []
            try:
                for number in range(options.warm_ups + options.pairs):
                    order = (plain_session, sealed_session) if number % 2 else (sealed_session, plain_session)
                    took = {id(session): session.run_pass() for session in order}
                    pairs.append((took[id(plain_session)], took[id(sealed_session)]))
                    told = ", ".join(f"{total(one, 0):.1f} s" for one in pairs[-1])
                    kind = "warm-up" if number < options.warm_ups else "pair"
                    print(f"{kind}: plain, sealed CPU {told}; load {os.getloadavg()[0]:.1f}", flush=True)
            except KeyboardInterrupt:
                print(f"interrupted after {len(pairs)} of {options.warm_ups + options.pairs} pairs")
        counted = pairs[options.warm_ups :]
        if not counted:
            sys.exit("nothing was measured after the warm-ups")
        report(counted)


if __name__ == "__main__":
    main()
