"""Ending attempts: a lease is void, the output versions that it had reserved are free again."""

from __future__ import annotations

import sqlalchemy as sa

from ppml_airflow.broker import store
from ppml_airflow.broker.service.ledger import Ledger


def end_open_attempts(ledger: Ledger, *, run_id: str, step: str | None, outcome: str) -> None:
    """End what is open: its lease is void, its reserved versions are free again."""
    table = store.attempt
    for row in ledger.attempts(run_id, step):
        if row.outcome == "open":
            ledger.connection.execute(sa.update(table).where(table.c.id == row.id).values(outcome=outcome))
            free_reservations(ledger, lease_id=row.lease_id)


def free_reservations(ledger: Ledger, *, lease_id: str) -> None:
    """Free the output versions that a lease had reserved."""
    ledger.connection.execute(sa.delete(store.reservation).where(store.reservation.c.lease_id == lease_id))
