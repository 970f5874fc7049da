"""The owner's conditions on evidence (RATS: appraisal policy for evidence), as a signed document.

Default deny: everything that may be accepted is listed, and what is not listed is refused. What may be left out stands
for a refusal (no `tdx`: no TD; no `signers`: no enclave by its signer; no grace) or, for the two ages, for the bound
that is written here. No policy can accept debug enclaves, TDs without SEPT_VE_DISABLE or revoked platforms.

`policy_files` reads and writes it as YAML, `policy_changes` says in words what a change of it changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from ppml_airflow.attestation.evidence import JudgedTee
from ppml_airflow.attestation.roots import RootKeyId
from ppml_airflow.canonical import Document
from ppml_airflow.signing import SignedDocument
from ppml_airflow.units import Digest, Name

_SGX = r"[0-9a-f]{64}"
_SNP = r"[0-9a-f]{96}"
_TDX = r"[0-9a-f]{96}(:([0-9a-f]{96}|any)){4}"

Measurement = Annotated[str, Meta(pattern=rf"^({_SGX}|{_SNP}|{_TDX})$(?!\n)")]
"""SGX: mr_enclave, 64 hex digits. TDX: mr_td and the run-time registers 0 to 3, 96 hex digits each, joined by colons;
a register that shall not be judged is written `any`. SEV-SNP: measurement, 96 hex digits."""

MrSigner = Annotated[str, Meta(pattern=rf"^{_SGX}$(?!\n)")]
"""SHA-256 of the key that signed an SGX enclave, 64 hex digits."""

U16 = Annotated[int, Meta(ge=0, le=0xFFFF)]

TcbStatus = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
]

PlatformFeature = Literal["smt", "dynamic_platform", "cached_keys"]

ANY = "any"
Advisory = Annotated[str, Meta(pattern=r"^(any|[A-Z][A-Z0-9-]{0,63})$(?!\n)")]
"""Such as `INTEL-SA-00615`; `any`, alone in `advisories`, stands for every one that is not denied."""

GraceDays = Annotated[int, Meta(ge=1, le=3650)]

DEFAULT_COLLATERAL_AGE_HOURS = 720
"""30 days: as long as Intel lets its collateral live."""
DEFAULT_EVIDENCE_AGE_SECONDS = 120
"""As long as a session of the broker lives."""


class SgxSigner(Document, frozen=True, kw_only=True):
    """Any enclave that this key signed as this product, from a security version on.

    Whoever holds the key decides what runs, and which domain it obeys: measure where you can.
    """

    mr_signer: MrSigner
    product: U16
    minimum_svn: U16


class ImageReference(Document, frozen=True, kw_only=True, omit_defaults=True):
    """What an image may be. More than one reference value while a new build is rolled out."""

    measurements: tuple[Measurement, ...] = ()
    signers: tuple[SgxSigner, ...] = ()

    def __post_init__(self) -> None:
        if not self.measurements and not self.signers:
            raise ValueError("image has no measurements and no signers; wanted at least one")
        refuse_repeated("image", measurements=self.measurements)
        check_signers(self.signers)


TdAttribute = Literal[
    "hgs_plus_prof",
    "perf_prof",
    "pmt_prof",
    "icssd",
    "lass",
    "migratable",
    "pks",
    "key_locker",
    "tpa",
    "perfmon",
]


class TdxConditions(Document, frozen=True, kw_only=True):
    """What TDs must meet beside the rest."""

    attributes: tuple[TdAttribute, ...]
    """What a TD may have on. SEPT_VE_DISABLE it must have, DEBUG it may not, and neither is listed."""

    def __post_init__(self) -> None:
        refuse_repeated("tdx", attributes=self.attributes)


SvnName = Literal["fmc", "bootloader", "tee", "snp", "microcode"]

GuestFeature = Literal["smt", "migration_agent"]


class SnpConditions(Document, frozen=True, kw_only=True):
    """What SEV-SNP reports must meet beside the rest: AMD gives no status, so the owner states the versions."""

    minimum_svns: Mapping[SvnName, Annotated[int, Meta(ge=0, le=255)]]
    """Of the reported TCB; a component of the platform that is not listed is refused."""
    guest_features: tuple[GuestFeature, ...]
    """What the guest's policy may allow."""
    maximum_privilege_level: Annotated[int, Meta(ge=0, le=3)]
    """VMPL from which the report may be asked; 0 is the most privileged."""
    revocation_list: Literal["required", "optional"]

    def __post_init__(self) -> None:
        _require_listed("snp", minimum_svns=tuple(self.minimum_svns))
        refuse_repeated("snp", guest_features=self.guest_features)


class Policy(SignedDocument, frozen=True, kw_only=True, omit_defaults=True):
    """One version of a policy."""

    payload_type: ClassVar[str] = "application/vnd.ppml.policy.v1+json"
    domain_id: Digest
    name: Name
    version: Annotated[int, Meta(ge=1)]
    """Only upwards."""
    images: Mapping[Name, ImageReference]
    tees: tuple[JudgedTee, ...]
    trust_roots: tuple[RootKeyId, ...]
    """Key ids of the roots that evidence may lead to."""
    tcb_statuses: tuple[TcbStatus, ...]
    tcb_grace_days: Mapping[TcbStatus, GraceDays] = msgspec.field(default_factory=dict)
    """Other statuses, accepted for so many days after the date of the platform's TCB level."""
    advisories: tuple[Advisory, ...]
    """Advisories that a platform may still be subject to."""
    denied_advisories: tuple[Advisory, ...] = ()
    """Advisories that it may not be subject to, where `advisories` says `any`."""
    minimum_evaluation_number: Annotated[int, Meta(ge=0)]
    """Of the collateral; the vendor raises it with each round of updates."""
    platform_features: tuple[PlatformFeature, ...]
    """What a platform may have on. One that leaves a feature undefined counts as having it on."""
    maximum_collateral_age_hours: Annotated[int, Meta(ge=1, le=24 * 366)] = DEFAULT_COLLATERAL_AGE_HOURS
    """Since the vendor said it; expired collateral is refused whatever stands here."""
    maximum_evidence_age_seconds: Annotated[int, Meta(ge=1, le=3600)] = DEFAULT_EVIDENCE_AGE_SECONDS
    """Between challenge and judgement."""
    tdx: TdxConditions | None = None
    """Absent refuses every TD."""
    snp: SnpConditions | None = None
    """Absent refuses every SEV-SNP report."""

    def __post_init__(self) -> None:
        _require_listed(
            "policy",
            images=tuple(self.images),
            tees=self.tees,
            trust_roots=self.trust_roots,
            tcb_statuses=self.tcb_statuses,
        )
        refuse_repeated(
            "policy",
            advisories=self.advisories,
            denied_advisories=self.denied_advisories,
            platform_features=self.platform_features,
        )
        check_advisories(self.advisories)
        check_denied_advisories(self.denied_advisories, advisories=self.advisories)
        check_grace(self.tcb_grace_days, statuses=self.tcb_statuses)

    def accepts_advisory(self, advisory: str) -> bool:
        """Whether a platform may be subject to an advisory."""
        return advisory in self.advisories or (self.advisories == (ANY,) and advisory not in self.denied_advisories)


# ---------------------------------------------------------------- what cannot both be meant


def check_advisories(advisories: Collection[str]) -> None:
    """Refuse `any` beside others."""
    if ANY in advisories and len(advisories) > 1:
        raise ValueError("any stands beside others; wanted any alone, or a list")


def check_denied_advisories(denied: Collection[str], *, advisories: Collection[str]) -> None:
    """Refuse denials that say nothing: what is not listed in advisories is refused already."""
    if denied and tuple(advisories) != (ANY,):
        raise ValueError("denied_advisories says nothing unless advisories is [any]: what is not listed is refused")
    if ANY in denied:
        raise ValueError("denied_advisories has any; wanted advisories: [] instead")


def check_grace(grace: Collection[str], *, statuses: Collection[str]) -> None:
    """Refuse a grace for what is accepted without end."""
    for status in grace:
        if status in statuses:
            raise ValueError(
                f"status {status} has a grace and stands in tcb_statuses, which knows no end; wanted one of them"
            )


def check_signers(signers: Sequence[SgxSigner]) -> None:
    """Refuse two minimum versions for one product of one signer."""
    refuse_repeated("image", signers=[(one.mr_signer, one.product) for one in signers])


def refuse_repeated(subject: str, **fields: Collection[object]) -> None:
    """Refuse a list that names one thing twice."""
    for name, values in fields.items():
        if len(set(values)) != len(values):
            raise ValueError(f"{subject} has an entry twice in {name}")


def _require_listed(subject: str, **fields: tuple[str, ...]) -> None:
    for name, values in fields.items():
        if not values:
            raise ValueError(f"{subject} has no {name}; wanted at least one")
    refuse_repeated(subject, **fields)
