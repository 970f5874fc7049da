"""What runtime, quoting service and guest say to each other on one machine: JSON lines over a Unix socket.

    runtime -> service   LaunchRequest          then silence: closing the connection ends the guest; or, if watched,
                                                -> WatchStarted, and the guest lives while its watch is renewed;
                                                or, if it opens a session, then LaunchRequests, each when the one
                                                before was answered
    anybody -> service   WatchRequest           -> WatchAnswer; knows the guest by the watch's random id
    service -> guest     LaunchRequest          the same bytes; to a container with the paths as they are inside
    guest   -> service   QuoteRequest           -> QuoteAnswer, for the measurement of that guest only
    guest   -> runtime   GuestEvent ...         through the service, which decodes and forwards
    guest   -> runtime   GuestResult | GuestProblem, the last line; within a session one for each launch

No message has a field for a measurement, and unknown fields are refused: nobody can ask for another's quote.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta

from ppml_airflow import canonical
from ppml_airflow.canonical import MAX_DOCUMENT_BYTES, Document
from ppml_airflow.errors import BY_KIND, MalformedInputError, PpmlError, UnavailableError
from ppml_airflow.protocol.messages import LaunchRequest, Published
from ppml_airflow.units import Digest, HexId

T = TypeVar("T")
Word = Annotated[str, Meta(pattern=r"^([a-z][a-z0-9_]{0,40})?$(?!\n)")]
"""A word of a closed vocabulary, or nothing."""

GuestState = Literal[
    "measuring",
    "starting",
    "verifying",
    "preparing",
    "attesting",
    "granted",
    "leased",
    "running",
    "sealing",
    "committed",
    "ended",
]


class QuoteRequest(Document, tag_field="type", tag="quote", frozen=True, kw_only=True):
    """A guest asks for its own quote over these 64 bytes."""

    report_data: Annotated[bytes, Meta(min_length=64, max_length=64)]


class QuoteAnswer(Document, tag_field="type", tag="quoted", frozen=True, kw_only=True):
    """The quote, made with the measurement that the service took when it started the guest."""

    quote: bytes


class GuestEvent(Document, tag_field="type", tag="event", frozen=True, kw_only=True):
    """How far a guest is: all that leaves it while it runs."""

    state: GuestState
    code: Word = ""
    stage: Word = ""
    percent: Annotated[int, Meta(ge=0, le=100)] = 0


class GuestResult(Document, tag_field="type", tag="result", frozen=True, kw_only=True):
    """How a guest ended well: a gate's grant, a committed job, or a member's part of one that its leader commits.

    Of a long-lived guest also that its session is open (`serving`).
    """

    state: Literal["granted", "committed", "ended", "serving"]
    code: Word
    """`already_committed` if an earlier attempt had done the step, else empty."""
    attempt: int
    lease_id: HexId | None
    receipt: Digest | None
    outputs: tuple[Published, ...]


class GuestProblem(Document, tag_field="type", tag="problem", frozen=True, kw_only=True):
    """How a guest ended badly: an error of the one tree, by the name of its class."""

    kind: str
    code: str
    detail: str
    hint: str

    @classmethod
    def of(cls, error: PpmlError) -> GuestProblem:
        """Write an error for the wire."""
        return cls(kind=type(error).__name__, code=error.code, detail=error.message, hint=error.hint)

    def error(self) -> PpmlError:
        """The error, of the class that it had on the other side."""
        return BY_KIND.get(self.kind, PpmlError)(self.detail, code=self.code, hint=self.hint)


class WatchStarted(Document, tag_field="type", tag="watched", frozen=True, kw_only=True):
    """The guest is being started. Whoever knows this id renews its watch, or ends it."""

    watch_id: HexId


class WatchRequest(Document, tag_field="type", tag="watch", frozen=True, kw_only=True):
    """Renew a watch, or end its guest."""

    watch_id: HexId
    seen: Annotated[int, Meta(ge=0)]
    """How many events the asker has had."""
    end: bool = False


class WatchAnswer(Document, tag_field="type", tag="watching", frozen=True, kw_only=True):
    """What a watched guest has said since, and how it ended; null while it runs."""

    events: tuple[GuestEvent, ...]
    last: GuestResult | GuestProblem | None


FromService = LaunchRequest | QuoteAnswer
FromGuest = QuoteRequest | GuestEvent | GuestResult | GuestProblem
ToService = LaunchRequest | WatchRequest
ToRuntime = GuestEvent | GuestResult | GuestProblem | WatchStarted | WatchAnswer


class LineSocket:
    """One canonical document per line over a stream socket. Sending is safe from several threads, receiving is not."""

    def __init__(self, connection: socket.socket, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> None:
        self.connection = connection
        self._max_bytes = max_bytes
        self._sending = threading.Lock()
        self._buffer = bytearray()

    def send(self, document: object) -> None:
        """Send one document.

        Raises:
            UnavailableError: the other side is gone.
        """
        self.send_line(canonical.encode(document))

    def send_line(self, line: bytes) -> None:
        """Send one encoded document."""
        try:
            with self._sending:
                self.connection.sendall(line + b"\n")
        except OSError as error:
            raise UnavailableError("the other side of the launch socket is gone", code="socket_closed") from error

    def receive(self, into: Any) -> Any:
        """The next document, or None at the end.

        Raises:
            MalformedInputError: too long, cut off, or not such a document.
        """
        line = self.receive_line()
        return None if line is None else canonical.decode(line, into=into)

    def receive_line(self) -> bytes | None:
        """The next line without its end, or None at the end.

        Raises:
            MalformedInputError: longer than allowed, or the stream ends within a line.
        """
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > self._max_bytes:
                raise MalformedInputError(f"a line of the launch socket is longer than {self._max_bytes} bytes")
            try:
                received = self.connection.recv(1 << 20)
            except OSError:
                received = b""
            if not received:
                if self._buffer:
                    raise MalformedInputError("the launch socket ended within a line")
                return None
            self._buffer += received
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def close(self) -> None:
        """Close the socket; a receiver in another thread sees the end."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()
