from __future__ import annotations

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.domain import documents
from ppml_airflow.domain.documents import Approval, Domain
from ppml_airflow.errors import MalformedInputError
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.sealing.wrapping import SealingKey
from ppml_airflow.signing import PublicKey, SignedDocument, SigningKey
from tests.support.simulated_run import AGGREGATE, SUMMARISE

ONE, TWO = SigningKey.generate().public, SigningKey.generate(scheme="p256").public


def make_domain(*roots: PublicKey, threshold: int = 1) -> Domain:
    return canonical.convert(
        msgspec.to_builtins({"name": "test", "roots": roots, "threshold": threshold, "trust": "simulated"}), into=Domain
    )


def test_a_domain_is_called_by_its_digest() -> None:
    domain = make_domain(ONE, TWO, threshold=2)
    assert domain.domain_id == canonical.digest(domain)


def test_a_domain_of_other_trust_is_another_domain() -> None:
    domain = make_domain(ONE)
    assert msgspec.structs.replace(domain, trust="hardware").domain_id != domain.domain_id


def test_a_root_key_counts_once() -> None:
    with pytest.raises(MalformedInputError, match="root key twice"):
        make_domain(ONE, ONE, threshold=2)


@pytest.mark.parametrize("threshold", [2, 0, -1])
def test_a_threshold_that_nobody_or_everybody_meets_is_refused(threshold: int) -> None:
    with pytest.raises(MalformedInputError, match=r"threshold"):
        make_domain(ONE, threshold=threshold)


def test_a_domain_without_roots_is_refused() -> None:
    with pytest.raises(MalformedInputError, match="threshold of 1"):
        make_domain()


def test_a_root_key_that_cannot_sign_is_refused() -> None:
    with pytest.raises(MalformedInputError, match="cannot sign"):
        make_domain(SealingKey.generate().public)


def signed_kinds() -> list[type[SignedDocument]]:
    found = [
        kind
        for kind in vars(documents).values()
        if isinstance(kind, type) and issubclass(kind, SignedDocument) and kind is not SignedDocument
    ]
    return [*found, Manifest, Policy]


def test_each_signed_document_has_a_payload_type_of_its_own() -> None:
    types = [kind.payload_type for kind in signed_kinds()]
    assert len(set(types)) == len(types) == 12
    assert all(one.startswith("application/vnd.ppml.") and one.endswith(".v1+json") for one in types)


def test_an_approval_finds_its_steps() -> None:
    approval = make_approval()
    assert approval.step("summarise") == SUMMARISE
    assert approval.step("other") is None


def test_of_two_steps_of_one_name_an_approval_finds_the_first() -> None:
    approval = make_approval()
    twice = msgspec.structs.replace(approval, steps=(SUMMARISE, msgspec.structs.replace(SUMMARISE, attempts=99)))
    assert twice.step("summarise") == SUMMARISE


def test_an_approval_reads_as_it_was_written() -> None:
    approval = make_approval()
    assert canonical.decode(canonical.encode(approval), into=Approval) == approval


def make_approval() -> Approval:
    return Approval(
        domain_id=make_domain(ONE).domain_id,
        pipeline="nightly",
        replaces=None,
        steps=(AGGREGATE, SUMMARISE),
        edges=(("aggregate", "summarise"),),
        slots=documents.Slots(period="day", zone="UTC", window_hours=1, backfill=0),
        runs_per_slot=1,
        valid_from="2026-01-01T00:00:00Z",
        valid_until="2027-01-01T00:00:00Z",
    )
