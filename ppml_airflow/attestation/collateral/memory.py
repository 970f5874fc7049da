"""The highest numbers of collateral that were ever verified here, so that older collateral is refused for good.

Whoever brings collateral can choose among all that its vendor ever signed and that has not expired: without a memory he
would show last month's, in which a hole is not known yet. Numbers are remembered only of collateral that verified: what
is merely claimed would lock out what is true.

A cache keeps them in a file beside it, a broker in its store.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ppml_airflow import canonical
from ppml_airflow.attestation.collateral.statements import PlatformFamily
from ppml_airflow.attestation.roots import RootKeyId
from ppml_airflow.attestation.verification import CollateralNumbers
from ppml_airflow.canonical import Document
from ppml_airflow.errors import ConfigurationError, MalformedInputError, VerificationError


def names_of(family: PlatformFamily, *, root: RootKeyId) -> tuple[str, str, str]:
    """What the numbers of a family's collateral are kept under, in their order: evaluation, PCK list, root's list.

    A list is its CA's and the root's, so whoever saw it for one platform saw it for all.
    """
    return f"evaluation/{root}/{family.tee}/{family.fmspc}", f"pck_crl/{root}/{family.ca}", f"root_crl/{root}"


def highest_of(seen: Mapping[str, int], *, names: tuple[str, str, str]) -> CollateralNumbers:
    """What collateral must reach, by the numbers that were seen."""
    evaluation, pck_crl, root_crl = (seen.get(name, 0) for name in names)
    return CollateralNumbers(evaluation=evaluation, pck_crl=pck_crl, root_crl=root_crl)


def raised_by(numbers: CollateralNumbers, *, seen: Mapping[str, int], names: tuple[str, str, str]) -> dict[str, int]:
    """The names whose number rises by collateral that verified, with their new number."""
    now = dict(zip(names, (numbers.evaluation, numbers.pck_crl, numbers.root_crl), strict=True))
    return {name: number for name, number in now.items() if number > seen.get(name, 0)}


class SeenNumbers(Document, frozen=True, kw_only=True):
    """Highest numbers by name."""

    numbers: Mapping[str, int]


def require_not_older(numbers: CollateralNumbers, *, seen: CollateralNumbers) -> None:
    """Pass only collateral that is as new as what was seen.

    Raises:
        VerificationError: it is older.
    """
    if numbers.is_below(seen):
        raise VerificationError(
            f"collateral has {numbers}; seen were {seen}",
            code="collateral_rollback",
            hint="fetch fresh collateral for this platform",
        )


class SeenFile:
    """`SeenNumbers` in a file, which another process may use at the same time.

    Raises:
        ConfigurationError: the file is there and cannot be read; nothing is assumed in its place.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def highest(self, family: PlatformFamily, *, root: RootKeyId) -> CollateralNumbers:
        """What collateral of these platforms must reach."""
        return highest_of(self._load(), names=names_of(family, root=root))

    def remember(self, family: PlatformFamily, *, root: RootKeyId, numbers: CollateralNumbers) -> None:
        """Raise what was seen, by numbers of collateral that verified. Writes only if something rises."""
        names = names_of(family, root=root)
        if not raised_by(numbers, seen=self._load(), names=names):
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            seen = self._load()
            raised = SeenNumbers(numbers={**seen, **raised_by(numbers, seen=seen, names=names)})
            partial = self._path.with_suffix(".partial")
            with partial.open("wb") as file:
                file.write(canonical.encode(raised))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)

    def _load(self) -> Mapping[str, int]:
        try:
            return canonical.decode(self._path.read_bytes(), into=SeenNumbers).numbers
        except FileNotFoundError:
            return {}
        except (OSError, MalformedInputError) as error:
            raise ConfigurationError(
                f"memory of collateral {self._path} cannot be read: {error}",
                hint="restore it; if it is lost, remove it and import the newest collateral before anything else",
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
