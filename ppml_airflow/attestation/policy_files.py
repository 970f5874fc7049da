"""A policy as a file: YAML with the fields of the document, without `domain_id`.

Refuses unknown and misspelt clauses, missing ones, values of a wrong form and lines that contradict each other: every
mistake at once, each with its line.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from ppml_airflow import canonical
from ppml_airflow.attestation.evidence import JudgedTee
from ppml_airflow.attestation.policy import (
    DEFAULT_COLLATERAL_AGE_HOURS,
    DEFAULT_EVIDENCE_AGE_SECONDS,
    Advisory,
    GraceDays,
    GuestFeature,
    Measurement,
    MrSigner,
    PlatformFeature,
    Policy,
    SgxSigner,
    SvnName,
    TcbStatus,
    TdAttribute,
    check_advisories,
    check_denied_advisories,
    check_grace,
    check_signers,
    refuse_repeated,
)
from ppml_airflow.attestation.roots import RootKeyId
from ppml_airflow.errors import MalformedInputError
from ppml_airflow.units import Digest, Name
from ppml_airflow.yaml_files import InvalidFileError, parse_yaml

NO_DOMAIN: Digest = "sha256:" + "0" * 64
"""A policy file names no domain; so it is read where there is none, as for a quote outside a session."""


def parse_policy_file(text: str, *, domain_id: Digest, name: str = "policy file") -> Policy:
    """Read a policy file for a domain.

    Args:
        text: YAML.
        domain_id: whose policy it is.
        name: what errors call the file.

    Raises:
        ConfigurationError: not YAML.
        InvalidFileError: not such a file: every mistake with its line.
    """
    fields = parse_yaml(text, into=_PolicyFile, name=name).model_dump(exclude_none=True)
    try:
        return canonical.convert({**fields, "domain_id": domain_id}, into=Policy)
    except MalformedInputError as error:
        raise InvalidFileError((f"{name}: {error.message}",)) from error


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


def _distinct(values: list[T], info: ValidationInfo) -> list[T]:
    refuse_repeated("policy", **{str(info.field_name): values})
    return values


Distinct = AfterValidator(_distinct)
Listed = Field(min_length=1)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _SignerFile(_Strict):
    mr_signer: Annotated[str, _as(MrSigner)]
    product: Annotated[int, Field(ge=0, le=0xFFFF)]
    minimum_svn: Annotated[int, Field(ge=0, le=0xFFFF)]


class _ImageFile(_Strict):
    measurements: Annotated[list[Annotated[str, _as(Measurement)]], Distinct] = []
    signers: list[_SignerFile] = []

    @field_validator("signers")
    @classmethod
    def _one_version_each(cls, signers: list[_SignerFile]) -> list[_SignerFile]:
        check_signers([SgxSigner(**one.model_dump()) for one in signers])
        return signers

    @model_validator(mode="after")
    def _something(self) -> _ImageFile:
        if not self.measurements and not self.signers:
            raise ValueError("has no measurements and no signers; wanted at least one")
        return self


class _TdxFile(_Strict):
    attributes: Annotated[list[TdAttribute], Distinct]


class _SnpFile(_Strict):
    minimum_svns: Annotated[dict[SvnName, Annotated[int, Field(ge=0, le=255)]], Listed]
    guest_features: Annotated[list[GuestFeature], Distinct]
    maximum_privilege_level: Annotated[int, Field(ge=0, le=3)]
    revocation_list: Literal["required", "optional"]


class _PolicyFile(_Strict):
    name: Annotated[str, _as(Name)]
    version: Annotated[int, Field(ge=1)]
    images: Annotated[dict[Annotated[str, _as(Name)], _ImageFile], Listed]
    tees: Annotated[list[JudgedTee], Listed, Distinct]
    trust_roots: Annotated[list[Annotated[str, _as(RootKeyId)]], Listed, Distinct]
    tcb_statuses: Annotated[list[TcbStatus], Listed, Distinct]
    tcb_grace_days: dict[TcbStatus, Annotated[int, _as(GraceDays)]] = {}
    advisories: Annotated[list[Annotated[str, _as(Advisory)]], Distinct]
    denied_advisories: Annotated[list[Annotated[str, _as(Advisory)]], Distinct] = []
    minimum_evaluation_number: Annotated[int, Field(ge=0)]
    platform_features: Annotated[list[PlatformFeature], Distinct]
    maximum_collateral_age_hours: Annotated[int, Field(ge=1, le=24 * 366)] = DEFAULT_COLLATERAL_AGE_HOURS
    maximum_evidence_age_seconds: Annotated[int, Field(ge=1, le=3600)] = DEFAULT_EVIDENCE_AGE_SECONDS
    tdx: _TdxFile | None = None
    snp: _SnpFile | None = None

    @field_validator("tcb_grace_days")
    @classmethod
    def _grace(cls, grace: dict[str, int], info: ValidationInfo) -> dict[str, int]:
        check_grace(grace, statuses=info.data.get("tcb_statuses", ()))
        return grace

    @field_validator("advisories")
    @classmethod
    def _any_alone(cls, advisories: list[str]) -> list[str]:
        check_advisories(advisories)
        return advisories

    @field_validator("denied_advisories")
    @classmethod
    def _denied(cls, denied: list[str], info: ValidationInfo) -> list[str]:
        check_denied_advisories(denied, advisories=info.data.get("advisories", ("any",)))
        return denied
