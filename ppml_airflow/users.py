"""Users of their own: one for each party of an installation that root started, and one for each of its guests.

They are numbers, not accounts: nothing is entered in the machine's own list of users. An installation has a block of
1024 of them, chosen by its domain, in a range that Linux distributions, container engines and systemd leave alone
(0x70000000 to 0x7fffffff). Each has a group of the same number; the block's first number is the group of those who may
write to the storage.

Source: systemd, docs/UIDS-GIDS.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ppml_airflow.units import Digest

PASSWD = "run/passwd"  # noqa: S105 - a file
"""Where their names lie, below PPML_HOME."""

_FIRST, _BLOCK, _BLOCKS = 0x7000_0000, 1024, 1 << 18
_PARTIES = ("broker", "airflow", "owner-agent", "model_owner-agent", "recipient-agent")
_FIRST_GUEST = 16


@dataclass(frozen=True, slots=True)
class Users:
    """The users of one installation.

    Args:
        base: the first of their numbers.
    """

    base: int

    @classmethod
    def of_domain(cls, domain_id: Digest) -> Self:
        """Those of an installation, the same wherever its folder lies."""
        return cls(_FIRST + _BLOCK * (int(domain_id.removeprefix("sha256:")[:12], 16) % _BLOCKS))

    @property
    def storage_group(self) -> int:
        """The group of agents and guests, who write sealed datasets."""
        return self.base

    def of(self, party: str) -> int:
        """The user, and the group, of `broker`, `airflow` or an agent such as `owner-agent`."""
        return self.base + 1 + _PARTIES.index(party)

    @property
    def parties(self) -> dict[str, int]:
        """Every party with its user."""
        return {party: self.of(party) for party in _PARTIES}

    @property
    def everybody(self) -> range:
        """All of them, guests included."""
        return range(self.base, self.base + _BLOCK)

    @property
    def guests(self) -> range:
        """The users of guests: one for each that runs."""
        return range(self.base + _FIRST_GUEST, self.base + _BLOCK)

    def passwd(self) -> bytes:
        """These users, and root, as a passwd(5) file: Java and Airflow ask there for the name of who runs them."""
        named = {f"ppml-{party}": number for party, number in self.parties.items()}
        named |= {f"ppml-guest-{number - self.base}": number for number in self.guests}
        lines = ["root:x:0:0:root:/root:/bin/sh"]
        lines += [f"{name}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin" for name, number in named.items()]
        return "".join(f"{line}\n" for line in lines).encode()
