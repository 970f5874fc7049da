"""Start and recovery: does the store continue the anchored head, and what happens if it does not.

A broker never starts behind its anchor. Recovering raises the epoch: leases, grants, sessions and runs of the one
before are void, the log goes on as another log, and a signed Recovery in it says where the old one broke off. What the
lost entries accepted is unknown here afterwards: owners publish and approve it again.

Protocol: rule 14.
"""

from __future__ import annotations

import sqlalchemy as sa

from ppml_airflow.broker import store
from ppml_airflow.broker.service.anchor import RECOVER_HINT
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.domain.documents import Recovery
from ppml_airflow.errors import ConfigurationError, PpmlError, VerificationError
from ppml_airflow.provenance.notes import SignedHead


def require_anchored(broker: Broker) -> None:
    """Refuse a store that does not continue the anchored head; anchor where it stands now.

    Raises:
        VerificationError: the store is behind the anchor, of another epoch, or holds another log.
        ConfigurationError: entries are there and no anchor.
    """
    with broker.transaction() as ledger:
        _compare(ledger, anchored=_load(broker, ledger))
        now = broker.head_of(ledger)
    broker.anchor.advance(now)


def recover(broker: Broker) -> Recovery | None:
    """Go on from what the store holds, in a new epoch.

    Returns:
        The Recovery; None if another instance has recovered this store and only the anchor was behind.

    Raises:
        ConfigurationError: there is nothing to recover from: the store continues the anchor.
    """
    with broker.transaction() as ledger:
        anchored = _load(broker, ledger)
        try:
            _compare(ledger, anchored=anchored)
        except PpmlError as error:
            if error.code not in _RECOVERABLE:
                raise
        else:
            raise ConfigurationError("store continues the anchor: there is nothing to recover", code="not_behind")
        recovery = _newer_recovery(ledger, anchored=anchored)
        if recovery is None:
            recovery = _raise_epoch(broker, ledger, anchored=anchored)
            raised = True
        else:
            raised = False
        head = broker.head_of(ledger)
    broker.anchor.replace(head)
    return recovery if raised else None


def describe(broker: Broker) -> str:
    """What recovering would mean, for people; empty if the store continues the anchor."""
    with broker.transaction() as ledger:
        try:
            _compare(ledger, anchored=_load(broker, ledger))
        except PpmlError as error:
            if error.code not in _RECOVERABLE:
                raise
            return error.message
    return ""


_RECOVERABLE = ("anchor_missing", "anchor_epoch", "store_behind", "store_forked")


def _load(broker: Broker, ledger: Ledger) -> SignedHead | None:
    certified = ledger.certificates().broker_keys(now=ledger.now)
    return broker.anchor.load(domain=broker.domain, keys=(broker.signing_key.public, *certified))


def _compare(ledger: Ledger, *, anchored: SignedHead | None) -> None:
    if anchored is None:
        if ledger.log.size:
            raise ConfigurationError(
                f"log in the store has {ledger.log.size} entries and there is no anchor",
                code="anchor_missing",
                hint=RECOVER_HINT,
            )
        return
    if anchored.epoch != ledger.epoch:
        raise VerificationError(
            f"store is of epoch {ledger.epoch}, the anchor of epoch {anchored.epoch}",
            code="anchor_epoch",
            hint=RECOVER_HINT,
        )
    size = anchored.head.log_size
    if size > ledger.log.size:
        raise VerificationError(
            f"log in the store has {ledger.log.size} entries, the anchor {size}: the last {size - ledger.log.size} "
            "are lost",
            code="store_behind",
            hint=RECOVER_HINT,
        )
    if ledger.log.head_at(size) != anchored.head:
        raise VerificationError(
            f"log in the store has other entries than the anchor before entry {size}",
            code="store_forked",
            hint=RECOVER_HINT,
        )


def _newer_recovery(ledger: Ledger, *, anchored: SignedHead | None) -> Recovery | None:
    """The Recovery by which another instance has raised the epoch above this anchor's."""
    table = store.recovery
    query = sa.select(table.c.digest).order_by(table.c.epoch.desc()).limit(1)
    row = store.one(ledger.connection, query)
    if row is None or anchored is None or anchored.epoch >= ledger.epoch:
        return None
    return ledger.broker_document(row.digest, into=Recovery)


def _raise_epoch(broker: Broker, ledger: Ledger, *, anchored: SignedHead | None) -> Recovery:
    found = ledger.log.head()
    epoch = max(ledger.epoch, anchored.epoch if anchored else 0) + 1
    recovery = Recovery(
        domain_id=broker.domain.domain_id,
        epoch=epoch,
        time=ledger.time,
        anchored_size=anchored.head.log_size if anchored else None,
        anchored_root=anchored.head.log_root if anchored else None,
        found_size=found.log_size,
        found_root=found.log_root,
    )
    connection = ledger.connection
    store.update(connection, store.attempt, where={"outcome": "open"}, outcome="fenced")
    for table in (store.granted, store.reservation, store.session):
        store.delete(connection, table)
    envelope = broker.signing_key.sign(recovery)
    ledger.raise_epoch(epoch, recovery=envelope.digest)
    ledger.put(envelope, kind="recovery")
    return recovery
