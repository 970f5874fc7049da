"""How people rated their own health: three columns of zeros and ones, in one word."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def state_of_health(years: DataFrame) -> Column:
    """`poor`, `fair`, `good`, or `excellent` where nothing else was said."""
    from pyspark.sql.functions import when

    said = when(years.is_poor == 1, "poor").when(years.is_fair == 1, "fair").when(years.is_good == 1, "good")
    return said.otherwise("excellent")
