"""The highest numbers of collateral that were ever verified here, so that older collateral is refused for good.

Whoever brings collateral can choose among all that its vendor ever signed and that has not expired: without a memory he
would show last month's, in which a hole is not known yet. Numbers are remembered only of collateral that verified: what
is merely claimed would lock out what is true.

Kept in one file. Processes that share the file share what they saw; a restored file has forgotten.
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


class SeenNumbers(Document, frozen=True, kw_only=True):
    """Highest numbers: of evaluation by root, TEE and FMSPC; of lists by root and CA, and by root."""

    evaluation: Mapping[str, int]
    pck_crl: Mapping[str, int]
    root_crl: Mapping[str, int]

    def highest(self, family: PlatformFamily, *, root: RootKeyId) -> CollateralNumbers:
        """What collateral of these platforms must reach."""
        return CollateralNumbers(
            evaluation=self.evaluation.get(f"{root}/{family.tee}/{family.fmspc}", 0),
            pck_crl=self.pck_crl.get(f"{root}/{family.ca}", 0),
            root_crl=self.root_crl.get(root, 0),
        )

    def raised(self, family: PlatformFamily, *, root: RootKeyId, numbers: CollateralNumbers) -> SeenNumbers:
        """These numbers, and those of collateral that verified."""
        before = self.highest(family, root=root)
        return SeenNumbers(
            evaluation={
                **self.evaluation,
                f"{root}/{family.tee}/{family.fmspc}": max(before.evaluation, numbers.evaluation),
            },
            pck_crl={**self.pck_crl, f"{root}/{family.ca}": max(before.pck_crl, numbers.pck_crl)},
            root_crl={**self.root_crl, root: max(before.root_crl, numbers.root_crl)},
        )


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
        self._known: tuple[tuple[int, int, int] | None, SeenNumbers] = (None, _EMPTY)

    def load(self) -> SeenNumbers:
        """What was seen so far; read anew only if the file changed."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return _EMPTY
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self._known[0] != stamp:
            try:
                self._known = (stamp, canonical.decode(self._path.read_bytes(), into=SeenNumbers))
            except (OSError, MalformedInputError) as error:
                raise ConfigurationError(
                    f"memory of collateral {self._path} cannot be read: {error}",
                    hint="restore it; if it is lost, remove it and import the newest collateral before anything else",
                ) from error
        return self._known[1]

    def remember(self, family: PlatformFamily, *, root: RootKeyId, numbers: CollateralNumbers) -> None:
        """Raise what was seen, by numbers of collateral that verified. Writes only if something rises."""
        if self.load().raised(family, root=root, numbers=numbers) == self.load():
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            raised = self.load().raised(family, root=root, numbers=numbers)
            partial = self._path.with_suffix(".partial")
            with partial.open("wb") as file:
                file.write(canonical.encode(raised))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


_EMPTY = SeenNumbers(evaluation={}, pck_crl={}, root_crl={})
