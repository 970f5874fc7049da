from __future__ import annotations

import csv
import json
import random
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ppml_airflow.attestation.collateral.statements import PlatformFamily, family_of, verify_collateral
from ppml_airflow.attestation.roots import INTEL_ROOT, INTEL_ROOT_KEY_ID
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.attestation.schemes.simulated_pki import FMSPC
from ppml_airflow.attestation.verification import CollateralNumbers
from ppml_airflow.errors import ConfigurationError, MalformedInputError, VerificationError
from tests.attestation.collateral.conftest import Vendor
from tests.attestation.conftest import NOW


def _code(collateral: bytes, *, family: PlatformFamily, platform: SimulatedPlatform, now: datetime = NOW) -> str:
    with pytest.raises((VerificationError, MalformedInputError)) as caught:
        verify_collateral(collateral, family=family, roots=(platform.root,), now=now)
    return caught.value.code


def _edited(collateral: bytes, **fields: object) -> bytes:
    return json.dumps({**json.loads(collateral), **fields}).encode()


def test_quote_says_which_collateral_it_needs(family: PlatformFamily) -> None:
    assert family == PlatformFamily(tee="sgx", fmspc=FMSPC.hex(), ca="platform")
    assert str(family) == f"sgx-{FMSPC.hex()}-platform"


def test_what_is_no_quote_needs_none() -> None:
    with pytest.raises(MalformedInputError, match="does not say of which platform"):
        family_of(b"hello")


def test_good_collateral_says_how_new_it_is(vendor: Vendor, family: PlatformFamily) -> None:
    collateral = vendor.collateral(evaluation_number=17, list_number=5)
    verified = verify_collateral(collateral, family=family, roots=(vendor.platform.root,), now=NOW)
    assert verified.numbers == CollateralNumbers(evaluation=17, pck_crl=5, root_crl=5)
    assert (verified.root_key_id, verified.stated) == (vendor.platform.root.key_id, NOW)
    assert verified.expires == NOW + timedelta(days=30)


@pytest.mark.parametrize(
    "part", ["tcb_info_signature", "qe_identity_signature", "tcb_info", "qe_identity", "pck_crl", "root_ca_crl"]
)
def test_part_that_its_vendor_did_not_sign_is_refused(
    vendor: Vendor, family: PlatformFamily, other_platform: SimulatedPlatform, part: str
) -> None:
    theirs = json.loads(other_platform.collateral(NOW))
    text = json.loads(vendor.collateral())[part]
    changed = theirs[part] if text != theirs[part] else text.replace("UpToDate", "Revoked")
    if changed == text or part in ("tcb_info", "qe_identity"):
        changed = text.replace('"version":', '"version": ')
    code = _code(_edited(vendor.collateral(), **{part: changed}), family=family, platform=vendor.platform)
    assert code == "collateral_signature"


@pytest.mark.parametrize("part", ["pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain"])
def test_chain_to_another_root_is_refused(
    vendor: Vendor, family: PlatformFamily, other_platform: SimulatedPlatform, part: str
) -> None:
    theirs = json.loads(other_platform.collateral(NOW))[part]
    code = _code(_edited(vendor.collateral(), **{part: theirs}), family=family, platform=vendor.platform)
    assert code == "untrusted_root"


def test_chain_that_is_not_one_is_refused(
    vendor: Vendor, family: PlatformFamily, other_platform: SimulatedPlatform
) -> None:
    end = "-----END CERTIFICATE-----\n"
    own, theirs = (
        json.loads(one.collateral(NOW))["tcb_info_issuer_chain"].split(end) for one in (vendor.platform, other_platform)
    )
    mixed = _edited(vendor.collateral(), tcb_info_issuer_chain=theirs[0] + end + own[1] + end)
    assert _code(mixed, family=family, platform=vendor.platform) == "certificate_chain"


@pytest.mark.parametrize(
    ("later", "code"),
    [(timedelta(days=30), "collateral_expired"), (timedelta(seconds=-1), "collateral_not_yet_valid")],
)
def test_collateral_of_another_time_is_refused(
    vendor: Vendor, family: PlatformFamily, later: timedelta, code: str
) -> None:
    assert _code(vendor.collateral(), family=family, platform=vendor.platform, now=NOW + later) == code


@pytest.mark.parametrize("other", [{"fmspc": "00906ed50000"}, {"tee": "tdx"}])
def test_collateral_of_other_platforms_is_refused(
    vendor: Vendor, family: PlatformFamily, other: dict[str, str]
) -> None:
    fields = {"tee": family.tee, "fmspc": family.fmspc, "ca": family.ca, **other}
    code = _code(vendor.collateral(), family=PlatformFamily(**fields), platform=vendor.platform)  # type: ignore[arg-type]
    assert code == "collateral_mismatch"


@pytest.mark.parametrize("collateral", [b"", b"{}", b"[]", b"\xff", b"{" * 2000])
def test_what_is_no_collateral_is_refused(vendor: Vendor, family: PlatformFamily, collateral: bytes) -> None:
    assert _code(collateral, family=family, platform=vendor.platform) == "collateral_malformed"


def test_huge_collateral_is_refused_unread(vendor: Vendor, family: PlatformFamily) -> None:
    assert _code(b" " * (1 << 20) + b" ", family=family, platform=vendor.platform) == "malformed"


def test_naive_time_is_refused(vendor: Vendor, family: PlatformFamily) -> None:
    with pytest.raises(ConfigurationError, match="no time zone"):
        verify_collateral(
            vendor.collateral(), family=family, roots=(vendor.platform.root,), now=NOW.replace(tzinfo=None)
        )


def test_no_mutated_collateral_is_kept_with_other_numbers(vendor: Vendor, family: PlatformFamily) -> None:
    chance, collateral, roots = random.Random(5), vendor.collateral(), (vendor.platform.root,)
    good = verify_collateral(collateral, family=family, roots=roots, now=NOW)
    refused = 0
    for _ in range(300):
        mutated = bytearray(collateral)
        mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        try:
            assert verify_collateral(bytes(mutated), family=family, roots=roots, now=NOW) == good
        except (VerificationError, MalformedInputError):
            refused += 1
    assert refused > 150


def test_real_collateral_verifies_under_intels_root(corpus: Path) -> None:
    with (corpus / "index.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["kind"][:3] in ("SGX", "TDX") and row["valid_at"]]
    checked = 0
    for row in rows:
        verified = verify_collateral(
            (corpus / row["collateral"]).read_bytes(),
            family=family_of((corpus / row["file"]).read_bytes()),
            roots=(INTEL_ROOT,),
            now=datetime.fromisoformat(row["valid_at"]),
        )
        assert verified.root_key_id == INTEL_ROOT_KEY_ID
        assert verified.numbers.evaluation >= 15
        checked += 1
    assert checked >= 36
