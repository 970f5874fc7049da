"""What the author of a job in Python imports, whatever the engine.

    from ppml_airflow.workloads.job_api import params, table, write

    OUTPUTS = {"report": {"plan": "string", "visits": "bigint"}}

    visits = table("visits").to_pandas()
    report = visits[visits["day"] >= params["since"]].groupby("plan", as_index=False)["visits"].sum()
    write("report", report)

`table` reads an input that is a table, `files` and `read_file` one that is a folder of files; `write` and `save_file`
write outputs; `disclose` offers a count that the approval lets out. In a set `gather` and `broadcast` bring bytes to
its first member and from it. Contents go through memory, never through a disk.

Works only inside a job that a guest started. It lies in engines' own environments too: the standard library alone, and
the syntax of Python 3.9.
"""

from __future__ import annotations

import base64
import inspect
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_HOME = Path.cwd()
"""The private directory: the guest starts a job there."""
_DESCRIPTION = _HOME / "conf" / "job.json"
_WORDS = (("MemoryError", "out_of_memory"), ("ArrowMemoryError", "out_of_memory"), ("ArrowInvalid", "cast_error"))


class RefusedError(Exception):
    """The guest refused: not an input or output of this job, written before, or another number or shape than fixed.

    Args:
        message: what was refused.
        code: the word for it.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class _Params(Mapping[str, Any]):
    """The params of this run by name, each of its declared type."""

    def __getitem__(self, name: str) -> int | str | bool | Decimal | date:
        literal = description()["params"][name]
        value: int | str | bool = literal["value"]
        if literal["type"] == "date":
            return date.fromisoformat(str(value))
        return Decimal(str(value)) if literal["type"] == "decimal" else value

    def __iter__(self) -> Iterator[str]:
        return iter(description()["params"])

    def __len__(self) -> int:
        return len(description()["params"])


params = _Params()


def files(dataset: str) -> tuple[str, ...]:
    """Names of the files of an input."""
    answer, _ = ask({"op": "open", "dataset": dataset})
    return tuple(answer["files"])


def read_file(dataset: str, name: str) -> bytes:
    """Content of one file of an input."""
    answer, descriptor = ask({"op": "open", "dataset": dataset, "file": name})
    return _content(answer["size"], descriptor)


def table(dataset: str) -> pa.Table:
    """An input as a table, without a copy."""
    import pyarrow as pa

    _, descriptor = ask({"op": "table", "dataset": dataset})
    with os.fdopen(_held(descriptor), "rb") as file:
        mapped = pa.memory_map(f"/proc/self/fd/{file.fileno()}", "r")
        return pa.ipc.open_stream(mapped).read_all()


def write(dataset: str, rows: pa.Table | pd.DataFrame) -> None:
    """Write an output that is a table, once, with the declared columns in their order.

    Raises:
        RefusedError: not an output, written before, or other columns than declared.
    """
    import pyarrow as pa

    schemas = description().get("schemas", {})
    if dataset not in schemas:
        raise RefusedError(f"{dataset} is not a table that this job writes: {sorted(schemas)}", code="not_granted")
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(schemas[dataset])))
    names = rows.column_names if isinstance(rows, pa.Table) else [str(name) for name in rows.columns]
    if names != schema.names:
        raise RefusedError(f"output {dataset} has columns {names}; declared are {schema.names}", code="output_mismatch")
    if not isinstance(rows, pa.Table):
        rows = pa.Table.from_pandas(rows, schema=schema, preserve_index=False)
    with _created(dataset, None) as file, pa.ipc.new_stream(file, schema) as stream:
        stream.write_table(rows.cast(schema))


def save_file(dataset: str, name: str, data: bytes) -> None:
    """Write one file of an output that is a folder, once.

    Raises:
        RefusedError: not such an output, written before, one more than its number, or a bad name.
    """
    with _created(dataset, name) as file:
        file.write(data)


def disclose(name: str, value: int) -> None:
    """Offer a count for disclosure; it leaves only if the approval names it, within its bounds."""
    ask({"op": "disclose", "name": name, "value": int(value)})


def members() -> int:
    """How many enclaves do this job together; 1 = no set."""
    count: int = description().get("members", 1)
    return count


def member() -> int:
    """Which of them this one is, from 0. The first leads: it alone writes outputs."""
    index: int = description().get("index", 0)
    return index


def gather(data: bytes) -> list[bytes]:
    """Bring the bytes of all members to the leader, which gets them in order; the others get nothing.

    All members call `gather` and `broadcast` in the same order.
    """
    turn = _next_turn()
    if member():
        _post(data, turn=turn)
        return []
    return [data, *(_hear(turn=turn, sender=sender) for sender in range(1, members()))]


def broadcast(data: bytes = b"") -> bytes:
    """Bring the leader's bytes to all members; what the others give is not looked at.

    All members call `gather` and `broadcast` in the same order.
    """
    turn = _next_turn()
    if member():
        return _hear(turn=turn, sender=0)
    if members() > 1:
        _post(data, turn=turn)
    return data


def run_function(function: Callable[..., Any]) -> None:
    """Call a function with the inputs and params that its parameters name, and write what it returns.

    A table is a pandas data frame, a folder `{name: bytes}`. One output is returned as it is, several as
    `{dataset: output}`; None if it has written them itself. Of a set, what the leader returns is written.
    """
    arguments = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in params:
            arguments[name] = params[name]
        elif parameter.default is parameter.empty or name in description()["inputs"]:
            arguments[name] = _input(name)
    found = function(**arguments)
    if found is None or member():
        return
    outputs = description()["outputs"]
    for dataset, output in ({outputs[0]: found} if len(outputs) == 1 else found).items():
        if isinstance(output, Mapping):
            for name, data in output.items():
                save_file(dataset, name, data)
        else:
            write(dataset, output)


# ---------------------------------------------------------------- for the APIs of engines


@cache
def description() -> Mapping[str, Any]:
    """What the guest says of this job: no secret.

    Raises:
        RefusedError: this is no job.
    """
    try:
        described: Mapping[str, Any] = json.loads(_DESCRIPTION.read_text())
    except FileNotFoundError as error:
        raise RefusedError("this program runs only as a job of a guest", code="no_guest") from error
    return described


def ask(message: Mapping[str, object]) -> tuple[Mapping[str, Any], int | None]:
    """Ask the guest; return its answer, and the descriptor that came with it, which the caller closes.

    Raises:
        RefusedError: refused, or no answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        folder = os.open(_HOME, os.O_PATH | os.O_DIRECTORY)  # the address of a Unix socket has at most 108 bytes
        try:
            channel.connect(f"/proc/self/fd/{folder}/guest.sock")
        finally:
            os.close(folder)
        channel.sendall(json.dumps(message).encode() + b"\n")
        line, descriptors = b"", []
        while not line.endswith(b"\n"):
            received, found, _, _ = socket.recv_fds(channel, 65536, 1)
            descriptors += found
            line += received
            if not received:
                raise RefusedError("the guest gave no answer", code="no_guest")
    answer: Mapping[str, Any] = json.loads(line)
    if "refused" in answer:
        raise RefusedError(f"the guest refused {message}: {answer['refused']}", code=answer["refused"])
    return answer, descriptors[0] if descriptors else None


def tell_failure(code: str) -> None:
    """Say one word of how this job failed; the guest takes only words that it knows."""
    ask({"op": "failed", "code": code})


def tell_last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Of an error that nobody caught: the text goes to the log, and one word, if there is one, to the guest."""
    sys.__excepthook__(kind, error, trace)
    if isinstance(error, RefusedError):
        tell_failure(error.code)
    for name, word in _WORDS:
        if name in [ancestor.__name__ for ancestor in kind.__mro__]:
            tell_failure(word)
            return


# ---------------------------------------------------------------- inside


_turns = [0]


def _next_turn() -> int:
    _turns[0] += 1
    return _turns[0] - 1


def _post(data: bytes, *, turn: int) -> None:
    answer, descriptor = ask({"op": "mail"})
    with os.fdopen(_held(descriptor), "wb") as file:
        file.write(data)
    ask({"op": "post", "mail": answer["mail"], "turn": turn})


def _hear(*, turn: int, sender: int) -> bytes:
    answer, descriptor = ask({"op": "hear", "turn": turn, "sender": sender})
    return _content(answer["size"], descriptor)


def _content(size: int, descriptor: int | None) -> bytes:
    content = bytearray()
    with os.fdopen(_held(descriptor), "rb", buffering=0) as file:
        while len(content) < size:
            content += os.pread(file.fileno(), size - len(content), len(content))
    return bytes(content)


def _input(name: str) -> Any:
    if description()["inputs"].get(name) == "files":
        return {file: read_file(name, file) for file in files(name)}
    return table(name).to_pandas()


def _created(dataset: str, name: str | None) -> Any:
    message = {"op": "create", "dataset": dataset}
    _, descriptor = ask(message if name is None else {**message, "file": name})
    return os.fdopen(_held(descriptor), "wb")


def _held(descriptor: int | None) -> int:
    if descriptor is None:
        raise RefusedError("the guest sent no descriptor", code="no_guest")
    return descriptor


if _DESCRIPTION.exists():
    sys.excepthook = tell_last_words
