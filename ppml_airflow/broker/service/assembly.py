"""Puts a broker together from the files that `broker.yaml` names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from ppml_airflow import canonical
from ppml_airflow.attestation.collateral.cache import CollateralCache
from ppml_airflow.attestation.collateral.memory import SeenFile
from ppml_airflow.attestation.collateral.service import CollateralService
from ppml_airflow.attestation.collateral.source import CachedCollateral, CollateralSource, OneCollateral
from ppml_airflow.attestation.roots import INTEL_ROOT, TrustRoot
from ppml_airflow.attestation.verifiers import VerifierPool
from ppml_airflow.broker.service.anchor import Anchor
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.issuing import RELEASE_KEK
from ppml_airflow.broker.settings import BrokerSettings
from ppml_airflow.broker.store import Store
from ppml_airflow.domain.documents import Domain
from ppml_airflow.errors import ConfigurationError, UnavailableError
from ppml_airflow.keys.keystore import KeystoreFile
from ppml_airflow.signing import SigningKey


def build_broker(settings: BrokerSettings) -> Broker:
    """Put the broker together from its files.

    Raises:
        ConfigurationError: a file is missing or wrong, or roots and domain do not match.
    """
    domain = canonical.decode(_read(settings.domain), into=Domain)
    keystore = KeystoreFile.load(settings.keystore, passphrase=_read(settings.passphrase).strip())
    try:
        keystore.create_key(RELEASE_KEK)
    except ConfigurationError as error:
        if error.code != "key_exists":
            raise
    roots = tuple(TrustRoot(_read(path)) for path in settings.tee_roots)
    if not roots and domain.trust == "hardware":
        roots = (INTEL_ROOT,)

    signing_key = SigningKey.load(settings.signing_key)
    return Broker(
        domain=domain,
        signing_key=signing_key,
        store=Store.open(settings.database),
        kms=keystore,
        dataset_keys=settings.dataset_keys,
        roots=roots,
        collateral=_collateral(settings, roots=roots),
        verify=VerifierPool.of_all_cores(),
        clock=lambda: datetime.now(UTC),
        anchor=Anchor(settings.anchor, key=signing_key),
        resources=settings.resources,
    )


def _collateral(settings: BrokerSettings, *, roots: tuple[TrustRoot, ...]) -> CollateralSource:
    chosen = settings.collateral_service
    if chosen is None and not settings.collateral.is_dir():

        def read() -> bytes:
            try:
                return settings.collateral.read_bytes()
            except OSError as error:
                raise UnavailableError(
                    f"collateral {settings.collateral} cannot be read", code="no_collateral"
                ) from error

        return OneCollateral(read=read)
    service = CollateralService(url=chosen.url, ca_file=chosen.ca_file) if chosen else None
    hours = chosen.refresh_hours if chosen else 24
    folder = settings.collateral
    cache = CollateralCache(folder=folder, roots=roots, seen=SeenFile(folder / "seen.json"))
    return CachedCollateral(cache=cache, service=service, refresh_after=timedelta(hours=hours))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"file {path} cannot be read: {error.strerror}") from error
