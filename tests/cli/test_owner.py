"""What owners sign, and what is never signed."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.owner import Owner, root_key_files
from ppml_airflow.cli.simulated import accept_measurement, ensure_simulated_domain
from ppml_airflow.domain.documents import Approval
from ppml_airflow.domain.trust import verify_owner_document
from ppml_airflow.errors import ConfigurationError, MalformedInputError, VerificationError
from ppml_airflow.signing import SigningKey
from tests.cli.conftest import NOW


def test_exactly_the_given_bytes_are_signed(owner: Owner, approval: Approval) -> None:
    payload = canonical.encode(approval)
    envelope = owner.store_approval(payload)
    assert envelope.payload == payload
    assert verify_owner_document(envelope, into=Approval, domain=owner.domain) == approval


def test_an_approval_with_a_space_in_it_is_not_signed(owner: Owner, approval: Approval) -> None:
    with pytest.raises(MalformedInputError):
        owner.store_approval(canonical.encode(approval) + b" ")


def test_an_approval_of_another_domain_is_not_signed(owner: Owner, approval: Approval) -> None:
    other = msgspec.structs.replace(approval, domain_id="sha256:" + "0" * 64)
    with pytest.raises(VerificationError, match="domain"):
        owner.store_approval(canonical.encode(other))
    assert owner.approvals("nightly") == []


def test_an_approval_that_does_not_replace_the_one_in_force_is_not_signed(owner: Owner, approval: Approval) -> None:
    owner.store_approval(canonical.encode(approval))
    with pytest.raises(ConfigurationError, match="in force"):
        owner.store_approval(canonical.encode(msgspec.structs.replace(approval, runs_per_slot=2)))


def test_approvals_follow_each_other(owner: Owner, approval: Approval) -> None:
    first = owner.store_approval(canonical.encode(approval))
    second = owner.store_approval(
        canonical.encode(msgspec.structs.replace(approval, runs_per_slot=2, replaces=first.digest))
    )
    assert owner.approvals("nightly") == [first, second]
    in_force = owner.approval_in_force("nightly")
    assert in_force is not None
    assert in_force[1].runs_per_slot == 2


def test_below_the_threshold_nothing_is_signed(home: Home, approval: Approval) -> None:
    joint = Home(home.path / "joint")
    ensure_simulated_domain(joint, now=NOW, owners=3, threshold=2)
    one, two, _ = root_key_files(joint)
    approval = msgspec.structs.replace(approval, domain_id=joint.load_domain().domain_id)
    with pytest.raises(ConfigurationError, match="wants signatures by 2"):
        Owner.load(joint, key_files=[one]).store_approval(canonical.encode(approval))
    envelope = Owner.load(joint, key_files=[one, two]).store_approval(canonical.encode(approval))
    assert len(envelope.signatures) == 2


def test_the_same_key_twice_is_one_signature(home: Home, approval: Approval) -> None:
    joint = Home(home.path / "joint")
    ensure_simulated_domain(joint, now=NOW, owners=2, threshold=2)
    one, _ = root_key_files(joint)
    approval = msgspec.structs.replace(approval, domain_id=joint.load_domain().domain_id)
    with pytest.raises((ConfigurationError, VerificationError)):
        Owner.load(joint, key_files=[one, one]).store_approval(canonical.encode(approval))
    assert not list((joint.owner / "approvals").glob("*.json"))


def test_a_key_of_somebody_else_is_refused(home: Home, owner: Owner) -> None:
    path = home.path / "other.pem"
    SigningKey.generate().store(path)
    with pytest.raises(ConfigurationError, match="is not a root key"):
        Owner.load(home, key_files=[path])


def test_a_certificate_that_covers_everything_is_kept(owner: Owner) -> None:
    key = SigningKey.generate().public
    first = owner.certify(key, role="producer", subject="owner", datasets=["a", "b"], now=NOW)
    assert owner.certify(key, role="producer", subject="owner", datasets=["a"], now=NOW) == first


def test_a_wider_certificate_covers_the_old_datasets_and_becomes_current(owner: Owner) -> None:
    key = SigningKey.generate().public
    owner.certify(key, role="producer", subject="somebody", datasets=["a"], now=NOW)
    wider = owner.certify(key, role="producer", subject="somebody", datasets=["b"], now=NOW)
    assert wider.datasets == ("a", "b")
    assert owner.certificates().current(role="producer", subject="somebody", now=NOW) == wider


def test_a_certificate_about_to_expire_is_renewed(owner: Owner) -> None:
    key = SigningKey.generate().public
    first = owner.certify(key, role="broker", subject="another", now=NOW)
    later = NOW + timedelta(days=5 * 365 - 10)
    assert owner.certify(key, role="broker", subject="another", now=later).serial != first.serial


def test_a_policy_version_is_signed_once(home: Home, owner: Owner) -> None:
    (policy,) = accept_measurement(home, owner=owner, image="spark", measurement="a" * 64, names=["default"])
    with pytest.raises(ConfigurationError, match="version 1 is signed already"):
        owner.store_policy(policy)


def test_an_edited_document_is_never_read(owner: Owner, approval: Approval) -> None:
    envelope = owner.store_approval(canonical.encode(approval))
    changed = canonical.encode(msgspec.structs.replace(approval, runs_per_slot=99))
    (path,) = (owner.folder / "approvals").glob("*.json")
    path.write_bytes(canonical.encode(msgspec.structs.replace(envelope, payload=changed)))
    with pytest.raises(VerificationError):
        owner.approval_in_force("nightly")
