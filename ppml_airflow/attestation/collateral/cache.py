"""Collateral that is kept: one file per platform family, put there by a fetch or from a bundle, never unverified.

What replaces another must be signed by its vendor, of now, of the same platforms, and no older than anything seen. What
has expired stays until something newer comes: who judges by it is told that it has expired.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ppml_airflow import canonical
from ppml_airflow.attestation.collateral.memory import SeenFile, require_not_older
from ppml_airflow.attestation.collateral.statements import PlatformFamily, VerifiedCollateral, verify_collateral
from ppml_airflow.attestation.roots import TrustRoot
from ppml_airflow.canonical import Document
from ppml_airflow.errors import MalformedInputError, UnavailableError
from ppml_airflow.units import MIB, Instant, format_instant

MAX_BUNDLE_BYTES = 64 * MIB


class BundleEntry(Document, frozen=True, kw_only=True):
    """Collateral of one platform family, its JSON as text."""

    family: PlatformFamily
    collateral: str


class Bundle(Document, frozen=True, kw_only=True):
    """Collateral on its way to a machine without network. Signed by nobody but the vendors of what is in it."""

    version: int
    made: Instant
    entries: tuple[BundleEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateralCache:
    """A folder of verified collateral."""

    folder: Path
    roots: tuple[TrustRoot, ...]
    """The roots that count for what is stored."""
    seen: SeenFile

    def load(self, family: PlatformFamily) -> bytes:
        """The newest collateral of a family, expired or not.

        Raises:
            UnavailableError: there is none.
        """
        try:
            return self._path(family).read_bytes()
        except OSError as error:
            raise UnavailableError(
                f"no collateral of the platforms {family} is kept here",
                code="no_collateral",
                hint="ppml collateral fetch, or ppml collateral import",
            ) from error

    def fetched(self, family: PlatformFamily) -> datetime | None:
        """When the collateral of a family was stored."""
        try:
            return datetime.fromtimestamp(self._path(family).stat().st_mtime, UTC)
        except OSError:
            return None

    def families(self) -> Iterator[PlatformFamily]:
        """The families that have collateral here."""
        for path in sorted(self.folder.glob("*-*-*.json")):
            try:
                yield parse_family(path.stem)
            except MalformedInputError:
                continue  # somebody's own file

    def store(self, family: PlatformFamily, *, collateral: bytes, now: datetime) -> VerifiedCollateral:
        """Verify collateral and keep it instead of what is there; remember its numbers.

        Raises:
            MalformedInputError: it does not parse.
            VerificationError: not its vendor's, not of now, of other platforms, or older than what was seen.
        """
        verified = self._verify(family, collateral=collateral, now=now)
        self._write(family, collateral=collateral, verified=verified)
        return verified

    def export(self, *, now: datetime) -> bytes:
        """All collateral of this folder as a bundle."""
        entries = (BundleEntry(family=family, collateral=self.load(family).decode()) for family in self.families())
        return canonical.encode(Bundle(version=1, made=format_instant(now), entries=tuple(entries)))

    def import_(self, bundle: bytes, *, now: datetime) -> tuple[PlatformFamily, ...]:
        """Keep everything in a bundle, or nothing of it.

        Raises:
            MalformedInputError: no bundle, or collateral in it that does not parse.
            VerificationError: collateral in it that `store` refuses.
        """
        read = canonical.decode(bundle, into=Bundle, max_bytes=MAX_BUNDLE_BYTES)
        if read.version != 1:
            raise MalformedInputError(f"bundle has version {read.version}, wanted 1")
        entries = [(one.family, one.collateral.encode()) for one in read.entries]
        if len({family for family, _ in entries}) != len(entries):
            raise MalformedInputError("bundle has collateral of one platform family twice")
        verified = [self._verify(family, collateral=text, now=now) for family, text in entries]
        for (family, text), good in zip(entries, verified, strict=True):
            self._write(family, collateral=text, verified=good)
        return tuple(family for family, _ in entries)

    def _verify(self, family: PlatformFamily, *, collateral: bytes, now: datetime) -> VerifiedCollateral:
        verified = verify_collateral(collateral, family=family, roots=self.roots, now=now)
        seen = self.seen.highest(family, root=verified.root_key_id)
        require_not_older(verified.numbers, seen=seen)
        return verified

    def _write(self, family: PlatformFamily, *, collateral: bytes, verified: VerifiedCollateral) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(family)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_bytes(collateral)
        partial.replace(path)
        self.seen.remember(family, root=verified.root_key_id, numbers=verified.numbers)

    def _path(self, family: PlatformFamily) -> Path:
        return self.folder / f"{family}.json"


def parse_family(text: str) -> PlatformFamily:
    """Read `sgx-00a067110000-processor`.

    Raises:
        MalformedInputError: it is not such a name.
    """
    tee, _, rest = text.partition("-")
    fmspc, _, ca = rest.partition("-")
    return canonical.convert({"tee": tee, "fmspc": fmspc.lower(), "ca": ca}, into=PlatformFamily)
