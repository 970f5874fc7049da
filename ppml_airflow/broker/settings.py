"""The broker's configuration file, `broker.yaml`. Relative paths are relative to the file."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import pydantic

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.protocol.peers import UserNumbers
from ppml_airflow.yaml_files import load_yaml


class CollateralServiceSettings(pydantic.BaseModel):
    """Where collateral is fetched, over verified TLS."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    url: str
    """https address of a caching service (PCCS), or Intel's `https://api.trustedservices.intel.com`."""
    ca_file: Path | None = None
    """PEM of the only CA that may have certified it; absent: those that this machine trusts."""
    refresh_hours: Annotated[int, pydantic.Field(ge=1, le=24 * 20)] = 24
    """Fetched anew after so long; it lives 30 days."""


class TlsSettings(pydantic.BaseModel):
    """The broker's own certificate."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    certificate: Path
    """PEM, the broker's first, then the CAs between it and the root."""
    key: Path
    """PEM, without a passphrase; 0600."""


ResourcePath = Annotated[
    str, pydantic.Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*){2}$")
]
"""`repository/type/tag`, in the characters that Trustee takes."""


class ResourceSettings(pydantic.BaseModel):
    """What stock clients of Trustee may read, if the policy in force accepts their evidence as that image."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    file: Path
    """The content, read at each request."""
    policy: str
    image: str


class BrokerSettings(pydantic.BaseModel):
    """Where the broker listens and finds what it needs. No secret stands in it, only paths to secrets."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    listen: tuple[str, ...]
    """`https://host:port`, `http://127.0.0.1:8650` or `unix:/path/to/socket`; several are served at once."""
    socket_users: tuple[UserNumbers, ...] = ()
    """Who may connect to a Unix socket beside the broker's own user and root: `"1000"`, `"1000-1999"`."""
    tls: TlsSettings | None = None
    """Needed for `https://`."""
    requests_per_second: pydantic.PositiveInt = 500
    """How often one peer may ask; whoever comes over a Unix socket is one peer."""
    audit_log: Path
    """Who asked for what with which outcome, a line of JSON each, without secrets."""
    domain: Path
    """domain.json of the owners."""
    signing_key: Path
    database: str
    """Path of an SQLite file, or `postgresql://user@host/name?passfile=/path`, which several instances may share."""
    anchor: Path
    """File with the log's newest signed head; better on another disk than the database."""
    keystore: Path
    passphrase: Path
    """0600 file with the keystore's passphrase."""
    dataset_keys: Path
    tokens: Path
    tee_roots: tuple[Path, ...]
    """DER certificates; none in a hardware domain means Intel's compiled-in root."""
    collateral: Path
    """A file: collateral for every quote. A folder: that of `ppml collateral`, or where what is fetched is kept."""
    collateral_service: CollateralServiceSettings | None = None
    """Absent: nothing is fetched; the file is replaced, or the folder filled, by others."""
    resources: dict[ResourcePath, ResourceSettings] = {}
    """For stock clients of Trustee; none: they are refused."""


def load_settings(path: Path) -> BrokerSettings:
    """Read `broker.yaml`.

    Raises:
        ConfigurationError: no such file, not YAML, or a field that is missing, unknown or wrong.
    """
    settings = load_yaml(path, into=BrokerSettings)
    _require_private(settings)
    settings = settings.model_copy(update=_absolute(settings, base=path.resolve().parent))
    _require_no_secret_of_ours(settings)
    return settings


def _require_private(settings: BrokerSettings) -> None:
    """Tokens pass no network in the clear."""
    for address in settings.listen:
        if address.startswith("http://") and not _is_loopback(urlsplit(address).hostname or ""):
            raise ConfigurationError(
                f"address {address} would be served without TLS", hint="write https:// and set tls"
            )
        if address.startswith("https://") and settings.tls is None:
            raise ConfigurationError(f"address {address} needs a certificate", hint="set tls: certificate, key")


def _require_no_secret_of_ours(settings: BrokerSettings) -> None:
    """No resource is a file that the broker keeps its own secrets in, wrapped keys of datasets among them."""
    kept = [settings.signing_key, settings.keystore, settings.passphrase, settings.tokens, settings.anchor]
    kept += [settings.tls.key] if settings.tls else []
    kept += [Path(settings.database)] if "://" not in settings.database else []
    secrets, folder = {path.resolve() for path in kept}, settings.dataset_keys.resolve()
    for name, resource in settings.resources.items():
        file = resource.file.resolve()
        if file in secrets or file.is_relative_to(folder):
            raise ConfigurationError(
                f"resource {name} is {file}, which the broker keeps for itself", hint="mark a file of its own"
            )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _absolute(settings: BrokerSettings, *, base: Path) -> dict[str, object]:
    absolute: dict[str, object] = {name: base / value for name, value in settings if isinstance(value, Path)}
    if "://" not in settings.database:
        absolute["database"] = str(base / settings.database)
    service = settings.collateral_service
    if service is not None and service.ca_file is not None:
        absolute["collateral_service"] = service.model_copy(update={"ca_file": base / service.ca_file})
    if settings.tls is not None:
        absolute["tls"] = TlsSettings(certificate=base / settings.tls.certificate, key=base / settings.tls.key)
    absolute["resources"] = {
        name: resource.model_copy(update={"file": base / resource.file})
        for name, resource in settings.resources.items()
    }
    absolute["tee_roots"] = tuple(base / root for root in settings.tee_roots)
    return absolute
