"""Train a logistic regression with Spark MLlib: the label is one column, every other column is a feature.

The model leaves as ONNX, from which ONNX Runtime serves it, and as JSON: coefficients and what they were learned from.
Held out is each row whose place in the sealed table says so; the same seed holds out the same rows everywhere.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from pyspark.ml.classification import LogisticRegression, LogisticRegressionModel
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import functions as F  # noqa: N812 - as Spark's own pages call it

from ppml_airflow.workloads.spark.api import disclose, inputs, save_file

INPUTS = {"tumours": {"malignant": "whole number", "*": "number"}}
OUTPUTS = {"model": "files"}
LABEL = "malignant"


def onnx_model(model: LogisticRegressionModel, *, features: list[str]) -> bytes:
    """The model as ONNX: `features`, float32 [rows, columns], to `label`, int64 [rows], and `probability`."""
    weights = model.coefficients.toArray().reshape(-1, 1).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["features", "weights", "intercept"], ["margin"]),
        helper.make_node("Sigmoid", ["margin"], ["column"]),
        helper.make_node("Squeeze", ["column", "last_axis"], ["probability"]),
        helper.make_node("Greater", ["probability", "half"], ["is_positive"]),
        helper.make_node("Cast", ["is_positive"], ["label"], to=TensorProto.INT64),
    ]
    constants = {
        "weights": weights,
        "intercept": np.array([model.intercept], np.float32),
        "last_axis": np.array([1], np.int64),
        "half": np.array(0.5, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "logistic_regression",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", len(features)])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["rows"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def main() -> None:
    """Train on most rows, measure on the others, save the model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--iterations", type=int, required=True)
    parser.add_argument("--held-out", type=int, required=True, help="rows kept for the measure, in per cent")
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()

    table = inputs["tumours"]
    features = [name for name in table.columns if name != LABEL]
    place = F.concat_ws(":", F.lit(str(arguments.seed)), F.monotonically_increasing_id())
    rows = VectorAssembler(inputCols=features, outputCol="features").transform(table)
    rows = rows.withColumn("is_held_out", F.crc32(place) % 100 < arguments.held_out).cache()
    learner = LogisticRegression(labelCol=LABEL, family="binomial", maxIter=arguments.iterations, regParam=0.01)
    model = learner.fit(rows.where("NOT is_held_out"))

    judged = model.transform(rows.where("is_held_out"))
    accuracy = judged.select(F.avg((F.col("prediction") == F.col(LABEL)).cast("double"))).first()[0]
    described = {
        "kind": "logistic regression",
        "features": features,
        "label": LABEL,
        "coefficients": model.coefficients.toArray().tolist(),
        "intercept": model.intercept,
        "accuracy": accuracy,
        **vars(arguments),
    }
    save_file("model", "model.onnx", onnx_model(model, features=features))
    save_file("model", "model.json", json.dumps(described, indent=1).encode())
    disclose("accuracy_percent", round(100 * accuracy))


if __name__ == "__main__":
    main()
