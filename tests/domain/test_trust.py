from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from ppml_airflow.domain.documents import Certificate, Domain, Role, Run
from ppml_airflow.domain.trust import Certificates, verify_broker_document, verify_owner_document
from ppml_airflow.errors import VerificationError
from ppml_airflow.sealing.wrapping import SealingKey
from ppml_airflow.signing import PublicKey, SigningKey, sign_payload
from tests.support.owners import Owners

replace = msgspec.structs.replace
NOW = datetime.now(UTC)


@pytest.fixture
def owners() -> Owners:
    return Owners("visits")


def verified(owners: Owners) -> Certificates:
    return Certificates.verify(owners.certificates, domain=owners.domain)


# ---------------------------------------------------------------- what owners sign


def test_a_certificate_of_the_owners_is_verified(owners: Owners) -> None:
    envelope = owners.root.sign(owners.broker_certificate)
    assert verify_owner_document(envelope, into=Certificate, domain=owners.domain) == owners.broker_certificate


def test_a_certificate_by_anybody_else_is_refused(owners: Owners) -> None:
    with pytest.raises(VerificationError, match="unknown key"):
        verify_owner_document(owners.broker.sign(owners.broker_certificate), into=Certificate, domain=owners.domain)


def test_a_certificate_made_for_another_domain_is_refused_though_its_signature_is_good(owners: Owners) -> None:
    foreign = replace(owners.broker_certificate, domain_id=Owners().domain.domain_id)
    with pytest.raises(VerificationError, match="belongs to domain") as refused:
        verify_owner_document(owners.root.sign(foreign), into=Certificate, domain=owners.domain)
    assert refused.value.code == "other_domain"


def test_two_owners_must_both_sign(owners: Owners) -> None:
    second = SigningKey.generate()
    domain = Domain(name="joint", roots=(owners.root.public, second.public), threshold=2, trust="simulated")
    certificate = replace(owners.broker_certificate, domain_id=domain.domain_id)
    alone = owners.root.sign(certificate)
    with pytest.raises(VerificationError, match="wanted at least 2"):
        verify_owner_document(alone, into=Certificate, domain=domain)
    both = sign_payload(alone.payload, payload_type=alone.payload_type, keys=(owners.root, second))
    assert verify_owner_document(both, into=Certificate, domain=domain) == certificate


# ---------------------------------------------------------------- certificates


def test_certificates_are_found_by_serial(owners: Owners) -> None:
    certificates = verified(owners)
    expected = owners.dataset_certificates["visits"]
    assert certificates.serial(expected.serial, role="dataset", now=NOW) == expected


def test_one_bad_certificate_refuses_all(owners: Owners) -> None:
    owners.certificates.append(owners.broker.sign(owners.broker_certificate))
    with pytest.raises(VerificationError):
        verified(owners)


@pytest.mark.parametrize("role", ["broker", "producer"])
def test_a_signing_role_takes_no_sealing_key(owners: Owners, role: Role) -> None:
    owners.certify(role, key=SealingKey.generate().public)
    with pytest.raises(VerificationError, match="has a key unfit for"):
        verified(owners)


@pytest.mark.parametrize("role", ["recipient", "dataset", "log"])
def test_a_sealing_role_takes_no_signing_key(owners: Owners, role: Role) -> None:
    owners.certify(role, key=SigningKey.generate().public)
    with pytest.raises(VerificationError, match="has a key unfit for"):
        verified(owners)


@pytest.mark.parametrize("role", ["broker", "producer", "recipient", "dataset", "log"])
def test_no_role_takes_an_enclaves_key(owners: Owners, role: Role) -> None:
    owners.certify(role, key=SigningKey.generate(scheme="p256").public)
    with pytest.raises(VerificationError, match="has a key unfit for"):
        verified(owners)


def test_a_serial_is_used_once(owners: Owners) -> None:
    twin = replace(owners.producer_certificate, subject="other")
    owners.certificates.append(owners.root.sign(twin))
    with pytest.raises(VerificationError, match="used twice"):
        verified(owners)


def test_the_same_certificate_twice_is_one(owners: Owners) -> None:
    owners.certificates.append(owners.certificates[0])
    assert len(verified(owners).by_serial) == 4


def test_an_unknown_serial_is_not_certified(owners: Owners) -> None:
    with pytest.raises(VerificationError) as refused:
        verified(owners).serial("ab" * 16, role="broker", now=NOW)
    assert refused.value.code == "not_certified"


def test_a_certificate_counts_only_for_its_role(owners: Owners) -> None:
    with pytest.raises(VerificationError, match="no certified broker key"):
        verified(owners).serial(owners.producer_certificate.serial, role="broker", now=NOW)


def test_an_expired_certificate_is_refused(owners: Owners) -> None:
    certificate = owners.certify("producer", key=SigningKey.generate().public, expires_in=timedelta(hours=1))
    certificates = verified(owners)
    assert certificates.serial(certificate.serial, role="producer", now=NOW) == certificate
    with pytest.raises(VerificationError) as refused:
        certificates.serial(certificate.serial, role="producer", now=NOW + timedelta(hours=2))
    assert refused.value.code == "certificate_expired"


def test_the_certificate_that_lasts_longest_is_current(owners: Owners) -> None:
    owners.certify("recipient", subject="analyst", key=SealingKey.generate().public, expires_in=timedelta(days=1))
    longest = owners.certify(
        "recipient", subject="analyst", key=SealingKey.generate().public, expires_in=timedelta(days=900)
    )
    assert verified(owners).current(role="recipient", subject="analyst", now=NOW) == longest


def test_an_expired_certificate_is_never_current(owners: Owners) -> None:
    owners.certify("log", subject="owner", key=SealingKey.generate().public, expires_in=-timedelta(days=1))
    with pytest.raises(VerificationError, match="owner has no unexpired certificate as log"):
        verified(owners).current(role="log", subject="owner", now=NOW)


# ---------------------------------------------------------------- what the broker signs


def test_a_run_of_the_certified_broker_is_verified(owners: Owners) -> None:
    run = owners.run()
    assert verify_broker_document(owners.broker.sign(run), into=Run, certificates=verified(owners), now=NOW) == run


@pytest.mark.parametrize("signer", ["root", "producer"])
def test_a_run_signed_by_another_role_is_refused(owners: Owners, signer: str) -> None:
    key: SigningKey = getattr(owners, signer)
    with pytest.raises(VerificationError, match="unknown key"):
        verify_broker_document(key.sign(owners.run()), into=Run, certificates=verified(owners), now=NOW)


def test_a_run_signed_by_another_broker_is_refused(owners: Owners) -> None:
    """A genuine image pointed at a broker whom the owners did not certify."""
    other = Owners("visits")
    with pytest.raises(VerificationError, match="unknown key"):
        verify_broker_document(other.broker.sign(owners.run()), into=Run, certificates=verified(owners), now=NOW)


def test_a_broker_whose_certificate_has_expired_is_refused(owners: Owners) -> None:
    signed, later = owners.broker.sign(owners.run()), NOW + timedelta(days=400)
    assert verified(owners).broker_keys(now=later) == ()
    with pytest.raises(VerificationError, match="unknown key"):
        verify_broker_document(signed, into=Run, certificates=verified(owners), now=later)


def test_broker_keys_are_those_of_brokers(owners: Owners) -> None:
    keys: tuple[PublicKey, ...] = verified(owners).broker_keys(now=NOW)
    assert keys == (owners.broker.public,)
