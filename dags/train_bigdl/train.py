"""Train a convolutional network with BigDL on Spark 3.4, inside the image `bigdl`, whose engine is Python 3.9.

The label is one column; the others are the pixels of a square picture, row by row. The program starts the engine's own
Spark, on the loopback interface, its files in the private directory. The weights leave as safetensors, with a JSON that
says what they are; held out is each row whose place in the sealed table says so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from ppml_airflow.workloads.job_api import disclose, save_file, table

INPUTS = {"digits": {"digit": "whole number", "*": "number"}}
OUTPUTS = {"model": "files"}
LABEL = "digit"
CORES = 2
BATCH = 64
JARS = ("bigdl/share/dllib/lib/bigdl-dllib-*-jar-with-dependencies.jar", "bigdl/share/core/lib/all-*.jar")
SETTINGS = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "1g",
    "spark.ui.enabled": "false",
    "spark.eventLog.enabled": "false",
    # What BigDL wants.
    "spark.shuffle.reduceLocality.enabled": "false",
    "spark.shuffle.blockTransferService": "nio",
    "spark.scheduler.minRegisteredResourcesRatio": "1.0",
    "spark.speculation": "false",
    "spark.serializer": "org.apache.spark.serializer.JavaSerializer",
}


def start_spark() -> None:
    """Start Spark in this process's private directory, and BigDL on it."""
    packages = next(Path(entry) for entry in sys.path if entry.endswith("site-packages"))
    jars = os.pathsep.join(str(next(packages.glob(pattern))) for pattern in JARS)
    scratch = str(Path.cwd() / "tmp")
    os.environ.update(
        PYSPARK_PYTHON=sys.executable,
        SPARK_LOCAL_IP="127.0.0.1",
        SPARK_LOCAL_HOSTNAME="localhost",
        SPARK_CONF_DIR=scratch,
    )
    from bigdl.dllib.nncontext import init_nncontext
    from pyspark import SparkConf

    settings = {
        **SETTINGS,
        "spark.master": f"local[{CORES}]",
        "spark.driver.extraClassPath": jars,
        "spark.executor.extraClassPath": jars,
        "spark.local.dir": scratch,
        "spark.driver.extraJavaOptions": f"-Djava.io.tmpdir={scratch} -XX:-UsePerfData -XX:+DisableAttachMechanism",
    }
    init_nncontext(SparkConf().setAll(list(settings.items())), redirect_spark_log=False)


def build(*, side: int, filters: int, classes: int) -> Any:
    """A small convolutional network over pictures of `side` by `side` pixels."""
    from bigdl.dllib.keras.layers import Activation, Convolution2D, Dense, Flatten, MaxPooling2D
    from bigdl.dllib.keras.models import Sequential
    from bigdl.dllib.keras.optimizers import Adam

    network = Sequential()
    network.add(Convolution2D(filters, 3, 3, activation="relu", input_shape=(1, side, side)))
    network.add(MaxPooling2D())
    network.add(Flatten())
    network.add(Dense(64, activation="relu"))
    network.add(Dense(classes))
    network.add(Activation("softmax"))
    network.compile(optimizer=Adam(lr=0.005), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


def main() -> None:
    """Train on most rows, measure on the others, save the weights."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--filters", type=int, required=True)
    parser.add_argument("--held-out", type=int, required=True, help="rows kept for the measure, in per cent")
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()

    columns = table("digits").to_pandas()
    labels = columns.pop(LABEL).to_numpy(np.float32)
    side = math.isqrt(columns.shape[1])
    if side * side != columns.shape[1]:
        raise SystemExit(f"{columns.shape[1]} columns are not the pixels of a square picture")
    features = columns.to_numpy(np.float32)
    scale = float(features.max()) or 1.0
    pictures = (features / scale).reshape(-1, 1, side, side)
    places = range(len(labels))
    held_out = np.array([zlib.crc32(f"{arguments.seed}:{n}".encode()) % 100 < arguments.held_out for n in places])

    start_spark()
    network = build(side=side, filters=arguments.filters, classes=int(labels.max()) + 1)
    network.fit(pictures[~held_out], labels[~held_out], batch_size=BATCH, nb_epoch=arguments.epochs, distributed=True)
    scores = np.array(network.predict(pictures[held_out]).collect())
    accuracy = float((scores.argmax(axis=1) == labels[held_out]).mean())

    weights = {f"weights.{n}": np.ascontiguousarray(array) for n, array in enumerate(network.get_weights())}
    described = {
        "kind": "convolution 3x3, relu, max pooling 2x2, dense 64, relu, dense, softmax",
        "features": list(columns),
        "label": LABEL,
        "scale": scale,
        "accuracy": accuracy,
        **vars(arguments),
    }
    save_file("model", "model.safetensors", save(weights))
    save_file("model", "model.json", json.dumps(described, indent=1).encode())
    disclose("accuracy_percent", round(100 * accuracy))


if __name__ == "__main__":
    main()
