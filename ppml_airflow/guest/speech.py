"""What a guest says, in two phases: full sentences before the lease, after it only words of a closed vocabulary.

After the lease every text is a constant of this module, chosen by the code of an error. An error whose code is not
listed becomes `guest_failed`: mapped by allow-list, never by redaction, because a message could quote a row.

Source: the trust protocol, rule 7.
"""

from __future__ import annotations

from collections.abc import Callable

from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, PpmlError, UnavailableError, VerificationError
from ppml_airflow.protocol.launches import GuestEvent, GuestProblem, GuestState
from ppml_airflow.workloads.vocabulary import MEANING

_LOG_HINT = "the sealed log says more: ppml logs RUN"
_LIMIT_HINT = "ask the owner to approve higher limits for the step, or let the job need less"

_OUTCOMES: dict[str, tuple[type[PpmlError], str, str]] = {
    "job_failed": (ConfigurationError, MEANING["job_failed"], _LOG_HINT),
    "cast_error": (ConfigurationError, MEANING["cast_error"], _LOG_HINT),
    "input_mismatch": (ConfigurationError, MEANING["input_mismatch"], _LOG_HINT),
    "output_mismatch": (ConfigurationError, MEANING["output_mismatch"], _LOG_HINT),
    "model_mismatch": (ConfigurationError, MEANING["model_mismatch"], _LOG_HINT),
    "out_of_memory": (ConfigurationError, MEANING["out_of_memory"], _LIMIT_HINT),
    "limit_time": (ConfigurationError, MEANING["limit_time"], _LIMIT_HINT),
    "input_corrupt": (VerificationError, MEANING["input_corrupt"], "keep the storage as it is and look who changed it"),
    "cancelled": (PolicyDeniedError, MEANING["cancelled"], ""),
    "guest_failed": (PpmlError, "the guest failed after its lease", _LOG_HINT),
}

_CLOSED: dict[str, tuple[type[PpmlError], str, str]] = _OUTCOMES | {
    "lease_cancelled": (PolicyDeniedError, "the step was cancelled", ""),
    "lease_fenced": (PolicyDeniedError, "another attempt has taken the place of this one", ""),
    "lease_expired": (PolicyDeniedError, "the lease expired before the job was committed", _LIMIT_HINT),
    "lease_closed": (PolicyDeniedError, "the run was closed before the job was committed", ""),
    "lease_revoked": (PolicyDeniedError, "what the lease stands on was revoked", "the owners know what and why"),
    "broker_unavailable": (UnavailableError, "the broker did not take the receipt in time", "try again"),
    "commit_refused": (VerificationError, "the broker refused the receipt", _LOG_HINT),
}


def spoken_error(code: str) -> PpmlError:
    """The error that a code of the closed vocabulary stands for; `guest_failed` for any other."""
    known = code if code in _CLOSED else "guest_failed"
    kind, message, hint = _CLOSED[known]
    return kind(message, code=known, hint=hint)


def outcome_code(code: str) -> str:
    """The outcome that a receipt names: `ok`, or a word of the closed vocabulary."""
    return code if code == "ok" or code in _OUTCOMES else "guest_failed"


class Speech:
    """Everything that leaves the guest while it runs, and how it ends badly."""

    def __init__(self, send: Callable[[GuestEvent], None]) -> None:
        self._send = send
        self._is_closed = False
        self._percent = 0

    def close(self) -> None:
        """From now on the guest holds a secret."""
        self._is_closed = True

    def tell(self, state: GuestState, *, percent: int = 0) -> None:
        """Say how far the guest is."""
        self._send(GuestEvent(state=state, percent=percent))

    def tell_progress(self, percent: int) -> None:
        """Say the per cent of input that has been opened; never less than before, each only once."""
        percent = max(0, min(100, percent))
        if percent > self._percent:
            self._percent = percent
            self.tell("running", percent=percent)

    def problem(self, error: BaseException) -> GuestProblem:
        """How the guest ends badly: in full before the lease, by allow-list after it."""
        if self._is_closed:
            return GuestProblem.of(spoken_error(getattr(error, "code", "")))
        if isinstance(error, PpmlError):
            return GuestProblem.of(error)
        return GuestProblem.of(PpmlError(f"the guest failed: {type(error).__name__}: {error}", code="guest_failed"))
