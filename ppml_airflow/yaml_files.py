"""YAML files that people write, read into a pydantic model; every error names the line and the field.

Refuses: anything but plain YAML, a field twice, unknown fields, files above 1 MiB.
Source: YAML 1.1 as PyYAML's safe loader reads it.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.units import MIB

M = TypeVar("M", bound=BaseModel)


class InvalidFileError(ConfigurationError):
    """A file that is YAML and not what it should be. `problems` are its mistakes: `agent.yaml:7: seals.visits: ...`."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def load_yaml(path: Path, *, into: type[M]) -> M:
    """Read a YAML file into a model.

    Raises:
        ConfigurationError: no such file, or `parse_yaml` refuses it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text") from error
    return parse_yaml(text, into=into, name=str(path))


def parse_yaml(text: str, *, into: type[M], name: str) -> M:
    """Read YAML text into a model. `name` is what errors call it: `agent.yaml:7: seals.visits.source: ...`.

    Raises:
        ConfigurationError: too long or not YAML.
        InvalidFileError: not YAML at a line, a field twice, or a field that is unknown, missing or of a wrong type.
    """
    if len(text) > MIB:
        raise ConfigurationError(f"{name} has {len(text)} characters; at most {MIB} are read")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _refuse_duplicates(node, name=name, seen=set())
        value: Any = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidFileError((f"{name}:{line}: not YAML: {error.problem or error.context}",)) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{name} is not YAML: {type(error).__name__}") from error
    try:
        return into.model_validate({} if value is None else value)
    except ValidationError as error:
        found = sorted(error.errors(), key=lambda problem: _line(node, path=problem["loc"]))
        problems = tuple(_problem(problem, node=node, name=name, model=into) for problem in found)
        raise InvalidFileError(problems) from error


def _problem(problem: Any, *, node: yaml.Node | None, name: str, model: type[BaseModel]) -> str:
    field = ".".join(str(part) for part in problem["loc"]) or "file"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message += _nearest(problem["loc"], model=model)
    return f"{name}:{_line(node, path=problem['loc'])}: {field}: {message[:1].lower()}{message[1:]}"


def _nearest(path: tuple[int | str, ...], *, model: type[BaseModel]) -> str:
    """What an unknown field may have meant."""
    *outer, misspelt = path
    kind: Any = model
    for part in outer:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(part))
            kind = field.annotation if field is not None else None
        else:
            kind = next(reversed(get_args(kind)), None)  # of a list or a mapping: what it holds
        if type(None) in get_args(kind):
            kind = get_args(kind)[0]  # of an optional field
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return ""  # one of several models: which was meant is not known
    near = difflib.get_close_matches(str(misspelt), kind.model_fields, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _line(node: yaml.Node | None, *, path: tuple[int | str, ...]) -> int:
    """The line of the deepest node on the path that the file has."""
    line = 1 if node is None else node.start_mark.line + 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def _refuse_duplicates(node: yaml.Node, *, name: str, seen: set[int]) -> None:
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if key.value in keys:
                raise InvalidFileError((f"{name}:{key.start_mark.line + 1}: {key.value}: written twice",))
            keys.add(key.value)
            _refuse_duplicates(value, name=name, seen=seen)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicates(value, name=name, seen=seen)
