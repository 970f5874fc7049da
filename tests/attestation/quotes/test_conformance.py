"""Every recorded quote and report of the corpus, judged at its own time, beside what its publisher says of it."""

from __future__ import annotations

import csv
import random
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from ppml_airflow.attestation.quotes.judgement import QuoteReport, judge_quote
from ppml_airflow.attestation.refusals import AUTHENTIC
from ppml_airflow.attestation.roots import AMD_ROOT_KEY_IDS, INTEL_ROOT, INTEL_ROOT_KEY_ID, rsa_root_key_id
from tests.attestation.reading import RefusedByOracle, judge

TRUSTEE = "confidential-containers+trustee"

NO_LEVEL = ("tcb_level_unknown", "")
OUT_OF_DATE = ("", "OutOfDate")
UP_TO_DATE = ("", "UpToDate")

# What each quote comes out as: the code of the refusal, or the status, by the day at which its collateral begins.
OUTCOMES: dict[str, dict[str, tuple[str, str]]] = {
    "quote_219cafdecd": {"": NO_LEVEL},
    "quote_f8b81014b6": {"": ("", "ConfigurationAndSWHardeningNeeded")},
    "quote_6af2de9455": {"": NO_LEVEL},
    "quote_c42f916432": {"2026-08-13": OUT_OF_DATE, "": UP_TO_DATE},
    "quote_4c453ea417": {"": NO_LEVEL},
    "quote_aef4b17e36": {"": UP_TO_DATE},
    "quote_a2c43c6937": {"": ("sept_ve_disable", "")},
    "quote_77bcbdfa9c": {"": ("debug_enclave", "")},
    "quote_12b401a88a": {"": ("debug_enclave", "")},
    "quote_586c2be0dc": {"": NO_LEVEL},
    "quote_62657e5976": {"": OUT_OF_DATE},
    "quote_54334c81b4": {"2026-06-12": OUT_OF_DATE, "": UP_TO_DATE},
    "quote_cf77a6e91e": {"": UP_TO_DATE},
    "quote_6dde5548be": {"": NO_LEVEL},
}

# Where the publisher's word differs from ours, and why.
DIFFERS = {
    "quote_77bcbdfa9c": "verifies there because debug is accepted; refused here under any policy",
    "quote_12b401a88a": "verifies there because debug is accepted; refused here under any policy",
    "quote_586c2be0dc": "verified there with collateral of another service, which is not published",
}

NOT_COVERED = {
    "quote_8cc428aaac.bin": "test PKI with component SVNs above 255, which dcap-qvl does not decode; no valid_at",
    "quote_aa2cafadb3.bin": "test PKI with component SVNs above 255, which dcap-qvl does not decode; no valid_at",
    "hopperAttestationReport.txt": "NVIDIA: not a TEE that is judged here",
    "tpm_evidence.json": "TPM: not a TEE that is judged here",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    quote: bytes
    collateral: bytes
    at: datetime
    expected: str
    kind: str

    def judge(self, *, quote: bytes | None = None) -> QuoteReport:
        return judge_quote(
            quote if quote is not None else self.quote,
            collateral=self.collateral,
            trust_root=None,
            policy=None,
            now=self.at,
        )

    @property
    def outcome(self) -> tuple[str, str]:
        by_day = OUTCOMES[self.name.partition(" ")[0]]
        return next(outcome for day, outcome in by_day.items() if day in self.name)


def _index(corpus: Path) -> list[dict[str, str]]:
    with (corpus / "index.csv").open() as lines:
        return list(csv.DictReader(lines))


def _dcap_rows(corpus: Path) -> list[Row]:
    return [
        Row(
            name=f"{Path(row['file']).stem} {row['collateral'][-15:-5]}",
            quote=(corpus / row["file"]).read_bytes(),
            collateral=(corpus / row["collateral"]).read_bytes(),
            at=datetime.fromisoformat(row["valid_at"]),
            expected=row["expected_by_origin"],
            kind=row["kind"],
        )
        for row in _index(corpus)
        if row["kind"].startswith(("SGX", "TDX")) and row["collateral"] and row["valid_at"]
    ]


def test_every_recorded_quote_comes_out_as_listed(corpus: Path) -> None:
    rows = _dcap_rows(corpus)
    assert len(rows) >= 36
    for row in rows:
        report, (code, status) = row.judge(), row.outcome
        assert report.authentic, row.name
        assert (report.tcb_status or "") == status, row.name
        assert (report.verdict == "accepted") == (status == "UpToDate"), row.name
        assert not code or [reason.clause for reason in report.reasons] == [code], row.name
        assert bool(code) or (report.trust_root, report.trust) == (INTEL_ROOT_KEY_ID, "hardware"), row.name


def test_where_the_origin_states_an_outcome_ours_agrees(corpus: Path) -> None:
    for row in _dcap_rows(corpus):
        code, status = row.outcome
        said = row.expected
        if row.name.partition(" ")[0] in DIFFERS:
            assert code, row.name
        elif "must fail" in said or "no matching TCB level" in said:
            assert code == "tcb_level_unknown", row.name
        elif "ConfigurationAndSWHardeningNeeded" in said:
            assert status in said, row.name
            assert all(advisory in said for advisory in row.judge().advisories), row.name
        elif said:
            assert status, row.name  # it verifies; the status is that of the collateral's time


def test_every_row_is_covered_or_listed_with_its_reason(corpus: Path) -> None:
    covered = {f"{row.name.partition(' ')[0]}.bin" for row in _dcap_rows(corpus)} | {name for name, *_ in SNP}
    subjects = {
        Path(row["file"]).name
        for row in _index(corpus)
        if Path(row["file"]).name.startswith("quote_") or "report" in row["kind"].lower() or "HCL" in row["kind"]
    }
    assert subjects - covered == NOT_COVERED.keys() & subjects


def test_both_readings_agree_on_every_recorded_quote(corpus: Path) -> None:
    for row in _dcap_rows(corpus):
        report = row.judge()
        try:
            verdict = judge(row.quote, collateral=row.collateral, root=INTEL_ROOT.certificate, now=row.at)
        except RefusedByOracle:
            verdict = None
        if verdict is None:
            assert report.tcb_status is None, row.name
            continue
        if report.tcb_status is None:
            # dcap-qvl's own: the reading has no opinion on these attributes.
            assert report.reasons[0].clause in ("sept_ve_disable", "service_td"), row.name
            continue
        assert (verdict.status, set(verdict.advisories)) == (report.tcb_status, set(report.advisories)), row.name
        told = report.measurements.values()
        assert all(register.hex() in told for register in verdict.body.registers), row.name


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
def test_changed_quote_is_never_called_authentic(corpus: Path, seed: int) -> None:
    chance = random.Random(seed)
    for row in {row.name.partition(" ")[0]: row for row in _dcap_rows(corpus)}.values():
        good = row.judge()
        for _ in range(40):
            mutated = bytearray(row.quote)
            at = chance.randrange(1200)
            mutated[at] ^= 1 << chance.randrange(8)
            report = row.judge(quote=bytes(mutated))
            assert not report.authentic or report == good, f"{row.name}: byte {at}"


def test_refusals_after_the_signature_are_those_of_authentic_quotes(corpus: Path) -> None:
    for row in _dcap_rows(corpus):
        code, _ = row.outcome
        if not code:
            continue
        assert code in AUTHENTIC
        changed = bytearray(row.quote)
        changed[400] ^= 1
        assert not row.judge(quote=bytes(changed)).authentic, row.name


# ---------------------------------------------------------------- SEV-SNP

VCEK = f"{TRUSTEE}/test-vcek.der"
MILAN = f"{TRUSTEE}/milan_ask_ark_asvk.pem"
SNP = [
    ("test-report.bin", TRUSTEE, (VCEK, MILAN), "accepted", ""),
    ("test-vlek-report.bin", TRUSTEE, (f"{TRUSTEE}/test-vlek.der", MILAN), "accepted", ""),
    ("hcl-report.bin", TRUSTEE, (f"{TRUSTEE}/vcek.pem",), "accepted", ""),
    ("attestation.bin", "google+go-sev-guest", ("google+go-sev-guest/vcek.testcer", MILAN), "refused", "debug"),
]
SNP_BAD = [
    ((f"{TRUSTEE}/test-vcek-invalid-new.der", MILAN), "certificate_chain"),
    ((f"{TRUSTEE}/test-vcek-invalid-legacy.der", MILAN), "certificate_chain"),
    (("google+go-sev-guest/vcek.testcer", MILAN), "quote_signature"),
    ((VCEK, f"{TRUSTEE}/genoa_ask_ark_asvk.pem"), "certificate_chain"),
    ((MILAN,), "certificate_chain"),
]
SNP_TIME = datetime(2025, 6, 1, tzinfo=UTC)


def _bundle(corpus: Path, names: tuple[str, ...]) -> bytes:
    parts = []
    for name in names:
        data = (corpus / name).read_bytes()
        if b"-----BEGIN" not in data:
            data = ssl.DER_cert_to_PEM_cert(data).encode()
        parts.append(data)
    return b"\n".join(parts)


def _judge_snp(report: bytes, bundle: bytes, *, at: datetime = SNP_TIME) -> QuoteReport:
    return judge_quote(report, collateral=bundle, trust_root=None, policy=None, now=at)


@pytest.mark.parametrize(("name", "folder", "bundle", "verdict", "clause"), SNP)
def test_real_report_is_authentic(
    corpus: Path, name: str, folder: str, bundle: tuple[str, ...], verdict: str, clause: str
) -> None:
    report = _judge_snp((corpus / folder / name).read_bytes(), _bundle(corpus, bundle))
    assert (report.tee, report.authentic, report.trust) == ("snp", True, "hardware")
    assert report.trust_root == AMD_ROOT_KEY_IDS["Milan"]
    assert (report.verdict, [reason.clause for reason in report.reasons]) == (verdict, [clause] if clause else [])


@pytest.mark.parametrize(("bundle", "code"), SNP_BAD)
def test_real_report_with_another_chain_is_refused(corpus: Path, bundle: tuple[str, ...], code: str) -> None:
    report = _judge_snp((corpus / TRUSTEE / "test-report.bin").read_bytes(), _bundle(corpus, bundle))
    assert (report.authentic, report.reasons[0].clause) == (False, code)


def test_real_report_whose_key_has_expired_is_refused(corpus: Path) -> None:
    _, folder, bundle, *_ = SNP[1]
    data = (corpus / folder / "test-vlek-report.bin").read_bytes()
    report = _judge_snp(data, _bundle(corpus, bundle), at=datetime(2026, 1, 1, tzinfo=UTC))
    assert report.reasons[0].clause == "collateral_expired"


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_amds_roots_have_the_key_ids_that_count_as_hardware(corpus: Path, product: str) -> None:
    chain = x509.load_pem_x509_certificates((corpus / TRUSTEE / f"{product.lower()}_ask_ark_asvk.pem").read_bytes())
    root = next(each for each in chain if each.subject == each.issuer)
    assert rsa_root_key_id(root) == AMD_ROOT_KEY_IDS[product]
