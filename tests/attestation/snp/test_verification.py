from __future__ import annotations

import random
import ssl
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ppml_airflow.attestation.roots import rsa_root_key_id
from ppml_airflow.attestation.snp.verification import VerifiedSnp, verify_snp
from ppml_airflow.errors import ConfigurationError, MalformedInputError, PpmlError, VerificationError
from tests.attestation.conftest import NOW
from tests.attestation.snp.machine import (
    CPUS,
    LAYOUTS,
    MEASUREMENT,
    REPORT_DATA,
    SVNS,
    Machine,
    leaf_key,
    rsa_key,
)

MILAN = Machine(now=NOW)


def verify(
    machine: Machine, *, report: bytes | None = None, bundle: bytes | None = None, **changed: Any
) -> VerifiedSnp:
    return verify_snp(
        report if report is not None else machine.report(),
        collateral=bundle if bundle is not None else machine.bundle(),
        **{"roots": (MILAN.root,) if machine is MILAN else (machine.root,), "now": NOW, **changed},
    )


def refuse(machine: Machine, **changed: Any) -> str:
    with pytest.raises((VerificationError, MalformedInputError)) as caught:
        verify(machine, **changed)
    return caught.value.code


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
@pytest.mark.parametrize("signer", ["VCEK", "VLEK"])
def test_report_of_each_product_and_key_verifies(product: str, signer: str) -> None:
    machine = Machine(now=NOW, product=product, signer=signer)
    verified = verify(machine)
    assert (verified.product, verified.trust) == (product, "simulated")
    assert verified.root_key_id == rsa_root_key_id(machine.root)
    assert (verified.measurement, verified.report_data) == (MEASUREMENT.hex(), REPORT_DATA)
    assert verified.svns == {name: SVNS[name] for name in LAYOUTS[product] if name}
    assert not verified.is_debug


def test_layout_of_version_2_comes_from_the_certificate() -> None:
    machine = Machine(now=NOW, product="Turin")
    assert verify(machine, report=machine.report(version=2)).svns["fmc"] == SVNS["fmc"]


def test_debug_smt_and_migration_are_told() -> None:
    verified = verify(MILAN, report=MILAN.report(guest_policy=0xF0000, level=3))
    assert verified.is_debug
    assert (verified.guest_features, verified.privilege_level) == (("smt", "migration_agent"), 3)


def test_bytes_after_the_report_are_ignored() -> None:
    assert verify(MILAN, report=MILAN.report() + b"tail") == verify(MILAN)


def test_masked_chip_id_is_accepted() -> None:
    assert verify(MILAN, report=MILAN.report(chip_id=bytes(64))).measurement == MEASUREMENT.hex()


@pytest.mark.parametrize("at", [0x08, 0x50, 0x90, 0x180, 0x1A0, 0x29F, 0x2A0, 0x2A0 + 60, 0x2E8])
def test_changed_byte_is_refused(at: int) -> None:
    report = bytearray(MILAN.report())
    report[at] ^= 0x10
    assert refuse(MILAN, report=bytes(report)) == "quote_signature"


@pytest.mark.parametrize(
    "changed",
    [{"version": 1}, {"version": 6}, {"algorithm": 2}, {"level": 4}, {"cpu": (0x17, 0)}, {"cpu": (0x19, 0x50)}],
)
def test_report_of_an_unknown_form_is_refused(changed: dict[str, Any]) -> None:
    assert refuse(MILAN, report=MILAN.report(**changed)) == "quote_unsupported"


def test_report_that_names_another_kind_of_key_is_refused() -> None:
    vlek = Machine(now=NOW, signer="VLEK")
    assert refuse(MILAN, report=vlek.report()) == "certificate_chain"
    report = bytearray(MILAN.report())
    report[0x48] = 7 << 2
    assert refuse(MILAN, report=bytes(report)) == "quote_unsupported"


def test_report_that_is_cut_is_refused() -> None:
    assert refuse(MILAN, report=MILAN.report()[:-1]) == "quote_malformed"


def test_report_of_another_chip_is_refused() -> None:
    assert refuse(MILAN, report=MILAN.report(chip_id=bytes(range(2, 66)))) == "collateral_mismatch"


@pytest.mark.parametrize("name", ["bootloader", "tee", "snp", "microcode"])
def test_key_of_another_tcb_is_refused(name: str) -> None:
    assert refuse(MILAN, bundle=MILAN.bundle(leaf=MILAN.leaf(svns={**SVNS, name: 9}))) == "collateral_mismatch"


def test_report_of_another_product_than_its_key_is_refused() -> None:
    assert refuse(MILAN, report=MILAN.report(cpu=CPUS["Genoa"])) == "collateral_mismatch"


# ---------------------------------------------------------------- chain


def test_root_that_is_not_named_is_refused() -> None:
    assert refuse(MILAN, roots=()) == "untrusted_root"
    assert refuse(MILAN, roots=(Machine(now=NOW, vendor="other").root,)) in ("untrusted_root", "certificate_chain")


def test_root_may_be_named_only() -> None:
    chain = b"".join(each.public_bytes(Encoding.PEM) for each in (MILAN.leaf(), MILAN.intermediate))
    assert verify(MILAN, bundle=chain) == verify(MILAN)


@pytest.mark.parametrize("missing", [0, 1])
def test_chain_with_a_gap_is_refused(missing: int) -> None:
    chain = [MILAN.leaf(), MILAN.intermediate, MILAN.root]
    del chain[missing]
    bundle = b"".join(each.public_bytes(Encoding.PEM) for each in chain)
    assert refuse(MILAN, bundle=bundle) == "certificate_chain"


def test_leaf_signed_by_another_of_the_same_name_is_refused() -> None:
    assert refuse(MILAN, bundle=MILAN.bundle(leaf=Machine(now=NOW, vendor="other").leaf())) == "certificate_chain"


def test_intermediate_that_is_no_authority_is_refused() -> None:
    plain = MILAN.certificate(
        "SEV-Milan", issuer="ARK-Milan", key=rsa_key("vendorVCEK"), by="vendor", serial=2, is_authority=False
    )
    chain = b"".join(each.public_bytes(Encoding.PEM) for each in (MILAN.leaf(), plain, MILAN.root))
    assert refuse(MILAN, bundle=chain) == "certificate_chain"


def test_leaf_that_does_not_say_its_versions_is_refused() -> None:
    leaf = MILAN.certificate(
        "SEV-VCEK",
        issuer="SEV-Milan",
        key=leaf_key("vendor"),
        by="vendorVCEK",
        serial=7,
        values={"2": b"\x16\x05Milan"},
    )
    assert refuse(MILAN, bundle=MILAN.bundle(leaf=leaf)) == "certificate_chain"


@pytest.mark.parametrize(("days", "code"), [(31, "collateral_expired"), (-2, "collateral_not_yet_valid")])
def test_chain_of_another_time_is_refused(days: int, code: str) -> None:
    assert refuse(MILAN, now=NOW + timedelta(days=days)) == code


def test_naive_time_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no time zone"):
        verify(MILAN, now=NOW.replace(tzinfo=None))


@pytest.mark.parametrize("bundle", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_bundle_that_does_not_parse_is_refused(bundle: bytes) -> None:
    assert refuse(MILAN, bundle=bundle) == "collateral_malformed"


def test_bundle_with_a_private_key_is_refused() -> None:
    key = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    assert refuse(MILAN, bundle=MILAN.bundle(key)) == "collateral_malformed"


def test_bundle_that_is_too_long_is_refused() -> None:
    assert refuse(MILAN, bundle=bytes(1 << 21)) == "malformed"


# ---------------------------------------------------------------- revocation


def test_list_without_the_chain_is_checked_and_told() -> None:
    assert not verify(MILAN).is_revocation_checked
    assert verify(MILAN, bundle=MILAN.bundle(MILAN.revocation_list(99))).is_revocation_checked


def test_revoked_intermediate_is_refused() -> None:
    assert refuse(MILAN, bundle=MILAN.bundle(MILAN.revocation_list(2))) == "platform_revoked"


def test_list_of_the_root_says_nothing_about_leaves() -> None:
    assert verify(MILAN, bundle=MILAN.bundle(MILAN.revocation_list(7))).is_revocation_checked


def test_expired_list_is_refused() -> None:
    assert refuse(MILAN, bundle=MILAN.bundle(MILAN.revocation_list(days=-1))) == "collateral_expired"


def test_list_of_another_is_refused() -> None:
    assert refuse(MILAN, bundle=MILAN.bundle(MILAN.revocation_list(by="other"))) == "certificate_chain"
    assert refuse(MILAN, bundle=MILAN.bundle(MILAN.revocation_list(of="ARK-Genoa"))) == "certificate_chain"


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 34))])
def test_no_mutated_report_changes_what_is_accepted(seed: int) -> None:
    chance, report, bundle, good = random.Random(seed), MILAN.report(), MILAN.bundle(), verify(MILAN)
    for _ in range(300):
        mutated = bytearray(report)
        mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        try:
            assert verify(MILAN, report=bytes(mutated), bundle=bundle) == good
        except PpmlError:
            continue


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 34))])
def test_no_mutated_bundle_changes_what_is_accepted(seed: int) -> None:
    chance, report = random.Random(seed), MILAN.report()
    parts = [each.public_bytes(Encoding.DER) for each in (MILAN.leaf(), MILAN.intermediate, MILAN.root)]
    good = verify(MILAN, report=report)
    for _ in range(300):
        mutated = [bytearray(part) for part in parts]
        part = mutated[chance.randrange(3)]
        part[chance.randrange(len(part))] = chance.randrange(256)
        bundle = "".join(ssl.DER_cert_to_PEM_cert(bytes(each)) for each in mutated).encode()
        try:
            assert verify(MILAN, report=report, bundle=bundle) == good
        except PpmlError:
            continue
