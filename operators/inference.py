"""A proprietary model over somebody else's data, in an enclave: neither owner sees what is the other's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ppml_airflow import canonical
from ppml_airflow.errors import ConfigurationError, MalformedInputError
from ppml_airflow.operators.enclaves import EnclaveOperator
from ppml_airflow.workloads.inference.plan import PLAN_FILE, InferencePlan


class EnclaveInferenceOperator(EnclaveOperator):
    """Run a sealed ONNX model over a sealed table. What it binds is approved; the approval holds no code.

    With `members=3` three enclaves answer a share of the rows each.

    Args:
        model: dataset of the model, a folder of files.
        data: dataset of the data, a table.
        features: tensor -> columns that feed it: several numbers, one after the other; or one column that holds a whole
            row of the tensor, as a list or as bytes.
        results: column of the output -> (tensor, kind). Kinds: `argmax`, `max` and `label` of a row; `array<float>` and
            its like for a whole row; `float`, `bigint` and their like for the only value of a row.
        keep: columns of the data that the output has, too, before the results.
        at_least: result -> param of the DAG: rows below it are left out.
        model_file: the model's file in its folder.
        labels_file: a text file in the same folder, for `label`: a line per position.
        batch_rows: rows that the model gets at a time, unless it has a fixed number.
        image: the trusted image.
        kwargs: as for `EnclaveOperator`; `outputs` names one table, `cores` are the threads of the model.
    """

    def __init__(
        self,
        *,
        model: str,
        data: str,
        features: Mapping[str, Sequence[str]],
        results: Mapping[str, tuple[str, str]],
        keep: Sequence[str] = (),
        at_least: Mapping[str, str] | None = None,
        model_file: str = "model.onnx",
        labels_file: str | None = None,
        batch_rows: int = 256,
        image: str = "inference",
        **kwargs: Any,
    ) -> None:
        super().__init__(workload="inference", image=image, inputs=(model, data), **kwargs)
        if len(self.outputs_to) != 1 or self.folders:
            raise ConfigurationError(f"inference writes one table; outputs= has {sorted(self.outputs_to)}")
        if model == data:
            raise ConfigurationError(f"model= and data= are both {model}")
        plan = {
            "model": model,
            "model_file": model_file,
            "labels_file": labels_file,
            "data": data,
            "features": {tensor: list(columns) for tensor, columns in features.items()},
            "results": [
                {"column": column, "tensor": tensor, "kind": kind} for column, (tensor, kind) in results.items()
            ],
            "keep": list(keep),
            "at_least": dict(at_least or {}),
            "batch_rows": batch_rows,
        }
        try:
            self.plan = canonical.convert(plan, into=InferencePlan)
        except MalformedInputError as error:
            raise ConfigurationError(f"step {self.task_id} cannot be bound: {error.message}") from error

    def code_files(self) -> dict[str, bytes]:
        """What the step binds."""
        return {PLAN_FILE: canonical.encode(self.plan)}

    def argv(self) -> tuple[str, ...]:
        """The name of the plan's file."""
        return (PLAN_FILE,)
