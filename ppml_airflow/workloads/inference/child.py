"""The child process of an inference step: bytes of a model into ONNX Runtime, rows of a table through it.

Runs as `python -m ppml_airflow.workloads.inference.child` in a job's private directory. Says `model_mismatch` where the
model cannot be loaded, or does not take or give what the plan binds; the text goes to the log. In a set each member
takes its share of the rows, and the leader writes the results of all, in the order of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pyarrow.compute as pc

from ppml_airflow.workloads import job_api

_TYPES = {
    "tensor(bool)": np.bool_,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}
_LARGEST = ("label", "argmax", "max")


class ModelMismatchError(Exception):
    """The model does not take or give what the plan binds."""


def main() -> None:
    """Open model and data, run, write the output."""
    told = job_api.description()
    plan: Mapping[str, Any] = told["plan"]
    data = job_api.table(plan["data"])
    try:
        model = Model(plan, content=_file(plan, plan["model_file"]), threads=told["cores"])
        data = _share(data, size=model.batch_rows)
        labels = _labels(plan)
        results = [model.run(rows) for rows in _batches(data, size=model.batch_rows)]
        columns = {result["column"]: _column(result, tensors=results, labels=labels) for result in plan["results"]}
    except _MISMATCHES as error:
        job_api.tell_failure("out_of_memory" if "bad allocation" in str(error) else "model_mismatch")
        raise
    kept = data.select(plan["keep"])
    output = pa.table([*kept.columns, *columns.values()], names=[*plan["keep"], *columns])
    for name, param in plan["at_least"].items():
        output = output.filter(pc.greater_equal(output[name], pa.scalar(float(str(job_api.params[param])))))
    shares = _gathered(output)
    if shares:
        job_api.write(told["output"], pa.concat_tables(shares, promote_options="default"))


def _share(data: pa.Table, *, size: int) -> pa.Table:
    """The rows of this member, in whole batches: what a model gives for a row may depend on the others of its batch."""
    batches = -(-data.num_rows // size)
    start, end = (batches * index // job_api.members() * size for index in (job_api.member(), job_api.member() + 1))
    return data.slice(start, end - start)


def _gathered(output: pa.Table) -> list[pa.Table]:
    """The results of all members; none in a member that does not lead."""
    if job_api.members() == 1:
        return [output]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, output.schema) as stream:
        stream.write_table(output)
    return [pa.ipc.open_stream(share).read_all() for share in job_api.gather(sink.getvalue().to_pybytes())]


_STATE = ort.capi.onnxruntime_pybind11_state
_MISMATCHES: tuple[type[Exception], ...] = (
    ModelMismatchError,
    *(kind for kind in vars(_STATE).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)
"""ONNX Runtime's exceptions have no common base but Exception."""


class Model:
    """A loaded model with its inputs bound to columns.

    Args:
        plan: what is bound.
        content: an ONNX model.
        threads: of one operator.
    """

    def __init__(self, plan: Mapping[str, Any], *, content: bytes, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._inputs = {tensor.name: tensor for tensor in self._session.get_inputs()}
        self._features: Mapping[str, list[str]] = plan["features"]
        if set(self._inputs) != set(self._features):
            _mismatch(f"model takes {sorted(self._inputs)}; bound are {sorted(self._features)}")
        self._tensors = sorted({result["tensor"] for result in plan["results"]})
        given = [tensor.name for tensor in self._session.get_outputs()]
        if not set(self._tensors) <= set(given):
            _mismatch(f"model gives {given}; bound are {self._tensors}")
        fixed = {
            tensor.shape[0] for tensor in self._inputs.values() if tensor.shape and isinstance(tensor.shape[0], int)
        }
        self._fixed_rows = fixed.pop() if len(fixed) == 1 else None
        self.batch_rows: int = self._fixed_rows or plan["batch_rows"]

    def run(self, rows: pa.Table) -> dict[str, np.ndarray]:
        """Run some rows, at most `batch_rows`; each tensor with as many rows."""
        count = rows.num_rows
        feeds = {name: self._feed(name, rows=rows) for name in self._features}
        if self._fixed_rows is not None and count < self._fixed_rows:
            feeds = {name: np.resize(values, (self._fixed_rows, *values.shape[1:])) for name, values in feeds.items()}
        tensors = dict(zip(self._tensors, self._session.run(self._tensors, feeds), strict=True))
        for name, values in tensors.items():
            if not isinstance(values, np.ndarray) or values.ndim == 0 or len(values) not in (count, self._fixed_rows):
                _mismatch(f"tensor {name} has not a row for each row of the data")
        return {name: values[:count] for name, values in tensors.items()}

    def _feed(self, name: str, *, rows: pa.Table) -> np.ndarray:
        tensor = self._inputs[name]
        if tensor.type not in _TYPES:
            _mismatch(f"tensor {name} has type {tensor.type}, which columns cannot feed")
        values = _matrix([rows[column].combine_chunks() for column in self._features[name]], dtype=_TYPES[tensor.type])
        shape = [size if isinstance(size, int) else -1 for size in tensor.shape[1:]]
        try:
            return np.ascontiguousarray(values.reshape((len(values), *shape)))
        except ValueError as error:
            _mismatch(
                f"tensor {name} has shape {tensor.shape}; its columns give {values.shape[1]} values a row ({error})"
            )


def _matrix(columns: list[pa.Array], *, dtype: Any) -> np.ndarray:
    """The values of columns, a line for each row.

    Raises:
        pyarrow.ArrowInvalid: a value is missing, or does not fit the tensor's type.
    """
    first, element = columns[0], np.dtype(dtype).newbyteorder("<")
    is_row = pa.types.is_binary(first.type) or pa.types.is_list(first.type)
    if any(column.null_count for column in columns) and (is_row or not np.issubdtype(dtype, np.floating)):
        raise pa.ArrowInvalid("a value is missing, and the tensor is not of a floating type")
    if not is_row:
        arrays = [column.cast(pa.from_numpy_dtype(dtype)).to_numpy(zero_copy_only=False) for column in columns]
        return np.stack(arrays, axis=1).astype(dtype, copy=False)
    sizes = set(
        (pc.binary_length(first) if pa.types.is_binary(first.type) else pc.list_value_length(first)).to_pylist()
    )
    if len(sizes) != 1:
        raise pa.ArrowInvalid("rows have different numbers of values")
    if pa.types.is_list(first.type):
        values = first.flatten().cast(pa.from_numpy_dtype(dtype)).to_numpy(zero_copy_only=False)
    elif sizes.pop() % element.itemsize:
        raise pa.ArrowInvalid("bytes of a row are no whole number of values")
    else:
        values = np.frombuffer(b"".join(first.to_pylist()), dtype=element)
    matrix: np.ndarray = values.reshape(len(first), -1).astype(dtype, copy=False)
    return matrix


def _batches(data: pa.Table, *, size: int) -> Iterator[pa.Table]:
    """Portions of the data, in order; one that is empty of a table without rows."""
    for start in range(0, data.num_rows, size):
        yield data.slice(start, size)


def _column(result: Mapping[str, str], *, tensors: list[dict[str, np.ndarray]], labels: list[str]) -> pa.Array:
    name, kind = result["tensor"], result["kind"]
    if not tensors:
        return pa.array([], pa.string() if kind == "label" else None)
    values = np.concatenate([batch[name] for batch in tensors])
    flat = values.reshape(len(values), -1)
    if kind in _LARGEST:
        positions = flat.argmax(axis=1)
        if kind == "max":
            return pa.array(flat.max(axis=1).astype(np.float64))
        if kind == "argmax":
            return pa.array(positions)
        if len(labels) != flat.shape[1]:
            _mismatch(f"tensor {name} has {flat.shape[1]} values a row; the labels file has {len(labels)} lines")
        return pa.array([labels[position] for position in positions])
    if kind.startswith("array<"):
        return pa.array(list(flat))
    if flat.shape[1] != 1:
        _mismatch(f"tensor {name} has {flat.shape[1]} values a row; wanted one, for a {kind}")
    return pa.array(flat[:, 0])


def _labels(plan: Mapping[str, Any]) -> list[str]:
    if plan["labels_file"] is None:
        return []
    return _file(plan, plan["labels_file"]).decode().splitlines()


def _file(plan: Mapping[str, Any], name: str) -> bytes:
    there = job_api.files(plan["model"])
    if name not in there:
        _mismatch(f"model {plan['model']} has no file {name}; it has {list(there)}")
    return job_api.read_file(plan["model"], name)


def _mismatch(message: str) -> NoReturn:
    raise ModelMismatchError(message)


if __name__ == "__main__":
    main()
