"""A simulated domain, made once, complete, and never mistaken for a real one."""

from __future__ import annotations

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.broker.service.callers import find_caller, load_callers
from ppml_airflow.cli.home import Home, write_private
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.simulated import (
    accept_measurement,
    airflow_token,
    ensure_certified,
    ensure_simulated_domain,
    require_simulated,
)
from ppml_airflow.domain.documents import Approval
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from ppml_airflow.keys.keystore import KeystoreFile, load_passphrase
from ppml_airflow.provenance.trust_bundle import parse_trust_bundle
from ppml_airflow.sealing.wrapping import SealingKey, dataset_key_context
from tests.cli.conftest import NOW


def test_made_again_it_is_the_same(home: Home, owner: Owner) -> None:
    certificates = owner.certificates().by_serial
    again = ensure_simulated_domain(home, now=NOW)
    assert again.domain == owner.domain
    assert again.certificates().by_serial == certificates


def test_private_keys_are_readable_by_their_owner_only(home: Home, owner: Owner) -> None:
    secrets = [*home.path.rglob("*.pem"), *home.path.rglob("*.key"), home.broker / "passphrase", home.airflow_token]
    private = [path for path in secrets if path.parent != home.tee or path.suffix == ".key"]
    assert private
    assert [path for path in private if path.stat().st_mode & 0o077] == []


def test_a_domain_of_hardware_trust_is_never_signed_for(home: Home, owner: Owner) -> None:
    hardware = msgspec.structs.replace(owner.domain, trust="hardware")
    write_private(home.domain_file, canonical.encode(hardware))
    with pytest.raises(PolicyDeniedError, match="not simulated"):
        require_simulated(home)
    with pytest.raises(PolicyDeniedError, match="not simulated"):
        ensure_simulated_domain(home, now=NOW)


def test_a_threshold_above_the_owners_is_refused(home: Home) -> None:
    with pytest.raises(ConfigurationError, match="threshold is 3"):
        ensure_simulated_domain(home, now=NOW, owners=2, threshold=3)


def test_what_an_approval_names_is_certified_once(home: Home, owner: Owner, approval: Approval) -> None:
    assert ensure_certified(home, owner=owner, approval=approval, now=NOW) == [
        "key of analyst certified as recipient",
        "key of owner certified as log",
        "key of owner certified as producer",
        "key of plans certified as dataset",
        "key of report certified as dataset",
        "key of visits certified as dataset",
    ]
    assert ensure_certified(home, owner=owner, approval=approval, now=NOW) == []
    current = owner.certificates().current
    assert current(role="producer", subject="owner", now=NOW).datasets == ("plans", "visits")
    assert current(role="recipient", subject="analyst", now=NOW).datasets == ("report",)


def test_an_adhoc_step_gives_its_recipients_and_readers_the_open_right(
    home: Home, owner: Owner, approval: Approval
) -> None:
    ensure_certified(home, owner=owner, approval=approval, now=NOW)
    asked = msgspec.structs.replace(approval.steps[0], kind="adhoc")
    ensure_certified(home, owner=owner, approval=msgspec.structs.replace(approval, steps=(asked,)), now=NOW)
    current = owner.certificates().current
    assert current(role="recipient", subject="analyst", now=NOW).datasets == ("plans", "report", "visits")
    assert current(role="log", subject="owner", now=NOW).datasets == ("plans", "visits")


def test_nobody_is_certified_as_producer_of_nothing(home: Home, owner: Owner, approval: Approval) -> None:
    alone = msgspec.structs.replace(approval.steps[0], inputs=())
    made = ensure_certified(home, owner=owner, approval=msgspec.structs.replace(approval, steps=(alone,)), now=NOW)
    assert made == [
        "key of analyst certified as recipient",
        "key of owner certified as log",
        "key of report certified as dataset",
    ]


def test_a_dataset_key_opens_with_the_keystore_and_its_context(home: Home, owner: Owner, approval: Approval) -> None:
    ensure_certified(home, owner=owner, approval=approval, now=NOW)
    certificate = owner.certificates().current(role="dataset", subject="visits", now=NOW)
    keystore = KeystoreFile.load(home.broker / "keystore.json", passphrase=load_passphrase(home.broker / "passphrase"))
    context = dataset_key_context(domain_id=owner.domain.domain_id, dataset="visits", kek_id=certificate.kek_id)
    wrapped = (home.broker / "dataset-keys" / f"{certificate.serial}.wrapped").read_bytes()
    private = keystore.unwrap(wrapped, key_id=certificate.kek_id, context=context)
    assert SealingKey.from_private_bytes(private).public == certificate.key


def test_accepting_a_measurement_twice_signs_once(home: Home, owner: Owner) -> None:
    first = accept_measurement(home, owner=owner, image="spark", measurement="a" * 64, names=["default"])
    assert [policy.version for policy in first] == [1]
    assert accept_measurement(home, owner=owner, image="spark", measurement="a" * 64, names=["default"]) == []


def test_another_measurement_replaces_the_old_one_in_the_next_version(home: Home, owner: Owner) -> None:
    accept_measurement(home, owner=owner, image="spark", measurement="a" * 64, names=["default"])
    (policy,) = accept_measurement(home, owner=owner, image="spark", measurement="b" * 64, names=["default"])
    assert policy.version == 2
    assert policy.images["spark"].measurements == ("b" * 64,)


def test_the_broker_knows_airflow_by_its_token(home: Home, owner: Owner) -> None:
    callers = load_callers(home.broker / "tokens.json")
    assert find_caller(callers, authorization=f"Bearer {airflow_token(home)}").name == "airflow"


def test_the_trust_bundle_names_this_domain_and_its_development_root(home: Home, owner: Owner) -> None:
    bundle = parse_trust_bundle(home.trust_bundle.read_bytes())
    assert bundle.domain == owner.domain
    assert [root.trust for root in bundle.roots] == ["simulated"]
