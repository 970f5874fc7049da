"""Good evidence and every bad kind of it, through the code path that takes Intel's root."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest

from ppml_airflow.attestation.claims import parse_claims
from ppml_airflow.attestation.evidence import MAX_QUOTE_BYTES, Evidence
from ppml_airflow.attestation.roots import INTEL_ROOT
from ppml_airflow.attestation.schemes.sgx_quote import sign_raw
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.attestation.schemes.simulated_collateral import Conditions
from ppml_airflow.attestation.schemes.simulated_pki import make_revocation_list
from ppml_airflow.attestation.verification import VerifiedEvidence, verify_evidence
from ppml_airflow.errors import ConfigurationError, MalformedInputError, PpmlError, VerificationError
from tests.attestation.conftest import MEASUREMENT, NOW, REPORT_DATA
from tests.attestation.reading import judge

Verify = Callable[..., VerifiedEvidence]


def _code(verify: Verify, **changed: object) -> str:
    with pytest.raises(PpmlError) as caught:
        verify(**changed)
    assert isinstance(caught.value, VerificationError | MalformedInputError)
    return caught.value.code


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _edited(collateral: bytes, **fields: object) -> bytes:
    return json.dumps({**json.loads(collateral), **fields}).encode()


def _resigned(platform: SimulatedPlatform, collateral: bytes, *, part: str, **fields: object) -> bytes:
    """Collateral whose vendor says something else."""
    text = json.dumps({**json.loads(json.loads(collateral)[part]), **fields})
    signature = sign_raw(text.encode(), key=platform._tcb.key).hex()
    return _edited(collateral, **{part: text, f"{part}_signature": signature})


# ---------------------------------------------------------------- good


def test_good_quote_says_what_was_quoted(verified: VerifiedEvidence, platform: SimulatedPlatform) -> None:
    assert verified.tee == "sgx"
    assert verified.measurement == MEASUREMENT.hex()
    assert verified.report_data == REPORT_DATA
    assert not verified.is_debug
    assert verified.root_key_id == platform.root.key_id
    assert (verified.tcb_status, verified.advisory_ids, verified.numbers.evaluation) == ("UpToDate", (), 1)
    assert (verified.smt, verified.dynamic_platform, verified.cached_keys) == ("False", "False", "False")
    assert (verified.collateral_issued, verified.collateral_expires) == (NOW, NOW + timedelta(days=30))


def test_simulated_evidence_is_called_simulated(verified: VerifiedEvidence) -> None:
    assert verified.trust == "simulated"


def test_both_readings_agree_on_a_good_quote(
    verified: VerifiedEvidence, quote: bytes, collateral: bytes, platform: SimulatedPlatform
) -> None:
    verdict = judge(quote, collateral=collateral, root=platform.root_der, now=NOW)
    assert verdict.body.mr_enclave.hex() == verified.measurement
    assert verdict.body.mr_signer.hex() == verified.signer
    assert (verdict.body.product, verdict.body.svn) == (verified.product, verified.svn)
    assert verdict.body.report_data == verified.report_data
    assert verdict.root_key_id == verified.root_key_id
    assert (verdict.status, verdict.advisories) == (verified.tcb_status, verified.advisory_ids)


def test_quote_is_found_under_any_of_several_roots(verify: Verify, platform: SimulatedPlatform) -> None:
    assert verify(roots=(INTEL_ROOT, platform.root)).root_key_id == platform.root.key_id


def test_bytes_after_the_quote_change_nothing(verify: Verify, quote: bytes, verified: VerifiedEvidence) -> None:
    assert verify(quote=quote + b"trailing") == verified


@pytest.mark.parametrize(
    "status",
    [
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
    ],
)
def test_status_of_the_platform_is_reported_for_the_policy_to_judge(
    verify: Verify, platform: SimulatedPlatform, status: str
) -> None:
    conditions = Conditions(tcb_status=status, advisories=("INTEL-SA-00001",), evaluation_number=17)
    verified = verify(collateral=platform.collateral(NOW, conditions=conditions))
    assert (verified.tcb_status, verified.advisory_ids) == (status, ("INTEL-SA-00001",))
    assert verified.numbers.evaluation == 17


def test_quoting_enclave_that_is_out_of_date_makes_the_platform_so(verify: Verify, platform: SimulatedPlatform) -> None:
    conditions = Conditions(qe_status="OutOfDate")
    assert verify(collateral=platform.collateral(NOW, conditions=conditions)).tcb_status == "OutOfDate"


# ---------------------------------------------------------------- the quote


@pytest.mark.parametrize(
    ("at", "code"),
    [
        (0, "quote_malformed"),  # version
        (2, "quote_unsupported"),  # kind of attestation key
        (4, "quote_malformed"),  # TEE type
        (12, "quote_unsupported"),  # vendor of the quoting enclave
        (30, "quote_signature"),  # user data of the header
        (48 + 64, "quote_signature"),  # mr_enclave
        (48 + 320, "quote_signature"),  # report data
        (436, "quote_signature"),  # signature of the quote
        (436 + 64, "quote_signature"),  # attestation key
        (436 + 128, "quote_signature"),  # report of the quoting enclave
        (436 + 512, "quote_signature"),  # its signature
        (436 + 578, "quote_signature"),  # its authentication data
        (436 + 610, "quote_unsupported"),  # kind of certification data
        (1300, "certificate_chain"),  # PCK certificate
    ],
)
def test_tampered_quote_is_refused(verify: Verify, quote: bytes, at: int, code: str) -> None:
    assert _code(verify, quote=_flip(quote, at)) == code


@pytest.mark.parametrize("length", [0, 1, 47, 48, 431, 435, 436, 700, 1050, 4000, -1])
def test_truncated_quote_is_refused(verify: Verify, quote: bytes, length: int) -> None:
    assert _code(verify, quote=quote[:length]) == "quote_malformed"


def test_quote_longer_than_the_bound_is_refused_unread(verify: Verify, quote: bytes) -> None:
    with pytest.raises(MalformedInputError, match="at most"):
        verify(quote=quote + bytes(MAX_QUOTE_BYTES))


def test_quote_signed_by_another_platforms_key_is_refused(
    verify: Verify, quote: bytes, other_platform: SimulatedPlatform
) -> None:
    other = other_platform.quote_sgx(measurement=MEASUREMENT, report_data=REPORT_DATA)
    spliced = quote[:436] + other[436:500] + quote[500:]
    assert _code(verify, quote=spliced) == "quote_signature"


def test_report_under_the_authentication_of_another_quote_is_refused(
    verify: Verify, quote: bytes, platform: SimulatedPlatform
) -> None:
    other = platform.quote_sgx(measurement=bytes(32), report_data=REPORT_DATA)
    assert _code(verify, quote=other[:432] + quote[432:]) == "quote_signature"


def test_debug_enclave_is_refused(verify: Verify, platform: SimulatedPlatform) -> None:
    debug = platform.quote_sgx(measurement=MEASUREMENT, report_data=REPORT_DATA, is_debug=True)
    assert _code(verify, quote=debug) == "debug_enclave"


def test_quote_of_another_tee_than_claimed_is_refused(verify: Verify) -> None:
    assert _code(verify, tee="tdx") == "tee_mismatch"


# ---------------------------------------------------------------- the root


def test_simulated_quote_under_intels_root_is_refused(verify: Verify) -> None:
    with pytest.raises(VerificationError, match=r"\(simulated\), wanted 46e403.*\(hardware\)") as caught:
        verify(roots=(INTEL_ROOT,))
    assert caught.value.code == "untrusted_root"


def test_quote_under_another_installations_root_is_refused(verify: Verify, other_platform: SimulatedPlatform) -> None:
    assert _code(verify, roots=(other_platform.root,)) == "untrusted_root"


def test_quote_and_collateral_of_two_installations_are_refused(
    verify: Verify, other_platform: SimulatedPlatform
) -> None:
    assert _code(verify, collateral=other_platform.collateral(NOW), roots=(other_platform.root,)) == "untrusted_root"


def test_reason_under_the_right_root_is_told_when_several_are_given(
    verify: Verify, platform: SimulatedPlatform
) -> None:
    debug = platform.quote_sgx(measurement=MEASUREMENT, report_data=REPORT_DATA, is_debug=True)
    assert _code(verify, quote=debug, roots=(INTEL_ROOT, platform.root)) == "debug_enclave"
    assert _code(verify, quote=debug, roots=(platform.root, INTEL_ROOT)) == "debug_enclave"


def test_no_root_at_all_is_refused(verify: Verify) -> None:
    with pytest.raises(ConfigurationError, match="no trust root"):
        verify(roots=())


# ---------------------------------------------------------------- the collateral


@pytest.mark.parametrize(
    ("conditions", "code"),
    [
        (Conditions(tcb_status="Revoked"), "tcb_revoked"),
        (Conditions(qe_status="Revoked"), "tcb_revoked"),
        (Conditions(is_platform_revoked=True), "platform_revoked"),
        (Conditions(lowest_component_svn=3), "tcb_level_unknown"),
        (Conditions(fmspc=bytes(6)), "collateral_mismatch"),
        (Conditions(tcb_status="Splendid"), "collateral_malformed"),
        (Conditions(tcb_status="TDRelaunchAdvised"), "collateral_malformed"),
    ],
)
def test_platform_of_which_the_vendor_speaks_ill_is_refused(
    verify: Verify, platform: SimulatedPlatform, conditions: Conditions, code: str
) -> None:
    assert _code(verify, collateral=platform.collateral(NOW, conditions=conditions)) == code


@pytest.mark.parametrize(
    ("part", "fields", "code"),
    [
        ("qe_identity", {"mrsigner": "00" * 32}, "quoting_enclave"),
        ("qe_identity", {"isvprodid": 2}, "quoting_enclave"),
        ("qe_identity", {"miscselect": "00000001"}, "quoting_enclave"),
        ("qe_identity", {"attributes": "07" + "00" * 15}, "quoting_enclave"),
        ("qe_identity", {"tcbLevels": []}, "collateral_malformed"),
        ("qe_identity", {"attributes": "07"}, "collateral_malformed"),
        ("qe_identity", {"nextUpdate": "soon"}, "collateral_malformed"),
        ("qe_identity", {"id": "TD_QE"}, "collateral_mismatch"),
        ("qe_identity", {"nextUpdate": "2026-11-20T00:00:00Z"}, "collateral_expired"),
        ("qe_identity", {"issueDate": "2026-12-20T00:00:00Z"}, "collateral_not_yet_valid"),
        ("tcb_info", {"id": "TDX"}, "collateral_mismatch"),
        ("tcb_info", {"fmspc": "zz"}, "collateral_malformed"),
        ("tcb_info", {"tcbLevels": []}, "tcb_level_unknown"),
        ("tcb_info", {"nextUpdate": "2026-11-20T00:00:00Z"}, "collateral_expired"),
        ("tcb_info", {"issueDate": "2026-12-20T00:00:00Z"}, "collateral_not_yet_valid"),
    ],
)
def test_collateral_that_says_something_else_is_refused(
    verify: Verify, platform: SimulatedPlatform, collateral: bytes, part: str, fields: dict[str, object], code: str
) -> None:
    assert _code(verify, collateral=_resigned(platform, collateral, part=part, **fields)) == code


def test_quoting_enclave_older_than_every_level_is_refused(
    verify: Verify, platform: SimulatedPlatform, collateral: bytes
) -> None:
    levels = [{"tcb": {"isvsvn": 9}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"}]
    changed = _resigned(platform, collateral, part="qe_identity", tcbLevels=levels)
    assert _code(verify, collateral=changed) == "quoting_enclave"


def test_level_with_too_few_components_is_refused(
    verify: Verify, platform: SimulatedPlatform, collateral: bytes
) -> None:
    tcb = {"sgxtcbcomponents": [{"svn": 1}], "pcesvn": 1}
    levels = [{"tcb": tcb, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"}]
    changed = _resigned(platform, collateral, part="tcb_info", tcbLevels=levels)
    assert _code(verify, collateral=changed) == "collateral_malformed"


@pytest.mark.parametrize(("part", "old", "new"), [("tcb_info", '"svn":2', '"svn":1'), ("qe_identity", ":8", ":1")])
def test_edited_collateral_is_refused(verify: Verify, collateral: bytes, part: str, old: str, new: str) -> None:
    edited = json.loads(collateral)[part].replace(old, new, 1)
    assert _code(verify, collateral=_edited(collateral, **{part: edited})) == "collateral_signature"


@pytest.mark.parametrize(
    ("later", "code"),
    [
        (timedelta(days=30), "collateral_expired"),
        (timedelta(days=365 * 30), "collateral_expired"),
        (timedelta(seconds=-1), "collateral_not_yet_valid"),
    ],
)
def test_collateral_of_another_time_is_refused(verify: Verify, later: timedelta, code: str) -> None:
    assert _code(verify, now=NOW + later) == code


def test_collateral_is_good_until_its_last_second(verify: Verify) -> None:
    assert verify(now=NOW + timedelta(days=30, seconds=-1)).tcb_status == "UpToDate"


def test_revocation_list_that_expired_alone_is_refused(
    verify: Verify, platform: SimulatedPlatform, collateral: bytes
) -> None:
    short = make_revocation_list(platform._ca, revoked=(), now=NOW, lifetime=timedelta(days=1))
    changed = _edited(collateral, pck_crl=short.hex())
    assert _code(verify, collateral=changed, now=NOW + timedelta(days=2)) == "collateral_expired"


@pytest.mark.parametrize("name", ["_ca", "_root"])
def test_revoked_authority_is_refused(
    verify: Verify, platform: SimulatedPlatform, collateral: bytes, name: str
) -> None:
    serial = getattr(platform, name).certificate.serial_number
    revoked = make_revocation_list(platform._root, revoked=(serial,), now=NOW, lifetime=timedelta(days=30))
    assert _code(verify, collateral=_edited(collateral, root_ca_crl=revoked.hex())) == "platform_revoked"


def test_collateral_signed_by_a_revoked_key_is_refused(
    verify: Verify, platform: SimulatedPlatform, collateral: bytes
) -> None:
    serial = platform._tcb.certificate.serial_number
    revoked = make_revocation_list(platform._root, revoked=(serial,), now=NOW, lifetime=timedelta(days=30))
    assert _code(verify, collateral=_edited(collateral, root_ca_crl=revoked.hex())) == "certificate_chain"


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("root_ca_crl", "certificate_chain"),
        ("pck_crl", "certificate_chain"),
        ("tcb_info_issuer_chain", "certificate_chain"),
        ("qe_identity_issuer_chain", "certificate_chain"),
        ("tcb_info_signature", "collateral_signature"),
        ("qe_identity_signature", "collateral_signature"),
    ],
)
def test_collateral_with_a_part_of_another_installation_is_refused(
    verify: Verify, collateral: bytes, other_platform: SimulatedPlatform, field: str, code: str
) -> None:
    foreign = json.loads(other_platform.collateral(NOW))[field]
    assert _code(verify, collateral=_edited(collateral, **{field: foreign})) == code


@pytest.mark.parametrize(
    "fields",
    [
        {"tcb_info": "{"},
        {"tcb_info_signature": "00"},
        {"tcb_info_signature": "zz"},
        {"tcb_info_issuer_chain": ""},
        {"pck_crl": "00"},
        {"pck_crl": None},
        {"qe_identity": "[]"},
    ],
)
def test_malformed_collateral_is_refused(verify: Verify, collateral: bytes, fields: dict[str, object]) -> None:
    assert _code(verify, collateral=_edited(collateral, **fields)) == "collateral_malformed"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"{}"])
def test_collateral_that_is_not_collateral_is_refused(verify: Verify, content: bytes) -> None:
    assert _code(verify, collateral=content) == "collateral_malformed"


def test_collateral_longer_than_the_bound_is_refused_unread(verify: Verify) -> None:
    with pytest.raises(MalformedInputError, match="at most"):
        verify(collateral=bytes(2**20 + 1))


def test_collateral_without_a_field_is_refused(verify: Verify, collateral: bytes) -> None:
    fields = json.loads(collateral)
    del fields["pck_crl"]
    assert _code(verify, collateral=json.dumps(fields).encode()) == "collateral_malformed"


# ---------------------------------------------------------------- the caller


def test_naive_time_is_refused(platform: SimulatedPlatform, quote: bytes, collateral: bytes) -> None:
    with pytest.raises(ConfigurationError, match="no time zone"):
        verify_evidence(
            Evidence(tee="sgx", quote=quote),
            collateral=collateral,
            roots=(platform.root,),
            now=datetime(2026, 11, 23),  # noqa: DTZ001  # the point of the test
        )


def test_time_in_another_zone_is_the_same_time(verify: Verify, verified: VerifiedEvidence) -> None:
    assert verify(now=NOW.astimezone(timezone(timedelta(hours=9)))) == verified
    assert NOW.tzinfo is UTC


@pytest.mark.parametrize(
    "claims", ["", "{}", '{"claims_version":2}', '{"claims_version":1,"report":{"Snp":{}}}', "[1]"]
)
def test_claims_of_an_unknown_form_are_refused(claims: str) -> None:
    with pytest.raises(VerificationError, match="unknown form"):
        parse_claims(claims)
