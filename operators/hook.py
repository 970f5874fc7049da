"""The connection `ppml`: the broker, the agents, the storage and the runtimes that operators talk to.

`host` is the broker's address (http://, https:// or unix:/path), `password` its token; the rest are extras:
`storage`, `quoting` (socket), `owner_agent`, `recipient_agent`, `passports`, `runtime` (where enclaves run whose step
does not say it, `process` by default), and `patience_s` (how long a service that does not answer is waited for, 300 by
default). None of them is a key, a policy or a measurement.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from ppml_airflow.errors import ConfigurationError, PpmlError, UnavailableError
from ppml_airflow.protocol.client import BrokerClient, JsonClient
from ppml_airflow.units import spell_trust

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from ppml_airflow.enclaves.runtimes.docker import DockerRuntime
    from ppml_airflow.enclaves.runtimes.process import ProcessRuntime

DEFAULT_PATIENCE_S = 300.0
_NO_RUN = "0" * 32


class PpmlHook(BaseHook):
    """What one `ppml` connection leads to."""

    conn_name_attr = "ppml_conn_id"
    default_conn_name = "ppml_default"
    conn_type = "ppml"
    hook_name = "PPML key broker"

    def __init__(self, ppml_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.ppml_conn_id = ppml_conn_id

    @cached_property
    def connection(self) -> Connection:
        """The connection, fetched once."""
        return self.get_connection(self.ppml_conn_id)

    @property
    def broker_url(self) -> str:
        """The broker's address."""
        return self.connection.host or self._missing("host (the broker's address)")

    @property
    def token(self) -> str | None:
        """The token that names Airflow to the broker."""
        return self.connection.password

    @property
    def storage(self) -> str:
        """The folder of sealed datasets."""
        return str(Path(self._extra("storage")).expanduser())

    @property
    def passports(self) -> Path:
        """The folder of passports."""
        return Path(self._extra("passports")).expanduser()

    @property
    def patience_s(self) -> float:
        """How long a service that does not answer is waited for, in seconds."""
        patience = self.connection.extra_dejson.get("patience_s") or DEFAULT_PATIENCE_S
        try:
            return float(patience)
        except ValueError as error:
            raise ConfigurationError(f"patience_s of {self.ppml_conn_id} is not a number of seconds") from error

    def broker(self, *, timeout_s: float = 30.0) -> BrokerClient:
        """A client of the broker; close it after use."""
        return BrokerClient(self.broker_url, token=self.token, timeout_s=timeout_s)

    def agent(self, name: str) -> JsonClient:
        """A client of an agent: `owner` is at the extra `owner_agent`; close it after use."""
        return JsonClient(self._extra(f"{name}_agent"))

    @property
    def quoting(self) -> str:
        """The socket of the quoting service."""
        return self._extra("quoting")

    def runtime(self, name: str | None = None, *, image: str, members: int = 1) -> ProcessRuntime | DockerRuntime:
        """The runtime that starts enclaves of an image: of this name, else the connection's.

        Raises:
            ConfigurationError: there is no runtime of that name, or it cannot start that image.
        """
        from ppml_airflow.enclaves.runtimes.registry import find_runtime, require_supported

        chosen = name or str(self.connection.extra_dejson.get("runtime") or "process")
        require_supported(image, runtime=chosen, members=members)
        return find_runtime(chosen, socket_path=Path(self.quoting))

    def test_connection(self) -> tuple[bool, str]:
        """Ask broker, token, agents, storage and quoting service, as the form's Test button does."""
        try:
            with self.broker(timeout_s=5.0) as broker:
                health = broker.health()
                self._check_token(broker)
            found = [f"broker answers, trust: {spell_trust(health.get('trust', 'unknown'))}, token accepted"]
            found += [self._check_service(name) for name in ("owner_agent", "recipient_agent", "quoting", "storage")]
        except PpmlError as error:
            return False, str(error)
        return True, "; ".join(line for line in found if line)

    def _check_token(self, broker: BrokerClient) -> None:
        """Ask for a step that cannot be: the answer says whether the token is known."""
        try:
            broker.status(_NO_RUN, "none")
        except PpmlError as error:
            if error.code == "token_unknown" or isinstance(error, UnavailableError):
                raise

    def _check_service(self, extra: str) -> str:
        value = str(self.connection.extra_dejson.get(extra) or "")
        if value.startswith(("http://", "https://", "unix:")):
            with JsonClient(value, timeout_s=5.0) as client:
                client.call("GET", "/v1/health", into=dict[str, Any])
        elif value and not os.access(Path(value).expanduser(), os.R_OK):
            raise UnavailableError(f"{extra} {value} is not there", hint="is the service running?")
        return f"{extra} ok" if value else ""

    def _extra(self, name: str) -> str:
        return str(self.connection.extra_dejson.get(name) or "") or self._missing(f"extra {name}")

    def _missing(self, what: str) -> str:
        raise ConfigurationError(
            f"connection {self.ppml_conn_id} has no {what}", hint="Admin > Connections, or AIRFLOW_CONN_PPML_DEFAULT"
        )
