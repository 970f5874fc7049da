"""What a guest costs on top of a bare spark-submit of the same program, and what measuring its image costs.

Interleaved rounds of one small Python job: in a guest (image measured with a warm cache, evidence, lease, sealed input
and output, receipt; with the broker's part) and by the spark-submit of the same environment over the same rows as plain
Parquet, with the same options of the Java machine. CPU of all processes, user and system. Then the image is measured
with a cold cache. Prints medians with minimum and maximum; writes `benchmarks/results/guest_start.json`.

    python benchmarks/guest_start.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tests' harness of real guests

from ppml_airflow.enclaves.measurement import FileDigestCache, measure
from tests.support.spark_guests import SparkGuests

RESULTS = Path(__file__).parent / "results" / "guest_start.json"
TARGET_S, TARGET_S_PER_GB = 1.5, 1.2
PLAIN = """
import sys
from pyspark.sql import SparkSession

session = SparkSession.builder.getOrCreate()
counted = session.read.parquet(sys.argv[1]).groupBy("name").count().toDF("name", "visits")
counted.coalesce(1).write.parquet(sys.argv[2])
"""
JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:-UsePerfData"


class Guests:
    """Jobs in guests."""

    def __init__(self, spark: SparkGuests) -> None:
        self._spark = spark
        self._service = psutil.Process(spark.service.pid)

    def run(self, number: int) -> float:
        """CPU seconds of one job: the service, the guest and all its processes, and the broker here."""
        run_id = self._spark.guests.ready_run(f"bench-{number}")
        request = self._spark.request(run_id, step="python")
        before = self._cpu()
        self._spark.runtime.run(request, on_event=lambda event: None)
        return self._cpu() - before

    def _cpu(self) -> float:
        times = self._service.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system) + time.process_time()


def spark_submit(environment: Path, *, home: Path) -> tuple[list[str], dict[str, str]]:
    """A bare spark-submit of an image's environment: the command before its program, and its variables."""
    spark, python = next(environment.glob("lib/python3.*/site-packages/pyspark")), environment / "bin" / "python"
    variables = {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "SPARK_HOME": str(spark),
        "PYSPARK_PYTHON": str(python),
        "PYSPARK_DRIVER_PYTHON": str(python),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_HOSTNAME": "localhost",
        "HOME": str(home),
        "PYTHONPYCACHEPREFIX": str(home / "bytecode"),  # beside the image, which must stay as it was measured
    } | ({"JAVA_HOME": os.environ["JAVA_HOME"]} if "JAVA_HOME" in os.environ else {})
    return [str(spark / "bin" / "spark-submit"), "--master", "local[2]", "--driver-java-options", JAVA], variables


class BareSpark:
    """The same program by spark-submit, over plain Parquet."""

    def __init__(self, environment: Path, *, folder: Path) -> None:
        self._folder = folder
        self._submit, self._variables = spark_submit(environment, home=folder)
        (folder / "plain.py").write_text(PLAIN)
        pq.write_table(pa.table({"id": [0, 1, 2], "name": ["Smith"] * 3}), folder / "visits.parquet")

    def run(self, number: int) -> float:
        """CPU seconds of one job."""
        target = self._folder / f"out-{number}"
        command = [*self._submit, str(self._folder / "plain.py"), str(self._folder / "visits.parquet"), str(target)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=self._variables, cwd=self._folder, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_cold(image: Path) -> tuple[float, float]:
    """CPU seconds to measure an image with nothing known, and its size in GB."""
    before = time.process_time()
    size = measure(image, cache=FileDigestCache()).size
    return time.process_time() - before, size / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, SparkGuests(Path(name)) as spark:
        guests = Guests(spark)
        (Path(name) / "bare").mkdir()
        bare_spark = BareSpark(spark.image / "env", folder=Path(name) / "bare")
        guests.run(0), bare_spark.run(0)  # warms the file cache and the cache of digests
        pairs = [(guests.run(number), bare_spark.run(number)) for number in range(1, options.rounds + 1)]
        cold = [measure_cold(spark.image) for _ in range(options.rounds)]
    figures = (
        ("a job in a guest, CPU", [guest for guest, _ in pairs], "s", None),
        ("bare spark-submit of it, CPU", [bare for _, bare in pairs], "s", None),
        ("guest on top of bare spark-submit, CPU", [guest - bare for guest, bare in pairs], "s", TARGET_S),
        ("measuring the image, cold, CPU", [cpu / size for cpu, size in cold], "s/GB", TARGET_S_PER_GB),
    )
    print(f"guest on top of a bare spark-submit, image of {cold[0][1]:.2f} GB, {options.rounds} rounds")
    rows = []
    for figure, values, unit, target in figures:
        value = statistics.median(values)
        met = None if target is None else value <= target
        rows.append({"figure": figure, "value": round(value, 3), "unit": unit, "target": target, "met": met})
        print(f"  {figure:<42} {value:6.2f} {unit}  ({min(values):.2f} to {max(values):.2f})")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
