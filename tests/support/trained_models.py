"""Judge a trained model outside: load it by others' libraries, measure it again, train a reference in plain.

Runs in the environment of the image `training`, which has those libraries:

    python trained_models.py KIND MODEL_FOLDER TABLE.csv

Prints JSON: `accuracy` of the model on the rows that its training held out, `reference`: that of a model of the same
kind, trained on the other rows by a library that knows nothing of Spark; and how many rows were held out.
"""

from __future__ import annotations

import csv
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def predict_onnx(folder: Path, features: Array) -> Array:
    """By the ONNX project's own reference."""
    from onnx.reference import ReferenceEvaluator

    label: Array = ReferenceEvaluator(str(folder / "model.onnx")).run(["label"], {"features": features})[0]
    return label


def predict_mllib(folder: Path, features: Array, described: dict[str, Any]) -> Array:
    """ONNX and the coefficients, which must agree."""
    margin = features @ np.array(described["coefficients"]) + described["intercept"]
    found = predict_onnx(folder, features)
    assert (found == (margin > 0)).mean() > 0.99
    return found


def predict_torch(folder: Path, features: Array, described: dict[str, Any]) -> Array:
    """ONNX and the weights, which must agree."""
    from safetensors.numpy import load_file

    del described
    w = load_file(str(folder / "model.safetensors"))
    hidden = np.maximum((features - w["mean"]) / w["deviation"] @ w["0.weight"].T + w["0.bias"], 0)
    found = predict_onnx(folder, features)
    assert (found == (hidden @ w["2.weight"].T + w["2.bias"]).argmax(axis=1)).all()
    return found


def predict_xgboost(folder: Path, features: Array, described: dict[str, Any]) -> Array:
    """XGBoost itself, without Spark."""
    import xgboost

    booster = xgboost.Booster(model_file=str(folder / "model.ubj"))
    found: Array = booster.predict(xgboost.DMatrix(features, feature_names=described["features"])) > 0.5
    return found


def predict_bigdl(folder: Path, features: Array, described: dict[str, Any]) -> Array:
    """The network's layers in NumPy."""
    from safetensors.numpy import load_file

    w = load_file(str(folder / "model.safetensors"))
    kernel = w["weights.0"].reshape(-1, 3, 3)
    side = int(np.sqrt(features.shape[1]))
    pictures = (features / described["scale"]).reshape(-1, side, side)
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (3, 3), axis=(1, 2))
    found = np.maximum(np.einsum("nijab,fab->nfij", windows, kernel) + w["weights.1"][None, :, None, None], 0)
    half = found.shape[2] // 2
    found = found[:, :, : 2 * half, : 2 * half].reshape(*found.shape[:2], half, 2, half, 2).max(axis=(3, 5))
    found = np.maximum(found.reshape(len(found), -1) @ w["weights.2"].T + w["weights.3"], 0)
    scores: Array = found @ w["weights.4"].T + w["weights.5"]
    return scores.argmax(axis=1)


def reference(kind: str, described: dict[str, Any]) -> Any:
    """A learner of the same kind, in plain."""
    if kind == "xgboost":
        import xgboost

        return xgboost.XGBClassifier(
            n_estimators=described["trees"], max_depth=described["depth"], tree_method="hist", n_jobs=1
        )
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    learner = LogisticRegression(max_iter=1000) if kind == "mllib" else MLPClassifier((32,), max_iter=300)
    return make_pipeline(StandardScaler(), learner)


PREDICT = {
    "mllib": predict_mllib,
    "xgboost": predict_xgboost,
    "torch": predict_torch,
    "bigdl": predict_bigdl,
}


def main(kind: str, model: str, table: str) -> None:
    """Judge one model."""
    described = json.loads((Path(model) / "model.json").read_text())
    with Path(table).open() as file:
        rows = list(csv.DictReader(file))
    features = np.array([[float(row[name]) for name in described["features"]] for row in rows], np.float32)
    column, _, above = described["label"].partition(" > ")
    labels = np.array([int(float(row[column])) for row in rows])
    if above:
        labels = (labels > int(above)).astype(int)
    places = range(len(rows))
    kept = np.array([zlib.crc32(f"{described['seed']}:{n}".encode()) % 100 < described["held_out"] for n in places])
    predicted = PREDICT[kind](Path(model), features[kept], described)
    learner = reference(kind, described).fit(features[~kept], labels[~kept])
    print(  # noqa: T201 - this is a program
        json.dumps(
            {
                "accuracy": float((predicted == labels[kept]).mean()),
                "reference": float(learner.score(features[kept], labels[kept])),
                "rows": int(kept.sum()),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
