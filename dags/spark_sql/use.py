"""Who sees a doctor how often: by plan, in SQL over the view, and by health, through a function of another file."""

from __future__ import annotations

import sys

from health import state_of_health

from ppml_airflow.workloads.spark.api import disclose, inputs, session, write

INPUTS = {"person_years": {"plan": "string", "visits": "whole number", "*": "number"}}
OUTPUTS = {
    "use_by_plan": {"plan": "string", "person_years": "bigint", "mean": "double", "median": "double"},
    "use_by_health": {"health": "string", "person_years": "bigint", "mean": "double"},
}
BY_PLAN = """
SELECT plan, count(*) AS person_years, avg(visits) AS mean, percentile(visits, 0.5) AS median
FROM person_years
GROUP BY plan
HAVING count(*) >= {smallest}
ORDER BY plan
"""
BY_HEALTH = """
SELECT health, count(*) AS person_years, avg(visits) AS mean
FROM with_health
GROUP BY health
HAVING count(*) >= {smallest}
ORDER BY health
"""


def main() -> None:
    """Leave out groups of fewer person-years than the argument says."""
    smallest, spark, years = int(sys.argv[1]), session(), inputs["person_years"]
    years.withColumn("health", state_of_health(years)).createOrReplaceTempView("with_health")
    write("use_by_plan", spark.sql(BY_PLAN, smallest=smallest))
    write("use_by_health", spark.sql(BY_HEALTH, smallest=smallest))
    disclose("person_years", years.count())


if __name__ == "__main__":
    main()
