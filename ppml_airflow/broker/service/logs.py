"""What the broker shows of its log: signed heads and proofs. Entries hold digests only, and are given one at a time.

Source: C2SP tlog-checkpoint, tlog-proof v1; RFC 9162.
"""

from __future__ import annotations

from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.provenance import notes
from ppml_airflow.provenance.log import Consistency
from ppml_airflow.units import Digest


def checkpoint(broker: Broker) -> bytes:
    """The log's head, signed."""
    with broker.decision() as ledger:
        return notes.sign_head(broker.head_of(ledger), key=broker.signing_key).encode()


def prove_consistency(broker: Broker, *, first: int, second: int) -> Consistency:
    """That the log of `second` entries begins with the log of `first`.

    Raises:
        ConfigurationError: the log is shorter.
    """
    with broker.decision() as ledger:
        return ledger.log.prove_consistency(first, second=second)


def prove_entry(broker: Broker, *, digest: Digest) -> bytes:
    """That a document, a receipt say, stands in the log: its entry, audit path and a signed head.

    Raises:
        ConfigurationError: the log has no entry about it.
    """
    with broker.decision() as ledger:
        entry = ledger.log.entry_about(digest)
        proof = ledger.log.prove([entry], size=ledger.log.size, earlier=())
        signed = notes.sign_head(broker.head_of(ledger), key=broker.signing_key)
        return notes.write_entry_proof(entry, path=proof.paths[0], checkpoint=signed).encode()
