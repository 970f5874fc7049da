"""The guest's end of the socket handed over at its start: launches come over it, and quotes are asked for.

Read by a thread of its own, because in a long-lived guest a renewal may want a quote while the next launch is awaited.
"""

from __future__ import annotations

import queue
import threading

from ppml_airflow.errors import PpmlError, UnavailableError
from ppml_airflow.protocol.launches import FromService, LineSocket, QuoteAnswer, QuoteRequest
from ppml_airflow.protocol.messages import LaunchRequest

_Inbox = queue.SimpleQueue[LaunchRequest | QuoteAnswer | PpmlError | None]


class Channel:
    """What the quoting service says to this guest."""

    def __init__(self, lines: LineSocket) -> None:
        self._lines = lines
        self._launches: _Inbox = queue.SimpleQueue()
        self._answers: _Inbox = queue.SimpleQueue()
        self._quoting = threading.Lock()
        threading.Thread(target=self._read, name="channel-reader", daemon=True).start()

    def next_launch(self) -> LaunchRequest | None:
        """Wait for the next launch; None when the service has gone.

        Raises:
            MalformedInputError: the service said something else.
        """
        message = _take(self._launches)
        return message if isinstance(message, LaunchRequest) else None

    def quote(self, report_data: bytes) -> bytes:
        """A quote of this guest over 64 bytes of report data. Safe from several threads.

        Raises:
            UnavailableError: the service has gone.
        """
        with self._quoting:
            self._lines.send(QuoteRequest(report_data=report_data))
            answer = _take(self._answers)
        if not isinstance(answer, QuoteAnswer):
            raise UnavailableError("the quoting service is gone", code="service_gone")
        return answer.quote

    def _read(self) -> None:
        end: PpmlError | None = None
        try:
            while (message := self._lines.receive(FromService)) is not None:
                inbox = self._answers if isinstance(message, QuoteAnswer) else self._launches
                inbox.put(message)
        except PpmlError as error:
            end = error
        self._launches.put(end)
        self._answers.put(end)


def _take(inbox: _Inbox) -> LaunchRequest | QuoteAnswer | None:
    """The next message. The end, and what broke the connection, are found again by whoever asks again."""
    message = inbox.get()
    if message is None or isinstance(message, PpmlError):
        inbox.put(message)
    if isinstance(message, PpmlError):
        raise message
    return message
