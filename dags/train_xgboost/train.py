"""Train gradient-boosted trees with XGBoost on Spark, two workers: who sees a doctor at all in a year?

The model leaves in XGBoost's own format (UBJSON), which every XGBoost loads. Held out is each row whose place in the
sealed table says so; the same seed holds out the same rows everywhere.
"""

from __future__ import annotations

import argparse
import json

from pyspark.sql import functions as F  # noqa: N812 - as Spark's own pages call it
from xgboost.spark import SparkXGBClassifier

from ppml_airflow.workloads.spark.api import disclose, inputs, save_file

INPUTS = {"visits": {"mdvis": "number", "*": "number"}}
OUTPUTS = {"model": "files"}
VISITS = "mdvis"
WORKERS = 2


def main() -> None:
    """Train on most rows, measure on the others, save the model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trees", type=int, required=True)
    parser.add_argument("--depth", type=int, required=True)
    parser.add_argument("--held-out", type=int, required=True, help="rows kept for the measure, in per cent")
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()

    table = inputs["visits"]
    features = [name for name in table.columns if name != VISITS]
    place = F.concat_ws(":", F.lit(str(arguments.seed)), F.monotonically_increasing_id())
    rows = table.withColumn("is_held_out", F.crc32(place) % 100 < arguments.held_out)
    rows = rows.withColumn("label", (F.col(VISITS) > 0).cast("int")).cache()
    learner = SparkXGBClassifier(
        features_col=features,
        label_col="label",
        num_workers=WORKERS,
        n_estimators=arguments.trees,
        max_depth=arguments.depth,
        tree_method="hist",
        random_state=arguments.seed,
    )
    model = learner.fit(rows.where("NOT is_held_out"))

    judged = model.transform(rows.where("is_held_out"))
    accuracy = judged.select(F.avg((F.col("prediction") == F.col("label")).cast("double"))).first()[0]
    described = {"kind": "gradient-boosted trees", "features": features, "label": f"{VISITS} > 0", "accuracy": accuracy}
    save_file("model", "model.ubj", bytes(model.get_booster().save_raw("ubj")))
    save_file("model", "model.json", json.dumps(described | vars(arguments), indent=1).encode())
    disclose("accuracy_percent", round(100 * accuracy))


if __name__ == "__main__":
    main()
