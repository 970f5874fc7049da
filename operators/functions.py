"""A Python function of a DAG file as a program of its own, which can be approved: its source, and nothing around it.

The enclave has no DAG file. So the function may use what it is called with, what it imports itself, and builtins; what
would silently be something else there is refused when the DAG is parsed: names of the DAG file, closures, defaults
that are computed, lambdas.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import symtable
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppml_airflow.errors import ConfigurationError

_PROGRAM = '''\
"""The function {name}, as it stands in {file}."""

from __future__ import annotations

INPUTS = {inputs}
OUTPUTS = {outputs}


{source}


if __name__ == "__main__":
    from ppml_airflow.workloads.job_api import run_function

    run_function({name})
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSource:
    """A function by its text."""

    name: str
    file: str
    source: str
    parameters: tuple[str, ...]
    defaults: frozenset[str]
    """The parameters that have one."""

    def program(self, *, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> bytes:
        """The program that calls it; the same bytes for the same source, inputs and outputs.

        Args:
            inputs: as a program declares them (`workloads.declared_inputs`).
            outputs: as a program declares them (`workloads.programs`).
        """
        declared = {"inputs": inputs, "outputs": outputs}
        return _PROGRAM.format(name=self.name, file=self.file, source=self.source, **declared).encode()


def source_of(function: Callable[..., Any]) -> FunctionSource:
    """Read the source of a function and refuse one that would not be itself in another file.

    Raises:
        ConfigurationError: says what it uses, and what to do instead.
    """
    name = getattr(function, "__name__", "")
    if not inspect.isfunction(function) or name == "<lambda>":
        raise _refused(name or repr(function), "is no function written with def", hint="write def NAME(...)")
    try:
        lines = textwrap.dedent(inspect.getsource(function)).splitlines()
        tree = ast.parse("\n".join(lines)).body[0]
    except (OSError, SyntaxError) as error:
        raise _refused(name, "has no source that stands for itself", hint="write it in a file, as a def") from error
    if not isinstance(tree, ast.FunctionDef) or inspect.isgeneratorfunction(function):
        raise _refused(name, "is asynchronous or a generator", hint="write an ordinary def that returns its outputs")
    source = "\n".join(lines[tree.lineno - 1 : tree.end_lineno])
    if function.__closure__:
        raise _refused(name, f"uses {', '.join(function.__code__.co_freevars)} of the function around it", hint=_INSIDE)
    _require_own_names(name, source=source)
    return FunctionSource(
        name=name,
        file=Path(function.__code__.co_filename).name,
        source=source,
        parameters=tuple(_parameters(name, tree=tree)),
        defaults=frozenset(_defaults(name, tree=tree)),
    )


_INSIDE = "import or define it inside the function, or make it a param of the DAG"


def _refused(name: str, why: str, *, hint: str) -> ConfigurationError:
    return ConfigurationError(f"function {name} {why}", code="function_refused", hint=hint)


def _require_own_names(name: str, *, source: str) -> None:
    """Refuse names of the DAG file: the enclave has none of them."""
    module = symtable.symtable(f"from __future__ import annotations\n{source}", name, "exec")
    foreign = {found for scope in module.get_children() for found in _global_names(scope)} - {name}
    foreign -= set(dir(builtins))
    if foreign:
        raise _refused(name, f"uses {', '.join(sorted(foreign))} of the DAG file", hint=_INSIDE)


def _global_names(scope: symtable.SymbolTable) -> Iterator[str]:
    for symbol in scope.get_symbols():
        if symbol.is_global() and symbol.is_referenced():
            yield symbol.get_name()
    for inner in scope.get_children():
        yield from _global_names(inner)


def _parameters(name: str, *, tree: ast.FunctionDef) -> list[str]:
    arguments = tree.args
    if arguments.vararg or arguments.kwarg or arguments.posonlyargs:
        raise _refused(name, "takes *args, **kwargs or positional-only parameters", hint="name each input and param")
    return [argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)]


def _defaults(name: str, *, tree: ast.FunctionDef) -> Iterator[str]:
    """Names of the parameters with a default, each of which must be a literal."""
    arguments = tree.args
    last = arguments.args[len(arguments.args) - len(arguments.defaults) :]
    pairs = [
        *zip(last, arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    for argument, default in pairs:
        if default is None:
            continue
        try:
            ast.literal_eval(default)
        except ValueError as error:
            raise _refused(name, f"computes the default of {argument.arg}", hint="write a literal") from error
        yield argument.arg
