"""The owner's conditions on evidence (RATS: appraisal policy for evidence), as a signed document and as a file.

Default deny: everything that may be accepted is listed, and what is not listed is refused. Every field must be there,
so that a forgotten line never weakens a policy; without `snp` no SEV-SNP report is accepted. Debug enclaves and revoked
platforms cannot be accepted by any policy.

The file is YAML with the fields of the document, without `domain_id`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
import yaml
from msgspec import Meta
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ppml_airflow import canonical
from ppml_airflow.attestation.evidence import JudgedTee
from ppml_airflow.attestation.roots import RootKeyId
from ppml_airflow.canonical import Document
from ppml_airflow.errors import ConfigurationError, MalformedInputError
from ppml_airflow.signing import SignedDocument
from ppml_airflow.units import Digest, Name
from ppml_airflow.yaml_files import parse_yaml

_SGX = r"[0-9a-f]{64}"
_SNP = r"[0-9a-f]{96}"
_TDX = r"[0-9a-f]{96}(:([0-9a-f]{96}|any)){4}"

Measurement = Annotated[str, Meta(pattern=rf"^({_SGX}|{_SNP}|{_TDX})$(?!\n)")]
"""SGX: mr_enclave, 64 hex digits. TDX: mr_td and the run-time registers 0 to 3, 96 hex digits each, joined by colons;
a register that shall not be judged is written `any`. SEV-SNP: measurement, 96 hex digits."""

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

Advisory = Annotated[str, Meta(pattern=r"^[A-Z][A-Z0-9-]{0,63}$(?!\n)")]
"""Such as `INTEL-SA-00615`."""


class ImageReference(Document, frozen=True, kw_only=True):
    """What an image may measure as. More than one while a new build is rolled out."""

    measurements: tuple[Measurement, ...]

    def __post_init__(self) -> None:
        _require_listed("image", measurements=self.measurements)


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
        _refuse_repeated("snp", guest_features=self.guest_features)


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
    advisories: tuple[Advisory, ...]
    """Advisories that a platform may still be subject to."""
    minimum_evaluation_number: Annotated[int, Meta(ge=0)]
    """Of the collateral; the vendor raises it with each round of updates."""
    platform_features: tuple[PlatformFeature, ...]
    """What a platform may have on. One that leaves a feature undefined counts as having it on."""
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
        _refuse_repeated("policy", advisories=self.advisories, platform_features=self.platform_features)


# ---------------------------------------------------------------- the file


def parse_policy_file(text: str, *, domain_id: Digest, name: str = "policy file") -> Policy:
    """Read a policy file for a domain.

    Args:
        text: YAML.
        domain_id: whose policy it is.
        name: what errors call the file.

    Raises:
        ConfigurationError: not such a file; the message lists every mistake with its line.
    """
    fields = parse_yaml(text, into=_PolicyFile, name=name).model_dump(exclude_none=True)
    try:
        return canonical.convert({**fields, "domain_id": domain_id}, into=Policy)
    except MalformedInputError as error:
        raise ConfigurationError(f"{name}: {error.message}") from error


def format_policy_file(policy: Policy) -> str:
    """Write a policy as the file that reads as the same policy."""
    fields = msgspec.to_builtins(policy)
    del fields["domain_id"]
    return yaml.safe_dump(fields, sort_keys=False, width=200)


T = TypeVar("T")


def _as(kind: Any) -> AfterValidator:
    """Judge a value of the file by the document's own type, so that the two cannot disagree."""

    def check(value: T) -> T:
        try:
            msgspec.convert(value, type=kind)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error
        return value

    return AfterValidator(check)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _ImageFile(_Strict):
    measurements: Annotated[list[Annotated[str, _as(Measurement)]], Field(min_length=1)]


class _SnpFile(_Strict):
    minimum_svns: Annotated[dict[SvnName, Annotated[int, Field(ge=0, le=255)]], Field(min_length=1)]
    guest_features: list[GuestFeature]
    maximum_privilege_level: Annotated[int, Field(ge=0, le=3)]
    revocation_list: Literal["required", "optional"]


class _PolicyFile(_Strict):
    name: Annotated[str, _as(Name)]
    version: Annotated[int, Field(ge=1)]
    images: Annotated[dict[Annotated[str, _as(Name)], _ImageFile], Field(min_length=1)]
    tees: Annotated[list[JudgedTee], Field(min_length=1)]
    trust_roots: Annotated[list[Annotated[str, _as(RootKeyId)]], Field(min_length=1)]
    tcb_statuses: Annotated[list[TcbStatus], Field(min_length=1)]
    advisories: list[Annotated[str, _as(Advisory)]]
    minimum_evaluation_number: Annotated[int, Field(ge=0)]
    platform_features: list[PlatformFeature]
    snp: _SnpFile | None = None


def _require_listed(subject: str, **fields: tuple[str, ...]) -> None:
    for name, values in fields.items():
        if not values:
            raise ValueError(f"{subject} has no {name}; wanted at least one")
    _refuse_repeated(subject, **fields)


def _refuse_repeated(subject: str, **fields: tuple[str, ...]) -> None:
    for name, values in fields.items():
        if len(set(values)) != len(values):
            raise ValueError(f"{subject} has an entry twice in {name}")
