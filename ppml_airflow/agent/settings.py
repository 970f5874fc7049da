"""The agent's own file, `agent.yaml`: who it is, whom it asks, and its map of names.

The map is the agent's whole authority: an operator sends a name and a run, the map says what the name means, and
nothing outside it is done (attack: payroll sealed under a lenient dataset). The domain is pinned here, by file, never
learnt from the broker. Relative paths are relative to the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Domain, ParamValue
from ppml_airflow.errors import ConfigurationError, MalformedInputError
from ppml_airflow.protocol.client import endpoint
from ppml_airflow.protocol.peers import UserNumbers, parse_users
from ppml_airflow.sealing.columns import simple_type
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.sealing.wrapping import SealingKey
from ppml_airflow.signing import SigningKey
from ppml_airflow.units import KIB
from ppml_airflow.yaml_files import load_yaml

_Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,99}$")]
_Pipelines = Annotated[list[_Name], Field(min_length=1)]
_PARAM = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PART_OF_A_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What "seal NAME" means: this source as that dataset, for runs of these pipelines."""

    name: str
    source: Path
    """`{name}` in it stands for the run's param of that name: see `source_of`."""
    dataset: str
    pipelines: frozenset[str]
    columns: tuple[Column, ...]
    """Columns that the source must have, with their types; a CSV column that is not listed gets an inferred type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What "deliver NAME" means: that output into this sink, for runs of these pipelines."""

    name: str
    dataset: str
    pipelines: frozenset[str]
    sink: Path
    is_folder: bool
    """Whether the sink is a folder, for an output of files; else it is a table's file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything an agent knows before it is asked anything."""

    agent: str
    listen: str
    socket_users: tuple[range, ...]
    """Who may connect to a Unix socket beside the agent's own user and root."""
    broker: str
    token: str = field(repr=False)
    """By which the broker knows the agent, and for which pipelines."""
    domain: Domain
    storage: Path
    state: Path
    """The agent's own folder, beside its file: the journal of unfinished seals, and the lock."""
    producer: SigningKey | None = field(repr=False)
    recipient: SealingKey | None = field(repr=False)
    seals: Mapping[str, Seal]
    delivers: Mapping[str, Delivery]


def _column_type(text: str) -> str:
    if simple_type(text) is None:
        raise ValueError(f"{text[:40]!r} is not a type such as string, int64, double, bool, date32[day]")
    return text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _SealEntry(_Strict):
    source: _Text
    dataset: _Name
    pipelines: _Pipelines
    columns: dict[_Text, Annotated[str, AfterValidator(_column_type)]] = {}


class _DeliverEntry(_Strict):
    dataset: _Name
    pipelines: _Pipelines
    sink: Annotated[str, Field(pattern=r"[^/](\.parquet|\.csv|/)$")]


class _AgentFile(_Strict):
    agent: _Name
    listen: Annotated[str, Field(pattern=r"^(unix:.+|http://[^/:]+:\d{1,5})$")]
    socket_users: list[UserNumbers] = []
    broker: _Text
    token_file: _Text
    domain: _Text
    storage: _Text
    producer_key: _Text | None = None
    recipient_key: _Text | None = None
    seals: dict[_Name, _SealEntry] = {}
    delivers: dict[_Name, _DeliverEntry] = {}

    @model_validator(mode="after")
    def _consistent(self) -> _AgentFile:
        if self.seals and self.producer_key is None:
            raise ValueError("seals need a producer_key")
        if self.delivers and self.recipient_key is None:
            raise ValueError("delivers need a recipient_key")
        if len({entry.sink for entry in self.delivers.values()}) != len(self.delivers):
            raise ValueError("two delivers share a sink")
        sealed = [(entry.dataset, pipeline) for entry in self.seals.values() for pipeline in entry.pipelines]
        if len(set(sealed)) != len(sealed):
            raise ValueError("two seals give one pipeline the same dataset")
        return self


def load_settings(path: Path) -> Settings:
    """Read an agent's file, the domain and the keys that it names.

    Raises:
        ConfigurationError: a field is wrong (with its line), or a file it names cannot be read.
    """
    file = load_yaml(path, into=_AgentFile)
    folder = path.resolve().parent
    broker = _address(file.broker, folder=folder)
    endpoint(broker)
    return Settings(
        agent=file.agent,
        listen=_address(file.listen, folder=folder),
        socket_users=parse_users(file.socket_users),
        broker=broker,
        token=_load_token(folder / file.token_file),
        domain=_load_domain(folder / file.domain),
        storage=folder / file.storage,
        state=folder / "state",
        producer=SigningKey.load(folder / file.producer_key) if file.producer_key else None,
        recipient=SealingKey.load(folder / file.recipient_key) if file.recipient_key else None,
        seals={
            name: Seal(
                name=name,
                source=folder / entry.source,
                dataset=entry.dataset,
                pipelines=frozenset(entry.pipelines),
                columns=tuple(Column(name=column, type=text) for column, text in entry.columns.items()),
            )
            for name, entry in file.seals.items()
        },
        delivers={
            name: Delivery(
                name=name,
                dataset=entry.dataset,
                pipelines=frozenset(entry.pipelines),
                sink=folder / entry.sink,
                is_folder=entry.sink.endswith("/"),
            )
            for name, entry in file.delivers.items()
        },
    )


def source_of(entry: Seal, *, params: Mapping[str, ParamValue]) -> Path:
    """The source for a run with these params: each `{name}` in its path is replaced by the param of that name.

    A value takes the place of a part of a file name and never of a folder's way: nothing with a slash or a leading dot
    (attack: a param that climbs out of what the owner wrote in his map).

    Raises:
        ConfigurationError: the run has no such param, its value cannot be part of a name, or nothing is there.
    """

    def value_of(match: re.Match[str]) -> str:
        value = str(params.get(match[1], ""))
        if not _PART_OF_A_NAME.fullmatch(value):
            raise ConfigurationError(
                f"source of {entry.name} wants param {match[1]} as part of its path; the run has {value[:60]!r}",
                code="source_param",
                hint="letters, digits and -_. make a part of a file name",
            )
        return value

    source = Path(_PARAM.sub(value_of, str(entry.source)))
    if source != entry.source and not source.exists():
        raise ConfigurationError(
            f"source {source} is not there for the params of this run",
            code="source_missing",
            hint=f"its owner makes it; or choose other params than {', '.join(_PARAM.findall(str(entry.source)))}",
        )
    return source


def _address(address: str, *, folder: Path) -> str:
    return f"unix:{folder / address.removeprefix('unix:')}" if address.startswith("unix:") else address


def _load_token(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"token {path} cannot be read: {type(error).__name__}",
            hint="the holder of the broker lists the agent in its tokens file and gives its token",
        ) from error
    if not token.isascii() or not token.isprintable() or not token:
        raise ConfigurationError(f"token {path} is empty or no line of printable ASCII")
    return token


def _load_domain(path: Path) -> Domain:
    try:
        return canonical.decode(path.read_bytes(), into=Domain, max_bytes=256 * KIB)
    except OSError as error:
        raise ConfigurationError(f"domain {path} cannot be read: {error.strerror}") from error
    except MalformedInputError as error:
        raise ConfigurationError(f"domain {path} is refused: {error.message}") from error
