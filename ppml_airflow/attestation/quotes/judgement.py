"""One quote, judged: authentic or not, what it says, and whether a policy accepts it. The answer is one document.

`authentic` is told apart from `verdict`: a debug enclave's quote is its platform's word, and refused all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cryptography import x509

from ppml_airflow.attestation.clauses import Finding
from ppml_airflow.attestation.evidence import Evidence, JudgedTee
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.attestation.quotes.appraisal import appraise_quote
from ppml_airflow.attestation.quotes.files import parse_quote_file
from ppml_airflow.attestation.refusals import AUTHENTIC
from ppml_airflow.attestation.roots import INTEL_ROOT, RootKeyId, TrustRoot
from ppml_airflow.attestation.snp.verification import VerifiedSnp, verify_snp
from ppml_airflow.attestation.verification import VerifiedEvidence, verify_evidence
from ppml_airflow.canonical import Document
from ppml_airflow.errors import ConfigurationError, MalformedInputError, VerificationError
from ppml_airflow.units import Trust


class QuoteReason(Document, frozen=True, kw_only=True):
    """Why a quote is refused: a clause of the policy, or the code of a failed verification."""

    clause: str
    got: str
    want: str
    hint: str


class QuoteReport(Document, frozen=True, kw_only=True):
    """The answer. What an inauthentic quote says is not repeated here; null stands for what is not known."""

    tee: JudgedTee | None
    authentic: bool
    """Chain and signatures lead to a root that counts."""
    tcb_status: str | None
    """Intel's word; AMD has none."""
    advisories: tuple[str, ...]
    debug: bool | None
    measurements: Mapping[str, str]
    svns: Mapping[str, int | str]
    trust_root: RootKeyId | None
    trust: Trust | None
    verdict: Literal["accepted", "refused"]
    reasons: tuple[QuoteReason, ...]
    """Empty exactly when accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """The answer, and how it came about."""

    report: QuoteReport
    findings: tuple[Finding, ...]
    """Every clause that was judged; none if the quote does not verify."""


def judge_quote(
    file: bytes, *, collateral: bytes, trust_root: bytes | None, policy: Policy | None, now: datetime
) -> QuoteReport:
    """Judge a quote as people hand it over: the answer alone. Arguments and errors are those of `examine_quote`."""
    return examine_quote(file, collateral=collateral, trust_root=trust_root, policy=policy, now=now).report


def examine_quote(
    file: bytes, *, collateral: bytes, trust_root: bytes | None, policy: Policy | None, now: datetime
) -> Examination:
    """Judge a quote as people hand it over, and tell every clause.

    Args:
        file: raw, hex or base64; untrusted.
        collateral: for SGX and TDX `QuoteCollateralV3` as JSON, for SEV-SNP a PEM bundle; untrusted.
        trust_root: PEM of the only root that counts; None for Intel's and AMD's.
        policy: None for the conservative default.
        now: aware.

    Raises:
        ConfigurationError: the trust root is not a certificate of the right kind, or a naive time.
    """
    tee: JudgedTee | None = None
    try:
        tee, quote = parse_quote_file(file)
        verified: VerifiedEvidence | VerifiedSnp
        if tee == "snp":
            verified = verify_snp(quote, collateral=collateral, roots=_amd_roots(trust_root), now=now)
        else:
            evidence = Evidence(tee=tee, quote=quote)
            verified = verify_evidence(evidence, collateral=collateral, roots=_intel_roots(trust_root), now=now)
    except (MalformedInputError, VerificationError) as error:
        return Examination(report=_refused(error, tee=tee), findings=())
    findings = appraise_quote(verified, policy=policy, now=now)
    return Examination(report=_report(verified, findings=findings), findings=findings)


def _report(verified: VerifiedEvidence | VerifiedSnp, *, findings: tuple[Finding, ...]) -> QuoteReport:
    reasons = [finding for finding in findings if not finding.is_met]
    dcap = verified if isinstance(verified, VerifiedEvidence) else None
    return QuoteReport(
        tee=verified.tee,
        authentic=True,
        tcb_status=dcap.tcb_status if dcap else None,
        advisories=dcap.advisory_ids if dcap else (),
        debug=verified.is_debug,
        measurements=verified.measurements,
        svns=dict(verified.svns),
        trust_root=verified.root_key_id,
        trust=verified.trust,
        verdict="refused" if reasons else "accepted",
        reasons=tuple(
            QuoteReason(clause=each.clause, got=each.got, want=each.want, hint=each.hint) for each in reasons
        ),
    )


def _refused(error: MalformedInputError | VerificationError, *, tee: JudgedTee | None) -> QuoteReport:
    reason = QuoteReason(clause=error.code, got=error.message, want="evidence that verifies", hint=error.hint)
    return QuoteReport(
        tee=tee,
        authentic=error.code in AUTHENTIC,
        tcb_status="Revoked" if error.code == "tcb_revoked" else None,
        advisories=(),
        debug=True if error.code == "debug_enclave" else None,
        measurements={},
        svns={},
        trust_root=None,
        trust=None,
        verdict="refused",
        reasons=(reason,),
    )


def _intel_roots(pem: bytes | None) -> tuple[TrustRoot, ...]:
    return (INTEL_ROOT,) if pem is None else (TrustRoot.from_pem(pem.decode(errors="replace")),)


def _amd_roots(pem: bytes | None) -> tuple[x509.Certificate, ...]:
    if pem is None:
        return ()
    try:
        return (x509.load_pem_x509_certificate(pem),)
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigurationError("trust root is not a PEM certificate") from error
