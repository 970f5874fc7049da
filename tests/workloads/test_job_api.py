"""What a job's program calls, from the other end of the guest's socket."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from ppml_airflow.domain.documents import Limits
from ppml_airflow.workloads import job_api
from ppml_airflow.workloads.guest_socket import GuestSocket
from ppml_airflow.workloads.job import FilesInput, FilesOutput, JobKeys, TableOutput, TypedValue, WorkloadJob
from ppml_airflow.workloads.memory_files import read_memory
from ppml_airflow.workloads.params import typed_literals
from tests.support.spark_jobs import JobWorld

MODEL = {"model.onnx": bytes(range(256)) * 5000, "labels/de.txt": b"ja"}
SCHEMA = pa.schema({"plan": pa.string(), "visits": pa.int64()})
PARAMS: dict[str, TypedValue] = {"since": date(2020, 1, 2), "share": Decimal("0.25"), "top": 3, "all": True}


class Program:
    """A guest with one job, whose process runs what a test gives it."""

    def __init__(self, world: JobWorld) -> None:
        visits = pa.table({"plan": ["a", "b", "a"], "n": [1, 2, 3]})
        world.seal("visits", visits, visits)
        self.folder = world.private
        self.read = world.keys().read
        self.job = WorkloadJob(
            code=self.folder,
            argv=(),
            params=PARAMS,
            environment={},
            inputs=tuple(world.inputs),
            outputs=(TableOutput(dataset="report", files=1),),
            files=(FilesInput(dataset="model"),),
            folders=(FilesOutput(dataset="scores", files=2),),
            limits=Limits(wall_s=60, memory_mib=16, cores=1),
        )
        self.keys = JobKeys(read=self.read, write=world.write_key, open_files=lambda dataset: iter(MODEL.items()))
        self.guest = GuestSocket(self.folder, job=self.job)
        (self.folder / "conf").mkdir()
        schema = base64.b64encode(SCHEMA.serialize()).decode()
        description = {
            "params": typed_literals(PARAMS),
            "inputs": {"visits": "table", "model": "files"},
            "outputs": ["report", "scores"],
            "schemas": {"report": schema},
        }
        (self.folder / "conf" / "job.json").write_text(json.dumps(description))

    def run(self, statements: str) -> str:
        """Run statements after the lease; what they print, and their errors."""
        self.guest.arm(self.keys, on_progress=lambda percent: None)
        program = f"from ppml_airflow.workloads.job_api import *\n{statements}"
        ended = subprocess.run([sys.executable, "-c", program], cwd=self.folder, capture_output=True, text=True)
        return ended.stdout + ended.stderr


@pytest.fixture
def program(world: JobWorld) -> Iterator[Program]:
    made = Program(world)
    yield made
    made.guest.close()


def test_a_program_reads_files(program: Program) -> None:
    said = program.run(
        "import hashlib\nprint(files('model'))\nprint(hashlib.sha256(read_file('model', 'model.onnx')).hexdigest())"
    )
    assert said.splitlines() == [str(tuple(MODEL)), hashlib.sha256(MODEL["model.onnx"]).hexdigest()]


def test_a_program_reads_a_table_of_several_parts(program: Program) -> None:
    assert program.run("print(table('visits').to_pandas()['n'].tolist())") == "[1, 2, 3, 1, 2, 3]\n"


def test_a_program_writes_a_table(program: Program) -> None:
    said = program.run(
        "frame = table('visits').to_pandas().groupby('plan', as_index=False)['n'].sum()\n"
        "write('report', frame.rename(columns={'n': 'visits'}))"
    )
    assert said == ""
    written = pa.ipc.open_stream(read_memory(program.guest.contents.written_table("report"))).read_all()
    assert written.schema == SCHEMA
    assert written.to_pylist() == [{"plan": "a", "visits": 8}, {"plan": "b", "visits": 4}]


def test_a_program_writes_files(program: Program) -> None:
    assert program.run("save_file('scores', 'a', b'1')\nsave_file('scores', 'b/c.bin', bytes(300000))") == ""
    assert program.guest.contents.written_files() == {"scores": {"a": b"1", "b/c.bin": bytes(300000)}}


def test_a_program_works_from_any_folder_and_any_process(program: Program) -> None:
    said = program.run(
        "import os, tempfile\nos.chdir('/')\nif os.fork() == 0:\n    print(len(files('model')), flush=True)"
        "\n    os._exit(0)\nos.wait()"
    )
    assert said == "2\n"


def test_a_function_gets_what_its_parameters_name(program: Program) -> None:
    said = program.run(
        "def compute(visits, model, top, sign='!'):\n"
        "    frame = visits.rename(columns={'n': 'visits'})[:top]\n"
        "    return {'report': frame, 'scores': {'a': sign.encode(), 'b': model['labels/de.txt']}}\n"
        "run_function(compute)"
    )
    assert said == ""
    written = pa.ipc.open_stream(read_memory(program.guest.contents.written_table("report"))).read_all()
    assert written["visits"].to_pylist() == [1, 2, 3]
    assert program.guest.contents.written_files() == {"scores": {"a": b"!", "b": b"ja"}}


def test_params_have_their_types(program: Program) -> None:
    said = program.run("print(dict(params))")
    assert said.strip() == str(PARAMS)


def test_a_count_is_offered(program: Program) -> None:
    assert program.run("disclose('rows', 7)") == ""
    assert program.guest.disclosed == {"rows": 7}


FAILURES = {
    "other columns": ("write('report', table('visits'))", "output_mismatch", "declared are ['plan', 'visits']"),
    "a value that does not fit": (
        "import pyarrow as pa\nwrite('report', pa.table({'plan': ['a'], 'visits': ['canary-31']}))",
        "cast_error",
        "canary-31",
    ),
    "no memory": ("raise MemoryError", "out_of_memory", "MemoryError"),
    "an output that it does not have": ("write('other', table('visits'))", "not_granted", "['report']"),
    "a folder that it was not granted": ("files('other')", "not_granted", "not_granted"),
    "one file too many": ("for name in 'abc': save_file('scores', name, b'')", "not_granted", "'file': 'c'"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_program_that_fails_says_one_word(name: str, program: Program) -> None:
    statements, word, text = FAILURES[name]
    said = program.run(statements)
    assert program.guest.failure == word
    assert text in said


def test_a_program_without_a_guest_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from ppml_airflow.workloads.job_api import *\nparams['since']"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "runs only as a job of a guest" in ended.stderr


def test_the_api_needs_the_standard_library_alone_and_python_39() -> None:
    source = Path(job_api.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 9))
    imported: Mapping[str, None] = {
        (node.names[0].name if isinstance(node, ast.Import) else str(node.module)).partition(".")[0]: None
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert set(imported) <= sys.stdlib_module_names
