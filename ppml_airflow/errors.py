"""The one error tree. Each class says who can fix what went wrong.

    PpmlError
    ├── ConfigurationError      the DAG author or operator: wrong usage, files, settings      exit 2
    ├── MalformedInputError     the sender: bytes that do not parse                           exit 1
    ├── VerificationError       nobody: stop and keep the evidence                            exit 1
    ├── PolicyDeniedError       the data owner: a rule said no                                exit 1
    └── UnavailableError        time: the only error that is worth another try                exit 3

A message is lower case, subject first, says what it got and what it wanted, and never holds a secret or a value of
the data. What to do next goes in `hint`. `code` is a stable word for programs.
"""

from __future__ import annotations


class PpmlError(Exception):
    """Anything this project refuses to do.

    Args:
        message: what was wrong: subject, got, want.
        code: a stable word for programs, such as `gate_missing`.
        hint: what to do next, in one sentence.
    """

    default_code = "error"
    exit_code = 1

    def __init__(self, message: str, *, code: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigurationError(PpmlError):
    """Wrong usage, file or setting: the DAG author or the operator can fix it."""

    default_code = "configuration"
    exit_code = 2


class MalformedInputError(PpmlError):
    """Bytes that are not what they claim to be: the sender must send others."""

    default_code = "malformed"


class VerificationError(PpmlError):
    """Something is not authentic, not fresh or not whole. Nobody can fix it: stop, keep the evidence."""

    default_code = "not_authentic"


class PolicyDeniedError(PpmlError):
    """Authentic, but not allowed by the owner's rules."""

    default_code = "denied"


class UnavailableError(PpmlError):
    """Something did not answer. The only retryable error."""

    default_code = "unavailable"
    exit_code = 3


BY_KIND: dict[str, type[PpmlError]] = {
    kind.__name__: kind
    for kind in (ConfigurationError, MalformedInputError, VerificationError, PolicyDeniedError, UnavailableError)
}
"""Error classes by name, to carry an error over a wire and raise it again on the other side."""
