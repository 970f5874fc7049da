"""Verification of evidence: is the quote authentic, under which root, and what does it say?

Says nothing about whether that is good enough: `appraisal` does, by the owner's policy. A status such as OutOfDate
verifies here. One code path for every root: the root and the time are always explicit, and `trust` is computed from the
root, never from the evidence.

Refuses what dcap-qvl refuses (codes in `refusals`): wrong signatures, chains, revoked certificates, expired collateral,
collateral of another platform, revoked or unknown TCB levels, debug enclaves. Bytes after the end of a quote are not
covered by anything and are ignored: never take the digest of a quote for its identity.

Source: Intel DCAP; dcap-qvl 0.7.0, pinned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated

import dcap_qvl
import msgspec
from msgspec import Meta

from ppml_airflow.attestation.claims import TD_MEASUREMENT, Flag, parse_claims
from ppml_airflow.attestation.evidence import MAX_QUOTE_BYTES, Evidence, Tee
from ppml_airflow.attestation.refusals import CHAIN, explain, refusal
from ppml_airflow.attestation.roots import RootKeyId, TrustRoot, trust_of
from ppml_airflow.canonical import Document
from ppml_airflow.errors import ConfigurationError, MalformedInputError, PpmlError, VerificationError
from ppml_airflow.units import MIB, Trust

MAX_COLLATERAL_BYTES = MIB


class CollateralNumbers(Document, frozen=True, kw_only=True):
    """How new collateral is, in its vendor's counts. None of them ever falls, so a lower one is an older one."""

    evaluation: int
    """The lower of the TCB info's and the quoting enclave identity's, so that neither can be an old one."""
    pck_crl: int
    root_crl: int

    def is_below(self, seen: CollateralNumbers) -> bool:
        """Whether any number is lower than one that was seen."""
        return self.evaluation < seen.evaluation or self.pck_crl < seen.pck_crl or self.root_crl < seen.root_crl

    def __str__(self) -> str:
        return f"evaluation {self.evaluation}, lists {self.pck_crl} and {self.root_crl}"


NOTHING_SEEN = CollateralNumbers(evaluation=0, pck_crl=0, root_crl=0)
"""Where nothing is remembered: a quote, or a passport, judged by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEvidence:
    """What an authentic quote says. Only `verify_evidence` makes it."""

    tee: Tee
    trust: Trust
    root_key_id: RootKeyId
    measurement: str
    """SGX: mr_enclave, 64 hex. TDX: mr_td and the four run-time registers, 96 hex each, joined by colons."""
    platform: str
    """The platform's PPID, 32 hex."""
    measurements: Mapping[str, str]
    """Every register that the report has, by its vendor's name, hex."""
    svns: Mapping[str, int | str]
    """Security versions by name; vectors as hex."""
    signer: str
    """SGX: mr_signer, hex. TDX: empty."""
    product: int
    svn: int
    td_attributes: bytes
    """TDX: 8 bytes. SGX: empty."""
    is_debug: bool
    report_data: bytes
    """64 bytes."""
    tcb_status: str
    tcb_date: datetime
    """Of the platform's TCB level: how far it is patched."""
    advisory_ids: tuple[str, ...]
    numbers: CollateralNumbers
    smt: Flag
    dynamic_platform: Flag
    cached_keys: Flag
    collateral_issued: datetime
    """The newest of the dates at which parts of the collateral were issued."""
    collateral_expires: datetime
    """The earliest of the dates at which parts of the collateral expire; it is good before that second."""
    collateral_stated: datetime
    """When the vendor said what it says of platform and quoting enclave: the older of the two statements."""


def verify_evidence(
    evidence: Evidence, *, collateral: bytes, roots: tuple[TrustRoot, ...], now: datetime
) -> VerifiedEvidence:
    """Verify a quote.

    Args:
        evidence: untrusted.
        collateral: `QuoteCollateralV3` as JSON, untrusted.
        roots: the roots that count; at least one.
        now: aware; the verifier's own time, never the sender's.

    Raises:
        MalformedInputError: quote or collateral do not parse or are too long.
        VerificationError: anything else that dcap-qvl refuses, or a quote of another TEE than it claims.
        ConfigurationError: no root given, or a naive time.

    1. Bound the sizes.
    2. Let dcap-qvl verify the quote under each root, at `now`.
    3. Check that it verified what was claimed, and read its claims.
    """
    if now.tzinfo is None:
        raise ConfigurationError(f"time {now.isoformat()} has no time zone; wanted an aware one")
    # 1
    if len(evidence.quote) > MAX_QUOTE_BYTES:
        raise MalformedInputError(f"quote has {len(evidence.quote)} bytes; at most {MAX_QUOTE_BYTES} are read")
    if len(collateral) > MAX_COLLATERAL_BYTES:
        raise MalformedInputError(f"collateral has {len(collateral)} bytes; at most {MAX_COLLATERAL_BYTES} are read")
    # 2
    try:
        claims_json = _verify_under_any(evidence.quote, collateral=collateral, roots=roots, now_s=int(now.timestamp()))
    except PpmlError as error:
        raise explain(error, quote=evidence.quote, collateral=collateral, roots=roots, now=now) from error
    # 3
    return _read_claims(claims_json, evidence=evidence, roots=roots, stated=_stated(collateral))


def reread_quote(quote: bytes) -> tuple[str, str]:
    """Measurement and platform, as `VerifiedEvidence` has them, of a quote that was verified before.

    Raises:
        MalformedInputError: it does not parse, so it never was.
    """
    try:
        parsed = dcap_qvl.parse_quote(quote)
        report = parsed.report
        registers = TD_MEASUREMENT if parsed.is_tdx() else ("mr_enclave",)
        measurement = ":".join(bytes(getattr(report, name)).hex() for name in registers)
        return measurement, bytes(parsed.pck_extension().ppid).hex()
    except (ValueError, AttributeError) as error:
        raise MalformedInputError(f"quote does not parse: {str(error)[:200]}", code="quote_malformed") from error


def _verify_under_any(quote: bytes, *, collateral: bytes, roots: tuple[TrustRoot, ...], now_s: int) -> str:
    parsed = _parse_collateral(collateral)
    policy = dcap_qvl.QuotePolicy.claims_only(now_s)
    refused: PpmlError | None = None
    for root in roots:
        try:
            verifier = dcap_qvl.QuoteVerifier(root.certificate)
            return str(verifier.verify_with_policy(quote, parsed, now_s, policy).to_json())
        except ValueError as error:
            # Under a root that is not its own every quote has a bad chain: that says nothing about the quote.
            if refused is None or refused.code == CHAIN:
                refused = refusal(str(error))
    raise refused or ConfigurationError("no trust root is given; wanted at least one", code="no_roots")


@lru_cache(maxsize=16)
def _parse_collateral(collateral: bytes) -> dcap_qvl.QuoteCollateralV3:
    try:
        return dcap_qvl.QuoteCollateralV3.from_json(collateral.decode())
    except ValueError as error:
        raise MalformedInputError(
            f"collateral does not parse: {str(error)[:200]}", code="collateral_malformed"
        ) from error


class _Signed(msgspec.Struct, frozen=True, rename="camel"):
    issue_date: Annotated[datetime, Meta(tz=True)]


class _Texts(msgspec.Struct, frozen=True):
    tcb_info: str
    qe_identity: str


@lru_cache(maxsize=16)
def _stated(collateral: bytes) -> datetime:
    """Read the dates of both signed texts, after dcap-qvl verified them."""
    try:
        texts = msgspec.json.decode(collateral, type=_Texts)
        return min(msgspec.json.decode(text, type=_Signed).issue_date for text in (texts.tcb_info, texts.qe_identity))
    except (msgspec.DecodeError, RecursionError) as error:
        raise VerificationError(
            f"collateral has no dates that are read here: {error}", code="claims_unknown"
        ) from error


def _read_claims(
    claims_json: str, *, evidence: Evidence, roots: tuple[TrustRoot, ...], stated: datetime
) -> VerifiedEvidence:
    claims = parse_claims(claims_json)
    enclave, pck = claims.report.identity(), claims.platform.pck
    if enclave.tee != evidence.tee:
        raise VerificationError(
            f"evidence claims to be {evidence.tee}, its quote is {enclave.tee}", code="tee_mismatch"
        )
    root_key_id = bytes(claims.platform.root_key_id).hex()
    if root_key_id not in {root.key_id for root in roots}:
        raise VerificationError(
            f"evidence was verified under {root_key_id[:16]}..., not asked for", code="untrusted_root"
        )
    return VerifiedEvidence(
        tee=enclave.tee,
        trust=trust_of(root_key_id),
        root_key_id=root_key_id,
        measurement=enclave.measurement,
        platform=bytes(pck.ppid).hex(),
        measurements=enclave.measurements,
        svns={**enclave.svns, "pce_svn": pck.pce_svn},
        signer=enclave.signer,
        product=enclave.product,
        svn=enclave.svn,
        td_attributes=enclave.td_attributes,
        is_debug=enclave.is_debug,
        report_data=enclave.report_data,
        tcb_status=claims.tcb.status,
        tcb_date=_moment(claims.platform.tcb_date_tag),
        advisory_ids=claims.tcb.advisory_ids,
        numbers=CollateralNumbers(
            evaluation=min(claims.tcb.eval_data_number, claims.qe.tcb_eval_data_number),
            pck_crl=claims.platform.pck_crl_num,
            root_crl=claims.platform.root_ca_crl_num,
        ),
        smt=pck.smt_enabled,
        dynamic_platform=pck.dynamic_platform,
        cached_keys=pck.cached_keys,
        collateral_issued=_moment(max(claims.latest_issue_date, claims.qe_iden_latest_issue_date)),
        collateral_expires=_moment(min(claims.earliest_expiration_date, claims.qe_iden_earliest_expiration_date)),
        collateral_stated=stated,
    )


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
