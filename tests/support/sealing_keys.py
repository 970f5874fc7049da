"""A certified key without a domain: what sealing reads of a certificate."""

from __future__ import annotations

from dataclasses import dataclass

from ppml_airflow.signing import PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldKey:
    """A `DatasetKey` and a `Recipient`."""

    serial: str
    key: PublicKey
    kek_id: str = ""
