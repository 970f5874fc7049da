"""What dags/spark_pi/pi.py must answer, computed without Spark and without its code.

NumPy's Mersenne Twister, seeded by the same words, draws the same numbers as Python's.
"""

from __future__ import annotations

import numpy as np

PARTITIONS = 16


def estimate_of_pi(*, samples: int, seed: int) -> float:
    """The estimate for these params."""
    return 4 * sum(hits(partition, samples=samples, seed=seed) for partition in range(PARTITIONS)) / samples


def hits(partition: int, *, samples: int, seed: int) -> int:
    """How many of a partition's darts hit the quarter circle."""
    share = samples // PARTITIONS + (partition < samples % PARTITIONS)
    darts = np.random.RandomState([seed * PARTITIONS + partition]).random_sample((share, 2))
    return int(((darts**2).sum(axis=1) < 1).sum())
