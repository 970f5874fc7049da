"""Work, then count visits: by a bare spark-submit, over plain files."""

from __future__ import annotations

import sys

from pyspark.sql import SparkSession
from spin import spin

spin(int(sys.argv[1]))
visits = SparkSession.builder.getOrCreate().read.option("header", True).csv(sys.argv[2])
counted = visits.selectExpr("CAST(disea AS double) AS disea").groupBy("disea").count().toDF("disea", "visits")
counted.coalesce(1).write.mode("overwrite").parquet(sys.argv[3])
