"""A sealed model over a sealed table: the answers are onnxruntime's on plaintext; a wrong model is one word."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Limits
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.workloads.inference.model import Inference
from ppml_airflow.workloads.inference.plan import InferencePlan
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import FilesInput, JobResult, TypedValue, Workload, WorkloadJob
from tests.support.onnx_models import linear_model
from tests.support.set_world import SetWorld
from tests.support.spark_jobs import JobWorld

CANARY = "canary-of-the-model-9b1c"
WEIGHTS = np.random.default_rng(5).normal(size=(3, 4)).astype(np.float32)
MODEL = linear_model(WEIGHTS, canary=CANARY)
ROWS = np.random.default_rng(6).normal(size=(257, 3)).astype(np.float32)
TABLE = pa.table({"id": range(257), "a": ROWS[:, 0], "b": ROWS[:, 1], "c": ROWS[:, 2]})
PLAN: Mapping[str, Any] = {
    "model": "detector",
    "model_file": "model.onnx",
    "labels_file": "labels.txt",
    "data": "samples",
    "features": {"values": ["a", "b", "c"]},
    "results": [
        {"column": "kind", "tensor": "scores", "kind": "label"},
        {"column": "position", "tensor": "scores", "kind": "argmax"},
        {"column": "best", "tensor": "scores", "kind": "max"},
        {"column": "scores", "tensor": "scores", "kind": "array<float>"},
    ],
    "keep": ["id"],
    "at_least": {},
    "batch_rows": 100,
}
FILES = {"model.onnx": MODEL, "labels.txt": b"p\nq\nr\ns\n"}
PARAMS: dict[str, TypedValue] = {"least": Decimal("0.75")}
LIMITS = Limits(wall_s=120, memory_mib=1024, cores=1)


def inference_job(world: JobWorld, **changes: Any) -> WorkloadJob:
    plan = canonical.convert({**PLAN, **changes}, into=InferencePlan)
    code = {"inference.json": canonical.encode(plan).decode()}
    job = world.job(code, argv=("inference.json",), params=PARAMS, limits=LIMITS)
    return replace(job, files=(FilesInput(dataset="detector"),))


def installed(world: JobWorld) -> ImageInstallation:
    return ImageInstallation(environment=Path(sys.prefix), java_home=None, jars=world.folder)


@contextmanager
def inference(world: JobWorld, table: pa.Table = TABLE, **changes: Any) -> Iterator[Inference]:
    world.seal("samples", table)
    job = inference_job(world, **changes)
    workload = Inference(job, installation=installed(world), private=world.private, log=world.log)
    try:
        yield workload
    finally:
        workload.close()


def run(workload: Inference, world: JobWorld, files: Mapping[str, bytes] = FILES) -> JobResult:
    keys = replace(world.keys(), open_files=lambda dataset: iter(files.items()))
    return workload.run(keys=keys, on_progress=lambda percent: None)


def reference(model: bytes = MODEL, rows: np.ndarray = ROWS) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options)
    size = session.get_inputs()[0].shape[0]
    size = size if isinstance(size, int) else 100
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    return np.concatenate([session.run(None, {"values": np.resize(b, (max(len(b), 1), 3))})[0] for b in batches])


def answered(world: JobWorld, result: JobResult) -> pa.Table:
    assert result.outcome == "ok", world.log.read_text()
    return world.open(result.outputs["report"][0])


def test_answers_are_those_of_onnxruntime_on_plaintext(world: JobWorld) -> None:
    with inference(world) as workload:
        columns = workload.prepare()["report"]
        assert [(column.name, column.type) for column in columns] == [
            ("id", "int64"),
            ("kind", "string"),
            ("position", "int64"),
            ("best", "double"),
            ("scores", "list<element: float>"),
        ]
        found = answered(world, run(workload, world))
    wanted = reference()
    assert found["id"].to_pylist() == list(range(257))
    assert np.array_equal(np.array(found["scores"].to_pylist(), dtype=np.float32), wanted)
    assert found["position"].to_pylist() == wanted.argmax(axis=1).tolist()
    assert found["best"].to_pylist() == wanted.max(axis=1).astype(float).tolist()
    assert found["kind"].to_pylist() == ["pqrs"[position] for position in wanted.argmax(axis=1)]


def test_rows_below_a_param_are_left_out(world: JobWorld) -> None:
    with inference(world, at_least={"best": "least"}) as workload:
        workload.prepare()
        found = answered(world, run(workload, world))
    wanted = reference().max(axis=1)
    assert found["id"].to_pylist() == [number for number in range(257) if wanted[number] >= 0.75]


def test_a_param_that_the_run_does_not_have_is_named(world: JobWorld) -> None:
    with (
        inference(world, at_least={"best": "most"}) as workload,
        pytest.raises(ConfigurationError, match=r"compares with param most; the run has \['least'\]"),
    ):
        workload.prepare()


LISTS = pa.array(list(ROWS), pa.list_(pa.field("element", pa.float32())))
ROW_COLUMNS = {"a list of numbers": LISTS, "bytes": pa.array([row.tobytes() for row in ROWS], pa.binary())}


@pytest.mark.parametrize("kind", ROW_COLUMNS)
def test_a_column_may_hold_a_whole_row_of_the_tensor(kind: str, world: JobWorld) -> None:
    table = pa.table({"id": range(257), "row": ROW_COLUMNS[kind]})
    with inference(world, table, features={"values": ["row"]}) as workload:
        workload.prepare()
        found = answered(world, run(workload, world))
    assert np.array_equal(np.array(found["scores"].to_pylist(), dtype=np.float32), reference())


def test_a_model_of_a_fixed_number_of_rows_gets_as_many(world: JobWorld) -> None:
    model = linear_model(WEIGHTS, rows=50)
    with inference(world) as workload:
        workload.prepare()
        found = answered(world, run(workload, world, {**FILES, "model.onnx": model}))
    assert np.allclose(np.array(found["scores"].to_pylist()), ROWS @ WEIGHTS, rtol=1e-5, atol=1e-6)
    assert found.num_rows == 257


def test_a_table_without_rows_gives_one_without_rows(world: JobWorld) -> None:
    with inference(world, TABLE.slice(0, 0)) as workload:
        workload.prepare()
        assert answered(world, run(workload, world)).num_rows == 0


@contextmanager
def serving(folder: Path, table: pa.Table, **changes: Any) -> Iterator[tuple[SetWorld[JobWorld], list[Workload]]]:
    """Three members that serve one model over one table, prepared."""
    (folder / "0").mkdir()
    first = JobWorld(folder=folder / "0")
    first.seal("samples", table)
    worlds = SetWorld(first, members=3)
    jobs = [inference_job(member, **changes) for member in worlds.members]
    with worlds.prepared(jobs, name="inference", installation=installed(first)) as workloads:
        yield worlds, workloads


@pytest.mark.parametrize(
    ("rows", "model", "at_least"),
    [
        (257, MODEL, {"best": "least"}),
        pytest.param(2, MODEL, {"best": "least"}, marks=pytest.mark.slow),
        (0, MODEL, {"best": "least"}),
        pytest.param(257, linear_model(WEIGHTS, rows=50), {"best": "least"}, marks=pytest.mark.slow),
        (257, linear_model(WEIGHTS, is_relative=True), {}),
    ],
)
def test_the_members_of_a_set_answer_together_exactly_what_one_enclave_answers(
    rows: int, model: bytes, at_least: Mapping[str, str], world: JobWorld, tmp_path: Path
) -> None:
    changes, files = {"at_least": at_least}, {**FILES, "model.onnx": model}
    with inference(world, TABLE.slice(0, rows), **changes) as workload:
        workload.prepare()
        alone = answered(world, run(workload, world, files))
    with serving(tmp_path, TABLE.slice(0, rows), **changes) as (worlds, workloads):
        results = worlds.run(workloads, open_files=lambda dataset: iter(files.items()))
    assert [result.outcome for result in results] == ["ok", "ok", "ok"], worlds.said()
    assert [bool(result.outputs) for result in results] == [True, False, False]
    assert worlds.members[0].open(results[0].outputs["report"][0]).equals(alone)


def test_a_member_that_cannot_answer_its_share_says_why_and_the_leader_writes_nothing(tmp_path: Path) -> None:
    rows = [*ROWS[:-1], ROWS[-1][:1]]
    table = TABLE.append_column("row", pa.array(rows, pa.list_(pa.field("element", pa.float32()))))
    with serving(tmp_path, table, features={"values": ["row"]}) as (worlds, workloads):
        leader, *others = (
            worlds.start(workload, index=index, open_files=lambda dataset: iter(FILES.items()))
            for index, workload in enumerate(workloads)
        )
        assert [other.result(timeout=60).outcome for other in others] == ["ok", "cast_error"], worlds.said()
        workloads[0].cancel()
        assert leader.result(timeout=30) == JobResult(outcome="cancelled")


RESULT = [{"column": "n", "tensor": "scores", "kind": "float"}]
OTHERS = {"labels.txt": FILES["labels.txt"]}
MISMATCHES: Mapping[str, tuple[Mapping[str, Any], Mapping[str, bytes], str]] = {
    "a model of another width": ({}, {**OTHERS, "model.onnx": linear_model(WEIGHTS[:2])}, "values"),
    "a model that is none": ({}, {**OTHERS, "model.onnx": b"canary" * 99}, "InvalidProtobuf"),
    "no model at all": ({}, OTHERS, "has no file model.onnx"),
    "a tensor that it does not take": ({"features": {"x": ["a"]}}, FILES, r"model takes ['values']; bound are ['x']"),
    "a tensor that it does not give": (
        {"results": [{"column": "n", "tensor": "y", "kind": "max"}]},
        FILES,
        "model gives ['scores']; bound are ['y']",
    ),
    "several values where one was bound": ({"results": RESULT}, FILES, "has 4 values a row; wanted one, for a float"),
    "other labels": ({}, {**FILES, "labels.txt": b"p\n"}, "the labels file has 1 lines"),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_a_model_of_the_wrong_shape_is_one_word(name: str, world: JobWorld) -> None:
    changes, files, logged = MISMATCHES[name]
    with inference(world, **changes) as workload:
        workload.prepare()
        result = run(workload, world, files)
    assert result.outcome == "model_mismatch", world.log.read_text()
    assert result.outputs == {}
    assert logged in world.log.read_text()


def test_rows_of_different_lengths_are_a_value_that_does_not_fit(world: JobWorld) -> None:
    rows = pa.array([[1.0, 2.0, 3.0], [1.0]], pa.list_(pa.field("element", pa.float32())))
    with inference(world, pa.table({"id": [1, 2], "row": rows}), features={"values": ["row"]}) as workload:
        workload.prepare()
        assert run(workload, world).outcome == "cast_error"


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        (
            {"features": {"values": ["a", "height"]}},
            "unknown_column",
            "samples has no column height .*it has id, a, b, c",
        ),
        ({"keep": ["name"]}, "unknown_column", "no column name"),
        ({"features": {"values": ["a", "row"]}}, "column_type", "column row of type binary cannot feed tensor values"),
        ({"features": {"values": ["text"]}}, "column_type", "wanted a number, a list of numbers or bytes"),
    ],
)
def test_a_column_that_is_missing_or_does_not_fit_is_named_before_the_lease(
    changes: Mapping[str, Any], code: str, said: str, world: JobWorld
) -> None:
    table = pa.table({"row": [b"12"], "text": ["a"]}) if code == "column_type" else TABLE
    if code == "column_type":
        table = table.append_column("id", pa.array([1])).append_column("a", pa.array([1.0]))
    with inference(world, table, **changes) as workload, pytest.raises(ConfigurationError, match=said) as refused:
        workload.prepare()
    assert refused.value.code == code


@pytest.mark.parametrize(
    "changes",
    [
        {"features": {}},
        {"results": []},
        {"batch_rows": 0},
        {"labels_file": None},
        {"keep": ["Kind"]},
        {"at_least": {"kind": "least"}},
        {"results": [{"column": "n", "tensor": "scores", "kind": "median"}]},
        {"more": 1},
    ],
)
def test_a_plan_that_binds_nothing_or_too_much_is_refused(changes: Mapping[str, Any], world: JobWorld) -> None:
    world.seal("samples", TABLE)
    job = world.job({"inference.json": canonical.encode({**PLAN, **changes}).decode()}, argv=("inference.json",))
    installation = ImageInstallation(environment=Path(sys.prefix), java_home=None, jars=world.folder)
    job = replace(job, files=(FilesInput(dataset="detector"),))
    workload = Inference(job, installation=installation, private=world.private, log=world.log)
    with pytest.raises(ConfigurationError, match=r"inference\.json is refused") as refused:
        workload.prepare()
    workload.close()
    assert refused.value.code == "plan_malformed"


def test_the_model_never_lies_in_a_file(world: JobWorld) -> None:
    found: list[Path] = []

    def look(percent: int) -> None:
        """Called while the child holds the model: look into every file that it or the guest could have written."""
        for root in (world.folder, Path("/dev/shm"), Path("/var/tmp")):
            for folder, _, names in os.walk(root):
                found.extend(file for file in map(Path(folder).joinpath, names) if _holds_canary(file))

    with inference(world) as workload:
        workload.prepare()
        keys = replace(world.keys(), open_files=lambda dataset: iter(FILES.items()))
        result = workload.run(keys=keys, on_progress=look)
        look(100)
    assert result.outcome == "ok", world.log.read_text()
    assert found == []


def _holds_canary(file: Path) -> bool:
    try:
        return file.is_file() and CANARY.encode() in file.read_bytes()
    except OSError:
        return False
