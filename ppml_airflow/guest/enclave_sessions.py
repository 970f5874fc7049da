"""An enclave that is to live longer than one job: attests as a session, renews by fresh evidence, ends when that fails.

A session brings no key: each job within it makes its own K and E, attests afresh and gets a lease as any other. An
enclave has no clock that it could trust; it counts from before it asked, by its own steady one, which a host that
pauses it can delay.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ppml_airflow import canonical
from ppml_airflow.domain.documents import EnclaveSession, SessionScope
from ppml_airflow.domain.trust import Certificates, verify_broker_document
from ppml_airflow.errors import PpmlError, UnavailableError, VerificationError
from ppml_airflow.guest.identity import Identity, Quoter, show_evidence
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.protocol.messages import AskSession
from ppml_airflow.units import Name, parse_instant

_RETRY_S = 5.0


def attest_session(
    identity: Identity,
    *,
    scope: SessionScope,
    pipeline: Name,
    broker: BrokerClient,
    quoter: Quoter,
    certificates: Certificates,
) -> EnclaveSession:
    """Open a session, or renew it: the same binding, shown with a new nonce and a new quote.

    Args:
        identity: `make_session_identity(scope)`; the same for as long as the enclave lives.
        scope: what it is there for, from an approval that was verified under the measured domain.
        pipeline: of that approval.
        broker: where to ask.
        quoter: of this guest.
        certificates: the owners', verified.

    Raises:
        VerificationError: not answered by a certified broker, or for another enclave or step.
        PpmlError: what the broker answered with.
    """
    _, signature = show_evidence(identity, broker=broker, quoter=quoter)
    request = AskSession(binding=identity.binding, signature=signature, pipeline=pipeline, step=scope.step)
    envelope = broker.enclave_session(request)
    issued = parse_instant(canonical.decode(envelope.payload, into=EnclaveSession).issued)
    session = verify_broker_document(envelope, into=EnclaveSession, certificates=certificates, now=issued)
    if (session.binding, session.scope) != (identity.digest, canonical.digest(scope)):
        raise VerificationError("session is of another enclave or step", code="other_enclave_session")
    return session


class Renewal:
    """Keeps a session while entered.

    Args:
        renew: shows fresh evidence; `attest_session` of this enclave.
        end: called once, from another thread, when a renewal was refused or is missed: ends the enclave.
        share: after which part of a session's life it is renewed.

    Attributes:
        session: the newest.
    """

    session: EnclaveSession

    def __init__(self, renew: Callable[[], EnclaveSession], *, end: Callable[[], None], share: float = 0.5) -> None:
        self._renew = renew
        self._end = end
        self._share = share
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="renewal", daemon=True)

    def __enter__(self) -> Self:
        """Open the session.

        Raises:
            PpmlError: refused.
        """
        self._open()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _open(self) -> None:
        asked = time.monotonic()
        self.session = self._renew()
        self._lifetime = (parse_instant(self.session.expires) - parse_instant(self.session.issued)).total_seconds()
        self._next, self._deadline = asked + self._share * self._lifetime, asked + self._lifetime

    def _keep(self) -> None:
        while not self._is_over.wait(max(0.0, min(self._next, self._deadline) - time.monotonic())):
            if time.monotonic() >= self._deadline or not self._is_renewed():
                self._end()
                return

    def _is_renewed(self) -> bool:
        """A broker that does not answer ends nothing before the session does; one that says no ends it at once."""
        try:
            self._open()
        except UnavailableError:
            self._next = time.monotonic() + min(_RETRY_S, self._share * self._lifetime)
        except PpmlError:
            return False
        return True
