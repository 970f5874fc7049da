"""One transaction's view of the store: signed documents in and out, heads, and the log.

Documents are verified when they are read, unless the very same bytes were verified before (`verified`): what owners
signed under the domain's roots, what the broker signed under its own certified keys. A row that somebody edited is an
error, never a permission.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ppml_airflow import canonical
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.broker import store
from ppml_airflow.broker.decisions.leases import HOLDER_LAPSE
from ppml_airflow.broker.decisions.revocations import Subject, describe_revocation, require_not_revoked
from ppml_airflow.broker.service import verified
from ppml_airflow.broker.service.log import StoredLog
from ppml_airflow.domain.documents import Approval, Certificate, DatasetVersion, Domain, Lease, Pins, Revocation, Run
from ppml_airflow.domain.trust import Certificates
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, UnavailableError, VerificationError
from ppml_airflow.provenance.log import LogKind
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.signing import Envelope, SignedDocument
from ppml_airflow.units import Digest, format_instant, parse_instant

D = TypeVar("D", bound=SignedDocument)

_run, _attempt, _manifest, _reservation = store.run.c, store.attempt.c, store.manifest.c, store.reservation.c
_COMMITTED_STEPS = sa.select(_attempt.step).where(
    _attempt.run_id == sa.bindparam("run_id"), _attempt.outcome == "committed"
)
_OTHER_RUNS = sa.select(sa.func.count()).where(
    _run.pipeline == sa.bindparam("pipeline"),
    _run.slot == sa.bindparam("slot"),
    _run.counted.is_(True),
    _run.run_id != sa.bindparam("run_id"),
)
_HEAD = (
    sa.select(store.manifest)
    .where(_manifest.dataset == sa.bindparam("dataset"))
    .order_by(_manifest.version.desc())
    .limit(1)
)
_HOLDER = sa.select(_reservation.lease_id, _attempt.expires, _attempt.outcome, _attempt.seen).where(
    _reservation.dataset == sa.bindparam("dataset"), _attempt.lease_id == _reservation.lease_id
)
_HAS_COLLATERAL = sa.select(store.collateral.c.digest).where(store.collateral.c.digest == sa.bindparam("digest"))
_SEEN_NUMBERS = sa.select(store.seen_number).where(store.seen_number.c.name.in_(sa.bindparam("names", expanding=True)))
_changed, _others = store.changed.c, store.changed.alias()
_NEXT_CHANGE = sa.select(sa.func.coalesce(sa.func.max(_others.c.number), 0) + 1).scalar_subquery()
_CHANGE_AGAIN = sa.update(store.changed).where(_changed.run_id == sa.bindparam("of_run")).values(number=_NEXT_CHANGE)
_CHANGE = sa.insert(store.changed).values(run_id=sa.bindparam("of_run"), number=_NEXT_CHANGE)
_OWNERS_WORD = (
    sa.select(store.document)
    .where(store.document.c.kind.in_(("certificate", "revocation")))
    .order_by(store.document.c.digest)
)
_EPOCH = sa.select(sa.func.max(store.recovery.c.epoch))


class Ledger:
    """What one decision reads and writes. `now` is the decision's time.

    Raises:
        UnavailableError: the clock shows a time before the last log entry.
    """

    def __init__(self, connection: Connection, *, domain: Domain, now: datetime) -> None:
        self.connection = connection
        self.domain = domain
        self.now = now
        self.time = format_instant(now)
        self._read: dict[Digest, Envelope] = {}
        self._written: set[Digest] = set()
        self._certificates: Certificates | None = None
        self._changed: set[str] = set()
        self.log = StoredLog(connection)
        last = self.log.last
        if last is not None and parse_instant(last.time) > now:
            raise UnavailableError(f"clock shows {self.time}, before the last log entry {last.time}", code="clock_back")

    # ------------------------------------------------------------ documents

    def put(self, envelope: Envelope, *, kind: LogKind, run_id: str | None = None) -> bool:
        """Store a document and log it; False if it was there already."""
        digest = envelope.digest
        row = {"digest": digest, "kind": kind, "envelope": canonical.encode(envelope)}
        if not store.insert_new(self.connection, store.document, **row):
            return False
        self._written.add(digest)
        self.append(kind, body=digest, run_id=run_id)
        return True

    def envelope(self, digest: Digest) -> Envelope:
        """A stored document, read once per decision; not verified.

        Raises:
            ConfigurationError: there is none of that digest.
            VerificationError: another one lies in its place, be it as genuine (attack: an old policy for the new one).
        """
        if digest in self._read:
            return self._read[digest]
        row = store.find(self.connection, store.document, digest=digest)
        if row is None:
            raise ConfigurationError(f"document {digest} is not known here", code="not_found")
        found = verified.read_envelope(row.envelope)
        if found.digest != digest:
            raise VerificationError(f"document {digest} was changed in the store", code="other_document")
        if digest not in self._written:  # what a savepoint may undo is read again
            self._read[digest] = found
        return found

    def envelopes(self, kind: LogKind) -> list[Envelope]:
        """All stored documents of a kind."""
        rows = store.find_all(self.connection, store.document, order="digest", kind=kind)
        return [verified.read_envelope(row.envelope) for row in rows]

    def certificates(self) -> Certificates:
        """The owners' certificates, verified once per decision."""
        if self._certificates is None:
            found = verified.certificates_of(self._owners_word["certificate"], domain=self.domain)
            self._certificates = found.without(self.revocations) if self.revocations else found
        return self._certificates

    def certificate_envelopes(self) -> tuple[Envelope, ...]:
        """The signed certificates that are not revoked: what agents and guests may rely on."""
        found, revoked = self._owners_word["certificate"], self.certificates().revoked
        if not revoked:
            return found
        return tuple(one for one in found if canonical.decode(one.payload, into=Certificate).serial not in revoked)

    @cached_property
    def revocations(self) -> tuple[Revocation, ...]:
        """What the owners have revoked, as it stood when it was first asked for."""
        found = self._owners_word["revocation"]
        return tuple(verified.owner_document(envelope, into=Revocation, domain=self.domain) for envelope in found)

    @cached_property
    def _owners_word(self) -> Mapping[str, tuple[Envelope, ...]]:
        """All certificates and revocations: every decision asks for both."""
        found: dict[str, list[Envelope]] = {"certificate": [], "revocation": []}
        for row in self.connection.execute(_OWNERS_WORD):
            found[row.kind].append(verified.read_envelope(row.envelope))
        return {kind: tuple(envelopes) for kind, envelopes in found.items()}

    def require_not_revoked(self, *subjects: Subject) -> None:
        """Refuse what stands on something that is revoked.

        Raises:
            PolicyDeniedError: what is revoked, since when and why (`revoked`).
        """
        require_not_revoked(subjects, revocations=self.revocations)

    def require_sound_manifest(self, digest: Digest, *, dataset: str) -> None:
        """Refuse a committed version whose making stood on something that is revoked.

        Raises:
            PolicyDeniedError: it did (`revoked`).
        """
        row = store.find(self.connection, store.revoked_manifest, manifest=digest)
        if row is not None:
            revocation = verified.owner_document(self.envelope(row.revocation), into=Revocation, domain=self.domain)
            raise PolicyDeniedError(
                f"this version of {dataset} depends on {describe_revocation(revocation)}",
                code="revoked",
                hint="seal or compute it anew, then start a new run",
            )

    def approval(self, digest: Digest) -> Approval:
        """An approval, verified under the owners' roots."""
        return verified.owner_document(self.envelope(digest), into=Approval, domain=self.domain)

    def approval_in_force(self, pipeline: str) -> Digest | None:
        """The digest of the approval in force."""
        row = store.find(self.connection, store.approval_in_force, pipeline=pipeline)
        return row.digest if row else None

    def policy_in_force(self, name: str) -> tuple[Policy, Digest]:
        """The policy version in force.

        Raises:
            PolicyDeniedError: no policy of that name: nothing is allowed.
        """
        row = store.find(self.connection, store.policy_in_force, name=name)
        if row is None:
            raise PolicyDeniedError(
                f"policy {name} does not exist, so nothing is allowed", code="policy_missing", hint="ppml policy sign"
            )
        return verified.owner_document(self.envelope(row.digest), into=Policy, domain=self.domain), row.digest

    def broker_document(self, digest: Digest, *, into: type[D], issued: datetime | None = None) -> D:
        """A document that this domain's broker signed."""
        moment = issued or self.now
        return verified.broker_document(
            self.envelope(digest), into=into, keys=self.certificates().broker_keys(now=moment)
        )

    # ------------------------------------------------------------ runs

    def run_row(self, run_id: str) -> sa.Row[Any]:
        """The row of a run.

        Raises:
            ConfigurationError: there is no such run.
        """
        row = store.find(self.connection, store.run, run_id=run_id)
        if row is None:
            raise ConfigurationError(f"run {run_id[:40]} is not known here", code="run_unknown")
        return row

    def run(self, run_id: str) -> Run:
        """The signed Run."""
        return self.run_of(self.run_row(run_id))

    def run_of(self, row: sa.Row[Any]) -> Run:
        """The signed Run that a row of it names."""
        return self.broker_document(row.digest, into=Run)

    def pins(self, run_id: str, step: str) -> tuple[Envelope, Pins] | None:
        """The signed Pins of a step, once complete."""
        row = store.find(self.connection, store.pins, run_id=run_id, step=step)
        return (self.envelope(row.digest), self.broker_document(row.digest, into=Pins)) if row else None

    def pinned(self, run_id: str, step: str) -> dict[str, DatasetVersion]:
        """The inputs of a step that are pinned so far."""
        rows = store.find_all(self.connection, store.pinned, order="dataset", run_id=run_id, step=step)
        return {
            row.dataset: DatasetVersion(dataset=row.dataset, version=row.version, manifest=row.manifest) for row in rows
        }

    def committed_steps(self, run_id: str) -> frozenset[str]:
        """The steps of a run whose receipt is committed."""
        rows = self.connection.execute(_COMMITTED_STEPS, {"run_id": run_id})
        return frozenset(rows.scalars())

    def other_runs_in_slot(self, run: Run) -> int:
        """How many other runs of a pipeline have had a lease in the slot of this one."""
        where = {"pipeline": run.pipeline, "slot": run.slot, "run_id": run.run_id}
        return self.connection.execute(_OTHER_RUNS, where).scalar_one()

    def attempts(self, run_id: str, step: str | None = None) -> list[sa.Row[Any]]:
        """The attempts and preflights of a run or a step, oldest first."""
        place = {"run_id": run_id} if step is None else {"run_id": run_id, "step": step}
        return store.find_all(self.connection, store.attempt, order="id", **place)

    def lease(self, digest: Digest) -> Lease:
        """A lease that this broker signed."""
        return self.broker_document(digest, into=Lease)

    # ------------------------------------------------------------ datasets

    def head(self, dataset: str) -> DatasetVersion | None:
        """The newest committed version of a dataset."""
        row = self.connection.execute(_HEAD, {"dataset": dataset}).one_or_none()
        return DatasetVersion(dataset=dataset, version=row.version, manifest=row.digest) if row else None

    def commit_manifest(self, envelope: Envelope, *, manifest: Manifest) -> None:
        """Move a dataset's head to a manifest that has been judged."""
        store.insert(
            self.connection,
            store.manifest,
            digest=envelope.digest,
            dataset=manifest.dataset,
            version=manifest.version,
            run_id=manifest.run_id,
            lease_id=manifest.lease_id,
        )
        self.put(envelope, kind="manifest", run_id=manifest.run_id)

    def committed_manifest(self, digest: Digest) -> tuple[Envelope, Manifest]:
        """A manifest that is committed here: the only kind that is ever an input.

        Raises:
            VerificationError: it is not committed.
        """
        if store.find(self.connection, store.manifest, digest=digest) is None:
            raise VerificationError(f"manifest {digest} is not committed", code="not_committed")
        envelope = self.envelope(digest)
        return envelope, canonical.decode(envelope.payload, into=Manifest)

    def holder(self, dataset: str) -> str | None:
        """The lease that has reserved the next version of a dataset, if its guest is still heard of."""
        row = self.connection.execute(_HOLDER, {"dataset": dataset}).one_or_none()
        if row is None or row.outcome != "open" or parse_instant(row.expires) <= self.now:
            return None
        return str(row.lease_id) if parse_instant(row.seen) + HOLDER_LAPSE > self.now else None

    def keep_collateral(self, content: bytes, *, digest: Digest) -> None:
        """Keep the collateral that evidence was judged with: a passport encloses it."""
        if self.connection.execute(_HAS_COLLATERAL, {"digest": digest}).one_or_none() is None:
            store.insert(self.connection, store.collateral, digest=digest, content=content)

    def seen_numbers(self, names: tuple[str, ...]) -> dict[str, int]:
        """The highest numbers of collateral so far, by name."""
        rows = self.connection.execute(_SEEN_NUMBERS, {"names": names})
        return {row.name: row.number for row in rows}

    def raise_numbers(self, raised: Mapping[str, int]) -> None:
        """Remember higher ones."""
        for name, number in raised.items():
            store.delete(self.connection, store.seen_number, name=name)
            store.insert(self.connection, store.seen_number, name=name, number=number)

    # ------------------------------------------------------------ log

    def append(self, kind: LogKind, *, body: Digest, run_id: str | None) -> None:
        """Append to the log."""
        self.log.append(kind, body=body, run_id=run_id, time=self.time)
        self.changed(run_id)

    def changed(self, run_id: str | None) -> None:
        """Note that steps of a run, or of any run, may stand elsewhere than before: who waits for them asks again."""
        self._changed.add(run_id or store.EVERY_RUN)

    def flush(self) -> None:
        """Write what was appended to the log and noted as changed, at the end of a decision."""
        self.log.flush()
        for run_id in sorted(self._changed):
            if not self.connection.execute(_CHANGE_AGAIN, {"of_run": run_id}).rowcount:
                self.connection.execute(_CHANGE, {"of_run": run_id})
        self._changed.clear()

    @cached_property
    def epoch(self) -> int:
        """How often this broker has been recovered after its store was rolled back."""
        return self.connection.execute(_EPOCH).scalar_one() or 0

    def raise_epoch(self, epoch: int, *, recovery: Digest) -> None:
        """Begin the epoch of a recovery."""
        store.insert(self.connection, store.recovery, epoch=epoch, digest=recovery)
        self.epoch = epoch
