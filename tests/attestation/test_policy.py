from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml_airflow import canonical
from ppml_airflow.attestation.policy import ImageReference, Policy, SgxSigner, TdxConditions
from ppml_airflow.attestation.policy_files import format_policy_file, parse_policy_file
from ppml_airflow.errors import ConfigurationError, MalformedInputError
from ppml_airflow.signing import SigningKey, verify_envelope
from ppml_airflow.yaml_files import InvalidFileError

DOMAIN = "sha256:" + "0" * 64
GOOD = f"""\
name: nightly
version: 3
images:
  spark:
    measurements:
      - {"ab" * 32}
tees: [sgx]
trust_roots:
  - {"cd" * 48}
tcb_statuses: [UpToDate, SWHardeningNeeded]
advisories: [INTEL-SA-00615]
minimum_evaluation_number: 17
platform_features: [smt]
"""
FIELDS = [line.split(":")[0] for line in GOOD.splitlines() if line[0] not in " "]


def _changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def test_policy_file_reads_as_the_document_it_spells() -> None:
    policy = parse_policy_file(GOOD, domain_id=DOMAIN)
    assert policy == Policy(
        domain_id=DOMAIN,
        name="nightly",
        version=3,
        images={"spark": ImageReference(measurements=("ab" * 32,))},
        tees=("sgx",),
        trust_roots=("cd" * 48,),
        tcb_statuses=("UpToDate", "SWHardeningNeeded"),
        advisories=("INTEL-SA-00615",),
        minimum_evaluation_number=17,
        platform_features=("smt",),
    )


def test_written_policy_file_reads_as_the_same_policy() -> None:
    policy = parse_policy_file(GOOD, domain_id=DOMAIN)
    assert parse_policy_file(format_policy_file(policy), domain_id=DOMAIN) == policy


def test_signed_policy_comes_back_as_it_was() -> None:
    policy, key = parse_policy_file(GOOD, domain_id=DOMAIN), SigningKey.generate()
    assert verify_envelope(key.sign(policy), into=Policy, keys=(key.public,)) == policy


@pytest.mark.parametrize("field", FIELDS)
def test_policy_without_any_one_field_is_refused(field: str) -> None:
    value = canonical.convert(_builtins(), into=dict[str, Any])
    del value[field]
    lines = GOOD.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith(f"{field}:"))
    end = next((at for at in range(start + 1, len(lines)) if lines[at][0] != " "), len(lines))
    with pytest.raises(ConfigurationError, match=f"{field}: field required"):
        parse_policy_file("\n".join(lines[:start] + lines[end:]), domain_id=DOMAIN)
    with pytest.raises(MalformedInputError, match="missing required field"):
        canonical.convert(value, into=Policy)


def _builtins() -> Any:
    return msgspec.to_builtins(parse_policy_file(GOOD, domain_id=DOMAIN))


@pytest.mark.parametrize("field", ["images", "tees", "trust_roots", "tcb_statuses"])
def test_policy_that_lists_nothing_is_refused(field: str) -> None:
    empty: Any = {} if field == "images" else []
    with pytest.raises(MalformedInputError, match="wanted at least one"):
        canonical.convert({**_builtins(), field: empty}, into=Policy)


def test_image_without_a_measurement_is_refused() -> None:
    with pytest.raises(MalformedInputError, match="image has no measurements"):
        canonical.convert({**_builtins(), "images": {"spark": {"measurements": []}}}, into=Policy)
    with pytest.raises(ConfigurationError, match=r":4: images\.spark: has no measurements"):
        parse_policy_file(_changed(f"\n      - {'ab' * 32}", " []"), domain_id=DOMAIN)


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("name: nightly", "name: 7", 1, "name"),
        ("name: nightly", "name: ../up", 1, "name"),
        ("version: 3", "version: 0", 2, "version"),
        ("version: 3", 'version: "3"', 2, "version"),
        ("  spark:", "  sp/ark:", 4, r"images\.sp/ark"),
        ("ab" * 32, "AB" * 32, 6, r"images\.spark\.measurements\.0"),
        ("ab" * 32, "ab" * 31, 6, r"images\.spark\.measurements\.0"),
        ("[sgx]", "[sgx, sev]", 7, r"tees\.1"),
        ("[sgx]", "sgx", 7, "tees"),
        ("[sgx]", "[]", 7, "tees"),
        ("cd" * 48, "any", 9, r"trust_roots\.0"),
        ("UpToDate", "Revoked", 10, r"tcb_statuses\.0"),
        ("INTEL-SA-00615", "all of them", 11, r"advisories\.0"),
        ("17", "-1", 12, "minimum_evaluation_number"),
        ("17", "1.5", 12, "minimum_evaluation_number"),
        ("[smt]", "[turbo]", 13, r"platform_features\.0"),
        ("[smt]", "[smt]\ndebug: true", 14, "debug: extra inputs are not permitted"),
        ("tees:", "tee:", 7, "tee: extra inputs are not permitted; did you mean tees?"),
        ("measurements:", "measurement:", 5, r".*did you mean measurements\?"),
        ("[sgx]", "[sgx, sgx]", 7, "tees: policy has an entry twice in tees"),
        ("[INTEL-SA-00615]", "[any, INTEL-SA-00615]", 11, "advisories: any stands beside others"),
        ("[smt]", "[smt]\ndenied_advisories: [INTEL-SA-1]", 14, "denied_advisories: denied_advisories says nothing"),
        (
            "[smt]",
            "[smt]\ntcb_grace_days: {UpToDate: 30}",
            14,
            "tcb_grace_days: status UpToDate has a grace and stands in",
        ),
        ("[smt]", "[smt]\ntcb_grace_days: {Revoked: 30}", 14, r"tcb_grace_days\.Revoked"),
        ("[smt]", "[smt]\ntcb_grace_days: {OutOfDate: 0}", 14, r"tcb_grace_days\.OutOfDate"),
        ("[smt]", "[smt]\ntcb_grace_days:\n  OutOfDate: never", 15, r"tcb_grace_days\.OutOfDate"),
        ("[smt]", "[smt]\nmaximum_collateral_age_hours: 0", 14, "maximum_collateral_age_hours"),
        ("[smt]", "[smt]\nmaximum_evidence_age_seconds: 3601", 14, "maximum_evidence_age_seconds"),
        ("[smt]", "[smt]\ntdx:\n  attributes: [debug]", 15, r"tdx\.attributes\.0"),
        ("[smt]", "[smt]\ntdx:\n  attribute: []", 15, r".*tdx\.attribute: extra .* did you mean attributes\?"),
    ],
)
def test_mistake_in_the_file_is_named_with_its_line(old: str, new: str, line: int, said: str) -> None:
    with pytest.raises(InvalidFileError, match=rf"policy\.yaml:{line}: {said}"):
        parse_policy_file(_changed(old, new), domain_id=DOMAIN, name="policy.yaml")


def test_every_mistake_is_named_at_once() -> None:
    text = _changed("version: 3", "version: 0").replace("[sgx]", "[sev]")
    with pytest.raises(ConfigurationError, match=r":2: version.*:7: tees\.0"):
        parse_policy_file(text, domain_id=DOMAIN)


@pytest.mark.parametrize("text", ["", "[]", "name", "name: [", "\t", "name: !!python/object:os.system x"])
def test_text_that_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_policy_file(text, domain_id=DOMAIN)


@given(
    at=st.integers(0, len(GOOD) - 1),
    length=st.integers(0, 20),
    instead=st.text(alphabet=" \n:-[]{}&*!'\"#|>%@`,?~0a.", max_size=8) | st.text(max_size=8),
)
@settings(max_examples=300, deadline=None)
def test_mangled_policy_file_is_read_or_refused_and_nothing_else(at: int, length: int, instead: str) -> None:
    try:
        policy = parse_policy_file(GOOD[:at] + instead + GOOD[at + length :], domain_id=DOMAIN)
    except ConfigurationError:
        return
    assert parse_policy_file(format_policy_file(policy), domain_id=DOMAIN) == policy


def test_field_written_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="version: written twice"):
        parse_policy_file(GOOD + "version: 4\n", domain_id=DOMAIN)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[sgx]", "[sgx, sgx]"),
        ("[smt]", "[smt, smt]"),
        ("[INTEL-SA-00615]", "[INTEL-SA-00615, INTEL-SA-00615]"),
        (f"- {'ab' * 32}", f"- {'ab' * 32}\n      - {'ab' * 32}"),
    ],
)
def test_entry_listed_twice_is_refused(old: str, new: str) -> None:
    with pytest.raises(ConfigurationError, match="has an entry twice"):
        parse_policy_file(_changed(old, new), domain_id=DOMAIN)


def test_policy_of_a_domain_that_is_no_digest_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="domain_id"):
        parse_policy_file(GOOD, domain_id="mine")


SIGNER = f"{{mr_signer: {'ab' * 32}, product: 3, minimum_svn: 7}}"
EVERYTHING = (
    _changed("[INTEL-SA-00615]", "[any]").replace("    measurements:", f"    signers: [{SIGNER}]\n    measurements:")
    + """\
denied_advisories: [INTEL-SA-00001]
tcb_grace_days: {OutOfDate: 90}
maximum_collateral_age_hours: 48
maximum_evidence_age_seconds: 30
tdx: {attributes: [pks]}
"""
)


def test_policy_file_with_every_clause_reads_as_the_same_policy() -> None:
    policy = parse_policy_file(EVERYTHING, domain_id=DOMAIN)
    assert policy.images["spark"].signers == (SgxSigner(mr_signer="ab" * 32, product=3, minimum_svn=7),)
    assert (policy.denied_advisories, policy.tcb_grace_days) == (("INTEL-SA-00001",), {"OutOfDate": 90})
    assert (policy.maximum_collateral_age_hours, policy.maximum_evidence_age_seconds) == (48, 30)
    assert policy.tdx == TdxConditions(attributes=("pks",))
    assert parse_policy_file(format_policy_file(policy), domain_id=DOMAIN) == policy
    assert canonical.decode(canonical.encode(policy), into=Policy) == policy


OPTIONAL = (
    "denied_advisories",
    "tcb_grace_days",
    "maximum_collateral_age_hours",
    "maximum_evidence_age_seconds",
    "tdx",
)


def test_clause_that_is_left_out_stands_for_its_stated_bound() -> None:
    policy = parse_policy_file(GOOD, domain_id=DOMAIN)
    assert not any(f'"{name}"'.encode() in canonical.encode(policy) for name in OPTIONAL)
    assert (policy.maximum_collateral_age_hours, policy.maximum_evidence_age_seconds) == (720, 120)
    assert (policy.denied_advisories, policy.tcb_grace_days, policy.tdx) == ((), {}, None)
    assert policy.images["spark"].signers == ()


def test_image_by_its_signer_alone_is_a_reference() -> None:
    policy = parse_policy_file(
        _changed(f"    measurements:\n      - {'ab' * 32}", f"    signers: [{SIGNER}]"), domain_id=DOMAIN
    )
    assert policy.images["spark"].measurements == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (SIGNER, f"{SIGNER}, {SIGNER}", "signers: image has an entry twice"),
        (SIGNER, SIGNER.replace("svn: 7", "svn: 65536"), r"signers\.0\.minimum_svn"),
        (SIGNER, SIGNER.replace("product: 3, ", ""), r"signers\.0\.product: field required"),
        (SIGNER, SIGNER.replace("ab" * 32, "ab" * 31), r"signers\.0\.mr_signer"),
    ],
)
def test_signer_that_is_not_whole_is_refused(old: str, new: str, said: str) -> None:
    with pytest.raises(InvalidFileError, match=rf":5: images\.spark\.{said}"):
        parse_policy_file(EVERYTHING.replace(old, new), domain_id=DOMAIN)


@pytest.mark.parametrize(
    "fields",
    [
        {"advisories": ["any", "INTEL-SA-00001"]},
        {"denied_advisories": ["INTEL-SA-00001"]},
        {"advisories": ["any"], "denied_advisories": ["any"]},
        {"tcb_grace_days": {"UpToDate": 1}},
        {"tdx": {"attributes": ["pks", "pks"]}},
    ],
)
def test_document_that_contradicts_itself_is_refused_however_it_was_made(fields: dict[str, Any]) -> None:
    with pytest.raises(MalformedInputError):
        canonical.convert({**_builtins(), **fields}, into=Policy)


TD = "12" * 48


@pytest.mark.parametrize("measurement", [":".join([TD] * 5), f"{TD}:{TD}:any:{TD}:any"])
def test_td_is_measured_by_all_its_registers(measurement: str) -> None:
    policy = parse_policy_file(_changed("ab" * 32, measurement), domain_id=DOMAIN)
    assert policy.images["spark"].measurements == (measurement,)


@pytest.mark.parametrize("measurement", [TD, f"{TD}:{TD}", f"any:{TD}:{TD}:{TD}:{TD}", f"{TD}:any"])
def test_td_with_a_register_left_out_is_refused(measurement: str) -> None:
    with pytest.raises(ConfigurationError, match=r"measurements\.0"):
        parse_policy_file(_changed("ab" * 32, measurement), domain_id=DOMAIN)
