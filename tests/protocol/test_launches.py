from __future__ import annotations

import socket
import threading

import pytest

from ppml_airflow import canonical
from ppml_airflow.errors import MalformedInputError, PolicyDeniedError, PpmlError, UnavailableError
from ppml_airflow.protocol.launches import FromGuest, GuestEvent, GuestProblem, LineSocket, QuoteRequest, ToRuntime


def sockets(*, max_bytes: int = 1000) -> tuple[socket.socket, LineSocket]:
    ours, theirs = socket.socketpair()
    return ours, LineSocket(theirs, max_bytes=max_bytes)


def test_documents_come_out_as_they_went_in_whatever_the_pieces() -> None:
    raw, lines = sockets()
    events = [GuestEvent(state="running", percent=percent) for percent in (1, 2, 3)]
    data = b"".join(canonical.encode(event) + b"\n" for event in events)

    def trickle() -> None:
        for byte in data:
            raw.send(bytes([byte]))
        raw.close()

    threading.Thread(target=trickle).start()
    assert [lines.receive(ToRuntime) for _ in events] == events
    assert lines.receive(ToRuntime) is None


def test_a_line_without_an_end_is_refused() -> None:
    raw, lines = sockets()
    raw.sendall(b'{"type":')
    raw.close()
    with pytest.raises(MalformedInputError, match="ended within a line"):
        lines.receive(ToRuntime)


def test_a_line_that_is_too_long_is_refused_before_it_is_whole() -> None:
    raw, lines = sockets(max_bytes=10)
    raw.sendall(b"x" * 100)
    with pytest.raises(MalformedInputError, match="longer than 10 bytes"):
        lines.receive_line()


def test_a_receiver_that_is_gone_is_unavailable() -> None:
    raw, lines = sockets()
    raw.close()
    with pytest.raises(UnavailableError):
        lines.send(GuestEvent(state="running"))


@pytest.mark.parametrize("length", [0, 63, 65])
def test_report_data_of_another_length_is_refused(length: int) -> None:
    data = canonical.encode({"type": "quote", "report_data": b"x" * length})
    with pytest.raises(MalformedInputError):
        canonical.decode(data, into=FromGuest)  # type: ignore[arg-type]


def test_a_quote_request_that_names_a_measurement_is_refused() -> None:
    data = canonical.encode({"type": "quote", "report_data": b"x" * 64, "measurement": "00"})
    with pytest.raises(MalformedInputError):
        canonical.decode(data, into=FromGuest)  # type: ignore[arg-type]
    assert "measurement" not in QuoteRequest.__struct_fields__


@pytest.mark.parametrize("code", ["The row of Smith", "a" * 50, "UPPER", "7"])
def test_a_code_that_is_no_word_is_refused(code: str) -> None:
    event = {"type": "event", "state": "running", "code": code, "stage": "", "percent": 0}
    with pytest.raises(MalformedInputError):
        canonical.decode(canonical.encode(event), into=ToRuntime)  # type: ignore[arg-type]


def test_an_error_crosses_with_class_code_and_hint() -> None:
    error = GuestProblem.of(PolicyDeniedError("no", code="denied_here", hint="ask")).error()
    assert type(error) is PolicyDeniedError
    assert (error.message, error.code, error.hint) == ("no", "denied_here", "ask")


def test_an_error_of_an_unknown_class_is_a_plain_one() -> None:
    assert type(GuestProblem(kind="KeyError", code="x", detail="y", hint="").error()) is PpmlError
