"""Is a passport whole? Every attempt, denial and release that RunClosed lists, every step of the approval, the log.

Compares digests and counts; signatures are verified elsewhere. Whatever is dropped, added, moved, repeated or edited
is refused, and the step that it belongs to is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Approval, AttemptRecord, Pins, RunClosed
from ppml_airflow.domain.jobs import earlier_steps
from ppml_airflow.domain.sets import LEADER
from ppml_airflow.errors import PpmlError, VerificationError
from ppml_airflow.provenance.log import Checkpoint, Consistency, LogEntry, verify_continues, verify_log
from ppml_airflow.provenance.passport import EvidenceRecord, PassportContents
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.signing import Envelope
from ppml_airflow.units import Digest

StepOutcome = Literal["committed", "failed", "denied", "not reached"]


@contextmanager
def naming(label: str) -> Iterator[None]:
    """Say in every error from inside what it is about."""
    try:
        yield
    except PpmlError as error:
        raise type(error)(f"{label}: {error.message}", code=error.code, hint=error.hint) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One line of RunClosed, with what the passport encloses for it."""

    record: AttemptRecord
    evidence: EvidenceRecord
    lease: Envelope | None
    receipt: Envelope | None

    @property
    def label(self) -> str:
        """How messages call it."""
        return label_of(self.record)


def label_of(record: AttemptRecord | EvidenceRecord) -> str:
    """`step aggregate, attempt 2`, `..., attempt 2, member 1` or `step aggregate, preflight`."""
    if record.role == "preflight":
        return f"step {record.step}, preflight"
    index = record.binding.index if isinstance(record, EvidenceRecord) else record.index
    member = f", member {index}" if record.role == "member" else ""
    return f"step {record.step}, attempt {record.attempt}{member}"


def match_attempts(contents: PassportContents, *, closed: RunClosed) -> tuple[Attempt, ...]:
    """Find what the passport encloses for each attempt, in order, with nothing left over.

    Raises:
        VerificationError: evidence, lease or receipt is missing, changed, out of place or too many.
    """
    evidence, leases, receipts = iter(contents.evidence), iter(contents.leases), iter(contents.receipts)
    attempts = []
    for record in closed.attempts:
        with naming(label_of(record)):
            found = next(evidence, None)
            if found is None or canonical.digest(found) != record.evidence:
                instead = f"; found that of {label_of(found)}" if found and label_of(found) != label_of(record) else ""
                raise VerificationError(f"evidence is missing, changed or out of place{instead}", code="incomplete")
            if (found.step, found.role, found.attempt, found.time, found.binding.index) != (
                record.step, record.role, record.attempt, record.time, record.index,
            ):  # fmt: skip
                raise VerificationError("evidence is of another attempt", code="other_attempt")
            lease = _next_envelope(leases, wanted=record.lease, what="lease")
            receipt = _next_envelope(receipts, wanted=record.receipt, what="receipt")
            attempts.append(Attempt(record=record, evidence=found, lease=lease, receipt=receipt))
    surplus = next(evidence, None)
    if surplus is not None:
        raise VerificationError(f"{label_of(surplus)}: evidence is not listed by RunClosed", code="surplus")
    if next(leases, None) or next(receipts, None):
        raise VerificationError("passport has a lease or receipt that RunClosed does not list", code="surplus")
    return tuple(attempts)


def _next_envelope(envelopes: Iterator[Envelope], *, wanted: Digest | None, what: str) -> Envelope | None:
    if wanted is None:
        return None
    found = next(envelopes, None)
    if found is None or found.digest != wanted:
        raise VerificationError(f"{what} is missing, changed or out of place", code="incomplete")
    return found


def require_sequence(attempts: Iterable[Attempt], *, approval: Approval) -> None:
    """The attempts of each step count 1, 2, 3..., within the approval, and end with the committed one.

    Raises:
        VerificationError: a step that is not approved, a gap, a repetition, or an attempt after the committed one.
    """
    counts: dict[str, int] = {}
    committed: set[str] = set()
    for attempt in attempts:
        record = attempt.record
        with naming(attempt.label):
            step = approval.step(record.step)
            if step is None:
                raise VerificationError("the approval has no such step", code="step_not_approved")
            if record.role == "preflight":
                if record.attempt or record.lease or record.receipt or record.outcome != "granted":
                    raise VerificationError("a preflight has neither number, lease nor receipt", code="other_attempt")
                continue
            if record.role == "member" and record.index != LEADER:
                # of an attempt that its leader began; whether the set is whole, `provenance.sets` judges
                if record.attempt != counts.get(step.name) or record.lease is None:
                    raise VerificationError("a member stands outside its set's attempt", code="incomplete")
                continue
            counts[step.name] = counts.get(step.name, 0) + 1
            if record.attempt != counts[step.name] or record.lease is None:
                raise VerificationError(f"wanted attempt {counts[step.name]} with a lease", code="incomplete")
            if record.attempt > step.attempts:
                raise VerificationError(f"the approval allows {step.attempts} attempts", code="attempts_used_up")
            if step.name in committed:
                raise VerificationError("the step was committed before", code="committed_before")
            if record.outcome == "committed":
                committed.add(step.name)


def step_outcomes(approval: Approval, *, closed: RunClosed, pins: Mapping[str, Pins]) -> dict[str, StepOutcome]:
    """What became of each approved step.

    Raises:
        VerificationError: a step could have run, and RunClosed says neither that it did nor that it failed.
    """
    tried = {record.step for record in closed.attempts if record.role != "preflight"}
    committed = {record.step for record in closed.attempts if record.outcome == "committed"}
    denied = {denial.step for denial in closed.denials}
    outcomes: dict[str, StepOutcome] = {}
    for step in approval.steps:
        could_run = step.name in pins and committed.issuperset(earlier_steps(approval, name=step.name))
        if step.name in committed:
            outcomes[step.name] = "committed"
        elif step.name in tried:
            outcomes[step.name] = "failed"
        elif step.name in denied:
            outcomes[step.name] = "denied"
        elif could_run:
            raise VerificationError(
                f"step {step.name}: it is approved and its inputs were there, but RunClosed lists no attempt of it",
                code="incomplete",
            )
        else:
            outcomes[step.name] = "not reached"
    return outcomes


def require_log(contents: PassportContents, *, closed: RunClosed) -> dict[Digest, LogEntry]:
    """The log under RunClosed's root holds one entry for each document of the run, and no other of this run.

    Only manifests may be more: an agent may have sealed for the run what no step reads.

    Returns:
        The entries by the digest of what they are about.

    Raises:
        VerificationError: an entry is missing, too many, or not in the log.
    """
    head = Checkpoint(log_size=closed.log_size, log_root=closed.log_root)
    entries = contents.log_entries
    expected = _expected_entries(contents, closed=closed)
    missing = list((Counter((kind, body) for kind, body, _ in expected) - _kinds(entries)).elements())
    if missing:
        label = next(label for kind, body, label in expected if (kind, body) == missing[0])
        raise VerificationError(f"{label}: no log entry for its {missing[0][0]}", code="log_broken")
    verify_log(contents.log_proof, head=head, entries=entries)
    others = [entry for entry in entries if entry.kind != "manifest"]
    if len(others) != sum(kind != "manifest" for kind, _, _ in expected):
        raise VerificationError(
            f"log has {len(others)} entries of the run besides manifests, which is not what the passport accounts for",
            code="log_broken",
        )
    times = [entry.time for entry in entries]
    if times != sorted(times) or any(entry.run_id != closed.run_id for entry in entries) or times[-1] > closed.closed:
        raise VerificationError("log entries are of another run, or their times go backwards", code="log_broken")
    return {entry.body: entry for entry in entries}


def require_pinned(
    head: Checkpoint, *, pinned: tuple[Checkpoint, ...], proofs: Iterable[Consistency]
) -> tuple[Checkpoint, ...]:
    """A log with this head continues what was pinned earlier; later pins are compared if a proof reaches them.

    Args:
        proofs: untrusted; the passport's own, and others that were asked for at the broker.

    Returns:
        The pinned checkpoints that were compared.

    Raises:
        VerificationError: the log does not continue a pinned checkpoint, or nothing proves that it does.
    """
    by_sizes = {(proof.first, proof.second): proof for proof in proofs}
    compared = []
    for checkpoint in pinned:
        earlier, later = sorted((checkpoint, head), key=lambda one: one.log_size)
        sizes = (earlier.log_size, later.log_size)
        proof = by_sizes.get(sizes)
        if proof is None and earlier.log_size in (0, later.log_size):
            proof = Consistency(first=earlier.log_size, second=later.log_size, path=b"")
        if proof is None and earlier is head:
            continue
        if proof is None:
            raise VerificationError(
                f"nothing proves that the log of {sizes[1]} entries continues the pinned checkpoint of {sizes[0]}",
                code="checkpoint_unproved",
                hint=f"ppml broker prove {sizes[0]} {sizes[1]} --output FILE, then give --log-proof FILE",
            )
        try:
            verify_continues(proof, earlier=earlier, later=later)
        except VerificationError as error:
            raise VerificationError(
                f"log of {sizes[1]} entries does not continue the checkpoint of {sizes[0]}, one of which is pinned",
                code="checkpoint",
                hint="the broker has shown two different logs, or was rolled back; keep both files",
            ) from error
        compared.append(checkpoint)
    return tuple(compared)


def _kinds(entries: Iterable[LogEntry]) -> Counter[tuple[str, Digest]]:
    return Counter((entry.kind, entry.body) for entry in entries)


def _expected_entries(contents: PassportContents, *, closed: RunClosed) -> list[tuple[str, Digest, str]]:
    expected = [("run", closed.run, "run")]
    expected += [("pins", envelope.digest, "pins of a step") for envelope in contents.pins]
    for envelope in contents.manifests:
        manifest = canonical.decode(envelope.payload, into=Manifest)
        if manifest.run_id == closed.run_id:
            expected.append(("manifest", envelope.digest, f"dataset {manifest.dataset}"))
    for record in closed.attempts:
        expected.append(("evidence", record.evidence, label_of(record)))
        if record.lease is not None:
            expected.append(("lease", record.lease, label_of(record)))
        if record.receipt is not None:
            expected.append(("receipt", record.receipt, label_of(record)))
    expected += [("denial", canonical.digest(denial), f"step {denial.step}, denial") for denial in closed.denials]
    expected += [("release", canonical.digest(release), f"release of {release.dataset}") for release in closed.releases]
    return expected
