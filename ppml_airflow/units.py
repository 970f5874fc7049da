"""The scalar types that documents are made of: digests, names, instants, trust, sizes.

Datetimes are aware and in UTC; naive ones are refused. On the wire an instant is a string of whole seconds,
`2026-11-23T01:02:03Z` (RFC 3339), so that its canonical form is unique.

Patterns end in `$(?!\\n)`: a bare `$` also matches before a line feed at the end, which would give a name two forms.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from msgspec import Meta

from ppml_airflow.errors import MalformedInputError

Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$(?!\n)")]
"""SHA-256, written `sha256:` and 64 lower-case hex digits."""

Name = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,99}$(?!\n)")]
"""A name of a pipeline, step, dataset, image, policy or holder of a key. Safe as the name of a folder."""

HexId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
"""128 random bits, 32 lower-case hex digits: ids of runs and leases, serials of certificates."""

_INSTANT = r"[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z"
Instant = Annotated[str, Meta(pattern=rf"^{_INSTANT}$(?!\n)")]
"""A moment in UTC, whole seconds, RFC 3339 with `Z`."""

RelativePath = Annotated[
    str, Meta(pattern=r"^(?!.*(^|/)\.{1,2}(/|$))[A-Za-z0-9_.=-]+(/[A-Za-z0-9_.=-]+)*$(?!\n)", max_length=400)
]
"""A relative path without `.` or `..` parts, forward slashes."""

Trust = Literal["hardware", "simulated"]
"""What a domain, and evidence, rests on. One never passes for the other."""

KIB = 1024
MIB = 1024 * KIB
_IS_INSTANT = re.compile(_INSTANT).fullmatch


def format_instant(moment: datetime) -> Instant:
    """Write an aware datetime as an `Instant`, cutting fractions of a second.

    Raises:
        MalformedInputError: the datetime is naive.
    """
    if moment.tzinfo is None:
        raise MalformedInputError(f"datetime {moment.isoformat()} has no time zone; wanted an aware one")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_instant(text: str) -> datetime:
    """Read an `Instant`.

    Raises:
        MalformedInputError: the text is not `YYYY-MM-DDTHH:MM:SSZ`.
    """
    try:
        if not _IS_INSTANT(text):
            raise ValueError
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise MalformedInputError(f"instant {text[:40]!r} is not of the form YYYY-MM-DDTHH:MM:SSZ") from error


def spell_trust(trust: Trust) -> str:
    """How trust is written wherever a person reads a verdict: nobody overlooks SIMULATED."""
    return "SIMULATED" if trust == "simulated" else trust
