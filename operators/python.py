"""Python in an enclave: an approved program, or a function of the DAG file, over sealed datasets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import update_wrapper
from typing import Any

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators.enclaves import EnclaveOperator, read_code, require_no_template
from ppml_airflow.operators.functions import source_of

FUNCTION_FILE = "function.py"
"""Not called like the function, which would hide a module of that name from it."""


class TrustedPythonOperator(EnclaveOperator):
    """Run a Python program or function. Exactly one of `application` and `python_callable`.

    A function is approved by its source. Its parameters are called like inputs and params of the run: a table comes as
    a data frame, a folder as `{name: bytes}`. It returns the output, or `{dataset: output}` where there are several.

    Args:
        application: path of a .py file, relative to the DAG file; written against `workloads.job_api`.
        py_files: more .py files that the application imports.
        application_args: arguments; an element `{name}` is replaced whole by the param of that name.
        python_callable: a function; its parameters that are neither params of the DAG nor have a default are inputs.
        columns: for a function, the columns of each table that is an output: dataset -> column -> type, as Spark SQL
            writes types.
        needs: for a function, columns that a table must have, or it is refused before the lease: dataset -> column ->
            type or family (`number`, `whole number`); `*` for every other column.
        inputs: datasets; of a function they need not be named.
        image: the trusted image.
        kwargs: as for `EnclaveOperator`.
    """

    def __init__(
        self,
        *,
        application: str | None = None,
        py_files: Sequence[str] = (),
        application_args: Sequence[str] = (),
        python_callable: Callable[..., Any] | None = None,
        columns: Mapping[str, Mapping[str, str]] | None = None,
        needs: Mapping[str, Mapping[str, str]] | None = None,
        inputs: Sequence[str] = (),
        image: str = "python",
        **kwargs: Any,
    ) -> None:
        super().__init__(workload="python", image=image, inputs=inputs, **kwargs)
        if (application is None) == (python_callable is None):
            raise ConfigurationError("TrustedPythonOperator wants exactly one of application= and python_callable=")
        _require_files((*([application] if application else []), *py_files))
        require_no_template(application_args)
        self.application = application
        self.py_files = tuple(py_files)
        self.application_args = tuple(application_args)
        self.columns = {dataset: dict(found) for dataset, found in (columns or {}).items()}
        self.needs = {dataset: dict(found) for dataset, found in (needs or {}).items()}
        self.function = None if python_callable is None else source_of(python_callable)
        if self.function is not None:
            self._take_function(given=tuple(inputs))

    def code_files(self) -> dict[str, bytes]:
        """The program and what it imports, or the program that calls the function; the first one is run."""
        if self.function is None:
            return read_code((str(self.application), *self.py_files), operator=self)
        outputs = self.columns | dict.fromkeys(sorted(self.folders), "files")
        return {FUNCTION_FILE: self.function.program(inputs=self.needs, outputs=outputs)}

    def argv(self) -> tuple[str, ...]:
        """The name of the program's file, and the arguments."""
        return (next(iter(self.code_files())), *self.application_args)

    def _take_function(self, *, given: tuple[str, ...]) -> None:
        if self.function is None or self.py_files or self.application_args:
            raise ConfigurationError("py_files= and application_args= go with application=, not with a function")
        tables = set(self.outputs_to) - self.folders
        if set(self.columns) != tables:
            raise ConfigurationError(
                f"columns= of step {self.task_id} names {sorted(self.columns)}; tables among its outputs are"
                f" {sorted(tables)}",
                hint='write columns={"report": {"plan": "string", "people": "bigint"}}',
            )
        unknown = sorted((set(given) | set(self.needs)) - set(self.function.parameters))
        if unknown:
            raise ConfigurationError(f"function {self.function.name} has no parameter for input {unknown[0]}")
        params = set(self.dag.params) if self.has_dag() else set()  # type: ignore[no-untyped-call]  # Airflow leaves it untyped
        self.inputs = given or tuple(
            name for name in self.function.parameters if name not in params | self.function.defaults
        )


class EnclaveTask:
    """`@task.enclave(...)`: a function that becomes a step of the DAG when it is called, without arguments.

    Args:
        function: what the enclave runs.
        options: of `TrustedPythonOperator`; the task_id is the function's name unless given.
    """

    def __init__(self, function: Callable[..., Any], *, options: Mapping[str, Any]) -> None:
        self.function = function
        self.options = dict(options)
        update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> TrustedPythonOperator:
        """Make the step.

        Raises:
            ConfigurationError: called with arguments: what passes through XCom is Airflow's to read.
        """
        name = self.function.__name__
        if args or kwargs:
            raise ConfigurationError(
                f"@task.enclave {name} is called with arguments; what it reads is sealed and never in an XCom",
                hint=f"call {name}() and name inputs and params of the DAG as its parameters",
            )
        return TrustedPythonOperator(**{"task_id": name, **self.options, "python_callable": self.function})

    def override(self, **options: Any) -> EnclaveTask:
        """The same function with other options."""
        return EnclaveTask(self.function, options={**self.options, **options})


def enclave_task(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`@task.enclave`: options as for `TrustedPythonOperator`."""
    if function is None:
        return lambda decorated: EnclaveTask(decorated, options=options)
    return EnclaveTask(function, options=options)


def _require_files(names: Sequence[str]) -> None:
    for name in names:
        if not name.endswith(".py"):
            raise ConfigurationError(f"file {name} is not a .py file")
