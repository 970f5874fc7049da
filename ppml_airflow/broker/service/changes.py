"""Which runs may stand elsewhere than when a client last asked: one question for all gates that it waits for."""

from __future__ import annotations

import sqlalchemy as sa

from ppml_airflow.broker import store
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.callers import Caller
from ppml_airflow.protocol.messages import Changes

MOST_RUNS = 1000
"""Runs that one answer names; where there are more, it says `everything`."""


def changes(broker: Broker, *, since: int, caller: Caller) -> Changes:
    """What changed after a number that was answered before, or `since` 0, as far as the caller may see it."""
    table, run = store.changed, store.run
    with broker.decision() as ledger:
        connection = ledger.connection
        newest = connection.execute(sa.select(sa.func.max(table.c.number))).scalar_one() or 0
        if newest == since:
            return Changes(number=newest, runs=(), everything=False)
        query = sa.select(table.c.run_id, run.c.pipeline).join_from(
            table, run, table.c.run_id == run.c.run_id, isouter=True
        )
        found = connection.execute(query.where(table.c.number > since).limit(MOST_RUNS + 1)).all()
    runs = tuple(row.run_id for row in found if row.pipeline is not None and caller.may_run(row.pipeline))
    is_all = newest < since or len(found) > MOST_RUNS or any(row.run_id == store.EVERY_RUN for row in found)
    return Changes(number=newest, runs=() if is_all else runs, everything=is_all)
