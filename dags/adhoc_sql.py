"""A question of your own, from the trigger form: any query over visits and plans, for those who may open both."""

import pendulum
from airflow.sdk import DAG, Param

from ppml_airflow.operators import (
    AttestationSensor,
    DecryptOperator,
    EncryptOperator,
    PassportOperator,
    TrustedSparkSubmitOperator,
)

TABLES = ["visits", "plans"]
QUESTION = """\
SELECT plans.plan, count(*) AS person_years, round(avg(visits.mdvis), 2) AS visits_a_year
FROM visits
JOIN plans ON visits.idp = plans.individual_deductible AND round(exp(visits.lncoins)) - 1 = plans.coinsurance
GROUP BY plans.plan
ORDER BY plans.plan
"""

with DAG(
    "adhoc_sql",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    catchup=False,
    max_active_runs=1,
    params={
        "statement": Param(
            QUESTION,
            type="string",
            format="multiline",
            minLength=1,
            maxLength=4000,
            title="SQL statement",
            description_md="One query over the tables **visits** and **plans**.\n\n"
            "**Everybody who sees this Airflow can read the statement.** Put no secret into it. The answer is sealed: "
            "only recipients whose certificates name both tables may open it, and the owner bounds how many questions "
            "a day may have.",
        )
    },
):
    ask = TrustedSparkSubmitOperator(
        task_id="ask", sql_param="statement", inputs=TABLES, outputs={"answer": ["analyst"]}
    )
    (
        [EncryptOperator(dataset=table) for table in TABLES]
        >> AttestationSensor(before=ask)
        >> ask
        >> AttestationSensor(after=ask)
        >> DecryptOperator(dataset="answer")
        >> PassportOperator()
    )
