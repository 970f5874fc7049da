"""Workload `spark-python`: an approved Python program on Spark, written against `spark.api`.

Before the lease nothing of it runs and nothing is imported: every code file is compiled, and the columns of the outputs
are read from the program's text, where they stand as a literal:

    OUTPUTS = {"report": {"plan": "string", "visits": "bigint"}}

After the lease Spark runs the program with the image's Python. The program is trusted code by its approval; that it
reaches only what it was granted rests on the keys it can ask for, not on Python.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobKeys, JobResult, WorkloadJob
from ppml_airflow.workloads.spark.guest_socket import input_links
from ppml_airflow.workloads.spark.outputs import collect_output
from ppml_airflow.workloads.spark.process import SparkProcess, write_private
from ppml_airflow.workloads.spark.sql import typed_literals
from ppml_airflow.workloads.spark.types import arrow_columns, spark_schema

_HEAP_SHARE = 0.5
_SPARK_OF_SQL = {
    "boolean": "boolean",
    "tinyint": "byte",
    "smallint": "short",
    "int": "integer",
    "bigint": "long",
    "float": "float",
    "double": "double",
    "string": "string",
    "binary": "binary",
    "date": "date",
    "timestamp": "timestamp",
    "timestamp_ntz": "timestamp_ntz",
}


class SparkPython:
    """Runs one Python job; see `job.Workload`."""

    def __init__(self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path) -> None:
        if not job.argv or not job.argv[0].endswith(".py") or not job.outputs:
            raise ConfigurationError(
                f"spark-python step has argv {list(job.argv)} and {len(job.outputs)} outputs; wanted the name of a .py"
                " file, its arguments, and at least one output"
            )
        self._job = job
        self._process = SparkProcess(job, installation=installation, private=private, log=log, heap_share=_HEAP_SHARE)
        if not job.code.resolve().is_relative_to(self._process.private):
            raise ConfigurationError(f"code folder {job.code} is not inside the private directory")
        self._columns: Mapping[str, tuple[Column, ...]] = {}

    def prepare(self) -> Mapping[str, tuple[Column, ...]]:
        """Compile every code file and read the declared outputs; nothing is imported, nothing runs.

        Raises:
            ConfigurationError: a syntax error (file, line, column); outputs missing, unknown or not literal.
        """
        trees = {file: _compiled(file, folder=self._job.code) for file in sorted(self._job.code.rglob("*.py"))}
        program = self._job.code / self._job.argv[0]
        if program not in trees:
            raise ConfigurationError(f"program {self._job.argv[0]} is not among the step's code files")
        declared = _declared_outputs(trees[program], program=self._job.argv[0])
        wanted = {output.dataset for output in self._job.outputs}
        if set(declared) != wanted:
            raise ConfigurationError(
                f"{self._job.argv[0]} declares outputs {sorted(declared)}; the step has {sorted(wanted)}"
            )
        self._columns = {name: _columns(name, declared[name]) for name in declared}
        self._write_description(declared)
        return self._columns

    def run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        """Run the prepared program; see `job.Workload`."""
        return self._process.answered(lambda: self._run(keys=keys, on_progress=on_progress))

    def cancel(self) -> None:
        """Make a `run` in another thread end with `cancelled`."""
        self._process.cancel()

    def close(self) -> None:
        """Kill what still runs. May be called twice."""
        self._process.close()

    def _run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        if not self._columns:
            raise ConfigurationError("spark-python job was not prepared")
        self._process.socket.arm(keys, on_progress=on_progress)
        self._process.start(
            [
                "org.apache.spark.deploy.SparkSubmit",
                "--properties-file",
                str(self._process.settings_file),
                str(self._job.code / self._job.argv[0]),
                *self._job.argv[1:],
            ]
        )
        outcome = self._process.wait()
        if outcome != "ok":
            return JobResult(outcome=outcome)
        parts = {
            output.dataset: collect_output(
                self._process.private / "output" / output.dataset,
                output=output,
                columns=self._columns[output.dataset],
                keys=keys,
            )
            for output in self._job.outputs
        }
        on_progress(100)
        return JobResult(outcome="ok", outputs=parts, disclosed=dict(self._process.socket.disclosed))

    def _write_description(self, declared: Mapping[str, Mapping[str, str]]) -> None:
        """What `spark.api` tells the program: no secret, and no more than the approval says."""
        description = {
            "inputs": {
                table.view: {
                    "schema": spark_schema(table.columns, view=table.view),
                    "parts": [str(link) for link in input_links(self._process.private, inputs=(table,))],
                }
                for table in self._job.inputs
            },
            "outputs": {
                output.dataset: {
                    "files": output.files,
                    "columns": declared[output.dataset],
                    "folder": str(self._process.private / "output" / output.dataset),
                }
                for output in self._job.outputs
            },
            "params": typed_literals(self._job.params),
        }
        write_private(self._process.private / "conf" / "job.json", json.dumps(description))


def _compiled(file: Path, *, folder: Path) -> ast.Module:
    name = file.relative_to(folder).as_posix()
    try:
        tree = ast.parse(file.read_bytes(), filename=name)
        compile(tree, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise ConfigurationError(
            f"{name}: line {error.lineno}, column {error.offset}: {error.msg}", code="python_syntax"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{name} does not compile: {error}", code="python_syntax") from error
    return tree


def _declared_outputs(tree: ast.Module, *, program: str) -> dict[str, dict[str, str]]:
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in targets] == ["OUTPUTS"]:
            try:
                value: Any = ast.literal_eval(statement.value)
            except ValueError:
                break
            if isinstance(value, dict) and all(isinstance(columns, dict) for columns in value.values()):
                return {str(name): {str(c): str(t) for c, t in columns.items()} for name, columns in value.items()}
    raise ConfigurationError(
        f"{program} does not say which columns its outputs have",
        hint='write at the top, as a literal: OUTPUTS = {"report": {"plan": "string", "visits": "bigint"}}',
    )


def _columns(dataset: str, declared: Mapping[str, str]) -> tuple[Column, ...]:
    fields = []
    for name, type_name in declared.items():
        is_decimal = re.fullmatch(r"decimal\(\d{1,2},\d{1,2}\)", type_name)
        if type_name not in _SPARK_OF_SQL and not is_decimal:
            raise ConfigurationError(
                f"output {dataset} declares column {name} as {type_name}; wanted one of"
                f" {', '.join(_SPARK_OF_SQL)}, decimal(p,s)"
            )
        fields.append({"name": name, "type": type_name if is_decimal else _SPARK_OF_SQL[type_name]})
    if not fields:
        raise ConfigurationError(f"output {dataset} declares no column")
    return arrow_columns(fields, dataset=dataset)
