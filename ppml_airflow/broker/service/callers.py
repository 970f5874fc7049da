"""Who may ask for runs: callers with a token scoped to pipelines. A token opens no gate and yields no key.

`tokens.json`: `{"<sha256 of the token, hex>": {"name": "airflow", "pipelines": ["nightly_analytics"]}}`; `*` means all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from ppml_airflow.canonical import Document
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from ppml_airflow.units import Name

TokenHash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


class Caller(Document, frozen=True, kw_only=True):
    """A client of the broker, Airflow usually, and the pipelines that it may run."""

    name: Name
    pipelines: tuple[str, ...]

    def may_run(self, pipeline: str) -> bool:
        """Whether this caller's token names a pipeline."""
        return pipeline in self.pipelines or "*" in self.pipelines

    def require_scope(self, pipeline: str) -> None:
        """Refuse a pipeline that this caller's token does not name.

        Raises:
            PolicyDeniedError: out of scope.
        """
        if not self.may_run(pipeline):
            raise PolicyDeniedError(f"caller {self.name} may not run {pipeline}", code="out_of_scope")


def load_callers(path: Path) -> Mapping[TokenHash, Caller]:
    """Read `tokens.json`.

    Raises:
        ConfigurationError: no such file, or not of that form.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[TokenHash, Caller])
    except OSError as error:
        raise ConfigurationError(f"token file {path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"token file {path} is malformed: {error}") from error


def hash_token(token: str) -> TokenHash:
    """What `tokens.json` calls a token by. Tokens are 256 random bits, so a plain hash hides them."""
    return hashlib.sha256(token.encode()).hexdigest()


def find_caller(callers: Mapping[TokenHash, Caller], *, authorization: str | None) -> Caller:
    """The caller of an `Authorization: Bearer` header.

    Raises:
        PolicyDeniedError: no token, or an unknown one.
    """
    scheme, _, token = (authorization or "").partition(" ")
    caller = callers.get(hash_token(token)) if scheme == "Bearer" and token else None
    if caller is None:
        raise PolicyDeniedError(
            "caller has no valid token", code="token_unknown", hint="put the broker's token into the connection"
        )
    return caller
