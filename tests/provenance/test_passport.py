from __future__ import annotations

from datetime import datetime

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Certificate
from ppml_airflow.errors import MalformedInputError, VerificationError
from ppml_airflow.provenance.attempts import RunDocuments, verify_lease, verify_receipt
from ppml_airflow.provenance.completeness import match_attempts
from ppml_airflow.provenance.passport import compose_passport, parse_passport
from ppml_airflow.provenance.verification import verify_passport
from tests.support.simulated_run import SimulatedRun


def test_composing_is_reproducible(finished: SimulatedRun) -> None:
    assert canonical.encode(finished.contents()) == canonical.encode(finished.contents())


def test_a_passport_reads_as_what_was_composed(finished: SimulatedRun) -> None:
    contents = finished.contents()
    closed = finished.owners.broker.sign(finished.closed(contents))
    passport = parse_passport(compose_passport(contents, closed=closed))
    assert (passport.contents, passport.closed) == (contents, closed)


def test_only_what_the_run_refers_to_is_enclosed(night: SimulatedRun) -> None:
    night.policies.insert(0, night.owners.root.sign(night.make_policy(version=7)))
    unused = night.make_manifest("plans", version=9, prev="sha256:" + "1" * 64)
    envelope = night.owners.producer.sign(unused)
    night.manifests[envelope.digest] = envelope
    night.collateral["sha256:" + "2" * 64] = "{}"
    contents = night.contents()
    assert len(contents.policies) == 1
    assert envelope not in contents.manifests
    assert list(contents.collateral) == [night.collateral_digest]
    roles = {canonical.decode(one.payload, into=Certificate).subject for one in contents.certificates}
    assert roles == {"broker", "owner", "analyst", "report", "summary"}


def test_the_log_of_other_runs_shows_nothing_but_hashes(finished: SimulatedRun) -> None:
    contents = finished.contents()
    assert {entry.run_id for entry in contents.log_entries} == {finished.run_id}
    assert {len(path) % 32 for path in contents.log_proof.paths} == {0}
    assert max(map(len, contents.log_proof.paths)) <= 32 * len(finished.log()).bit_length()


def test_a_passport_that_is_too_long_is_not_read() -> None:
    with pytest.raises(MalformedInputError, match="are read"):
        parse_passport(bytes(256 * 1024 * 1024 + 1))


def test_a_passport_of_another_version_is_refused(finished: SimulatedRun, now: datetime) -> None:
    for version, hint in ((1, "the release that wrote it"), (3, "update ppml-airflow")):
        data = finished.passport().replace(b'"version":2}', b'"version":%d}' % version)
        with pytest.raises(
            MalformedInputError, match=f"has version {version}; this release reads version 2"
        ) as refused:
            verify_passport(data, trust=finished.trust(), now=now)
        assert hint in refused.value.hint


# ---------------------------------------------------------------- what earlier steps of verification rule out


def test_an_attempt_without_its_lease_or_receipt_is_refused_by_itself(finished: SimulatedRun) -> None:
    contents = finished.contents()
    attempt = match_attempts(contents, closed=finished.closed(contents))[0]
    with pytest.raises(VerificationError, match="attempt has no lease"):
        verify_lease(attempt, job=None, documents=documents_of(finished))  # type: ignore[arg-type]  # refused before
    with pytest.raises(VerificationError, match="attempt has no receipt"):
        verify_receipt(attempt, lease=None, step=finished.steps[0], members=())  # type: ignore[arg-type]  # refused before


def test_run_documents_know_only_approved_steps(finished: SimulatedRun) -> None:
    with pytest.raises(VerificationError, match="the approval has no step other"):
        documents_of(finished).step("other")


def documents_of(run: SimulatedRun) -> RunDocuments:
    from ppml_airflow.domain.trust import Certificates

    return RunDocuments(
        domain=run.owners.domain,
        certificates=Certificates.verify(run.owners.certificates, domain=run.owners.domain),
        policies={},
        approval=run.approval,
        run=run.run,
        pins={},
        manifests={},
        collateral={},
    )


def test_evidence_records_change_with_every_field(finished: SimulatedRun) -> None:
    record = finished.attempts[0].evidence
    changed = [
        msgspec.structs.replace(record, attempt=1),
        msgspec.structs.replace(record, quote=record.quote + b"\0"),
        msgspec.structs.replace(record, salt=b"\0" * 32),
    ]
    assert len({canonical.digest(one) for one in [record, *changed]}) == 4
