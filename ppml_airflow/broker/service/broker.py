"""The broker's parts, held together: domain, signing key, store, KMS, trust roots, collateral, clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ppml_airflow.attestation.collateral.source import CollateralSource
from ppml_airflow.attestation.roots import TrustRoot
from ppml_airflow.attestation.verifiers import Verifier
from ppml_airflow.broker.service.anchor import Anchor
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.broker.settings import ResourceSettings
from ppml_airflow.broker.store import Store
from ppml_airflow.domain.documents import Domain
from ppml_airflow.errors import ConfigurationError, UnavailableError
from ppml_airflow.keys.service import KeyManagementService
from ppml_airflow.provenance.notes import SignedHead
from ppml_airflow.signing import SigningKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """What every decision needs. The services in this package are functions of it.

    Raises:
        ConfigurationError: a trust root of hardware in a simulated domain, or the other way round.
    """

    domain: Domain
    signing_key: SigningKey = field(repr=False)
    store: Store
    kms: KeyManagementService
    dataset_keys: Path
    """Folder with the wrapped private half of each dataset key: `<serial>.wrapped`."""
    roots: tuple[TrustRoot, ...]
    collateral: CollateralSource
    verify: Verifier
    """Verifies quotes; ahead of decisions, so it may take its time."""
    clock: Callable[[], datetime]
    anchor: Anchor
    """Where the log's head is kept outside the store."""
    resources: Mapping[str, ResourceSettings] = field(default_factory=dict)
    """What stock clients of Trustee may read, by `repository/type/tag`: never a data key."""

    def __post_init__(self) -> None:
        for root in self.roots:
            if root.trust != self.domain.trust:
                raise ConfigurationError(
                    f"trust root {root.key_id[:16]} is {root.trust}, domain {self.domain.name} is {self.domain.trust}",
                    hint="a domain is simulated or hardware for ever; make another domain",
                )

    @contextmanager
    def decision(self) -> Iterator[Ledger]:
        """One transaction: everything that a decision reads and writes. What it logs is anchored before it is answered.

        Raises:
            VerificationError: the store has been rolled back behind the anchor.
        """
        with self.transaction() as ledger:
            size = ledger.log.size
            self.anchor.require_reached(size)
            yield ledger
            head = self.head_of(ledger) if ledger.log.size > size else None
        if head is not None:
            self.anchor.advance(head)

    @contextmanager
    def transaction(self) -> Iterator[Ledger]:
        """The store as one transaction sees it, wherever the anchor is; all of what it writes, or nothing."""
        with self.store.transaction() as connection:
            ledger = Ledger(connection, domain=self.domain, now=self.clock())
            yield ledger
            ledger.flush()

    def head_of(self, ledger: Ledger) -> SignedHead:
        """What a checkpoint of the log says now."""
        return SignedHead(domain_id=self.domain.domain_id, epoch=ledger.epoch, head=ledger.log.head())

    def wrapped_dataset_key(self, serial: str) -> bytes:
        """The wrapped private half of a dataset's key.

        Raises:
            UnavailableError: it does not lie here.
        """
        path = self.dataset_keys / f"{serial}.wrapped"
        try:
            return path.read_bytes()
        except OSError as error:
            raise UnavailableError(
                f"private half of dataset key {serial} cannot be read", code="dataset_key_missing"
            ) from error
