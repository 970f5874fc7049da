"""Train a neural network with PyTorch on Spark: two processes, which agree on every step's gradient over gloo.

The label is one column, every other column is a feature. The model leaves as safetensors, as ONNX, and with a JSON
that says what it was learned from; never as a pickle, which would run code where it is loaded. Held out is each row
whose place in the sealed table says so; the same seed holds out the same rows everywhere.
"""

from __future__ import annotations

import argparse
import json
import zlib
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from pyspark.ml.torch.distributor import TorchDistributor
from safetensors.numpy import save

from ppml_airflow.workloads.spark.api import disclose, inputs, save_file, session

INPUTS = {"digits": {"digit": "whole number", "*": "number"}}
OUTPUTS = {"model": "files"}
LABEL = "digit"
PROCESSES = 2
BATCH = 64
LEARNING_RATE = 0.005


def train(
    features: np.ndarray, labels: np.ndarray, *, classes: int, hidden: int, epochs: int, seed: int
) -> dict[str, np.ndarray]:
    """Run in each process: learn from every PROCESSES-th row; the weights are the same in all."""
    import torch
    from torch import distributed, nn

    distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(features.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, classes))
    learner = nn.parallel.DistributedDataParallel(network)
    optimiser = torch.optim.Adam(learner.parameters(), lr=LEARNING_RATE)
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    rows_each = len(y) // PROCESSES
    shuffled = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        mine = torch.randperm(len(y), generator=shuffled)[distributed.get_rank() :: PROCESSES][:rows_each]
        for batch in mine.split(BATCH):
            optimiser.zero_grad()
            nn.functional.cross_entropy(learner(x[batch]), y[batch]).backward()
            optimiser.step()
    distributed.destroy_process_group()
    return {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}


def scores(weights: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """What the network says, float32 [rows, classes]."""
    hidden = np.maximum(features @ weights["0.weight"].T + weights["0.bias"], 0)
    return hidden @ weights["2.weight"].T + weights["2.bias"]


def onnx_model(weights: dict[str, np.ndarray], *, mean: np.ndarray, deviation: np.ndarray) -> bytes:
    """The model as ONNX: `features`, float32 [rows, columns] as they stand in the table, to `label` and `scores`."""
    nodes = [
        helper.make_node("Sub", ["features", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "deviation"], ["scaled"]),
        helper.make_node("Gemm", ["scaled", "0.weight", "0.bias"], ["sums"], transB=1),
        helper.make_node("Relu", ["sums"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "2.weight", "2.bias"], ["scores"], transB=1),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ]
    constants = {**weights, "mean": mean, "deviation": deviation}
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", len(mean)])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", len(weights["2.bias"])]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def main() -> None:
    """Train on most rows, measure on the others, save the model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--hidden", type=int, required=True)
    parser.add_argument("--held-out", type=int, required=True, help="rows kept for the measure, in per cent")
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()

    session()
    table = inputs["digits"].toPandas()
    labels = table.pop(LABEL).to_numpy(np.int64)
    features = table.to_numpy(np.float32)
    places = range(len(labels))
    held_out = np.array([zlib.crc32(f"{arguments.seed}:{n}".encode()) % 100 < arguments.held_out for n in places])
    mean, deviation = features[~held_out].mean(axis=0), features[~held_out].std(axis=0)
    deviation[deviation == 0] = 1
    features = (features - mean) / deviation

    distributor = TorchDistributor(num_processes=PROCESSES, local_mode=False, use_gpu=False)
    weights: dict[str, Any] = distributor.run(
        train,
        features[~held_out],
        labels[~held_out],
        classes=int(labels.max()) + 1,
        hidden=arguments.hidden,
        epochs=arguments.epochs,
        seed=arguments.seed,
    )
    found = scores(weights, features[held_out]).argmax(axis=1)
    accuracy = float((found == labels[held_out]).mean())
    described = {"kind": "neural network", "features": list(table), "label": LABEL, "accuracy": accuracy}
    save_file("model", "model.safetensors", save({**weights, "mean": mean, "deviation": deviation}))
    save_file("model", "model.onnx", onnx_model(weights, mean=mean, deviation=deviation))
    save_file("model", "model.json", json.dumps(described | vars(arguments), indent=1).encode())
    disclose("accuracy_percent", round(100 * accuracy))


if __name__ == "__main__":
    main()
