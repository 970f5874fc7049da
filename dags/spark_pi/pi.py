"""Estimate pi: the share of darts at a square that hit its quarter circle.

The same samples and seed give the same estimate on any number of cores: each partition has a generator of its own.
"""

from __future__ import annotations

import argparse
from random import Random

from ppml_airflow.workloads.spark.api import session, write

OUTPUTS = {"pi": {"estimate": "double", "samples": "bigint"}}
PARTITIONS = 16


def hits(partition: int, *, samples: int, seed: int) -> int:
    """How many of a partition's darts hit the quarter circle."""
    darts = Random(seed * PARTITIONS + partition)  # noqa: S311 - a simulation, no secret
    share = samples // PARTITIONS + (partition < samples % PARTITIONS)
    return sum(darts.random() ** 2 + darts.random() ** 2 < 1 for _ in range(share))


def main() -> None:
    """Throw `--samples` darts and write one row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    samples, seed, spark = arguments.samples, arguments.seed, session()
    partitions = spark.sparkContext.parallelize(range(PARTITIONS), PARTITIONS)
    inside = partitions.map(lambda partition: hits(partition, samples=samples, seed=seed)).sum()
    write("pi", spark.createDataFrame([(4 * inside / samples, samples)], "estimate double, samples bigint"))


if __name__ == "__main__":
    main()
