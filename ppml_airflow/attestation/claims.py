"""What dcap-qvl says of a quote that it verified, read from its JSON into types.

Only for the output of the verifier, never for a quote. A form that is not known here is refused.

Source: claims version 1 of dcap-qvl 0.7.0: reports as hex, key ids as lists of integers, flags as words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from ppml_airflow.attestation.evidence import Tee
from ppml_airflow.errors import VerificationError

Flag = Literal["True", "False", "Undefined"]
"""A property of a platform as its certificate states it; certificates of single-socket platforms leave it undefined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What runs in the TEE. `signer`, `product` and `svn` are SGX's; empty and 0 for a TD."""

    tee: Tee
    measurement: str
    measurements: Mapping[str, str]
    """Every register, by its vendor's name, hex."""
    svns: Mapping[str, int | str]
    """Security versions of what the report itself covers; vectors as hex."""
    is_debug: bool
    report_data: bytes
    signer: str = ""
    product: int = 0
    svn: int = 0
    td_attributes: bytes = b""
    """8 bytes, as the report holds them; empty for an enclave."""


class Tcb(msgspec.Struct, frozen=True):
    """The verdict on the platform's security version."""

    status: str
    advisory_ids: tuple[str, ...]
    eval_data_number: int


class Pck(msgspec.Struct, frozen=True):
    """The platform's certificate. `ppid`: 16 bytes, the platform's own id, the same in all its certificates."""

    ppid: list[int]
    pce_svn: int
    dynamic_platform: Flag
    cached_keys: Flag
    smt_enabled: Flag


class Platform(msgspec.Struct, frozen=True):
    """The platform and the root above it."""

    pck: Pck
    root_key_id: list[int]
    tcb_date_tag: int
    pck_crl_num: int
    root_ca_crl_num: int


class QuotingEnclave(msgspec.Struct, frozen=True):
    """The enclave that quoted, as far as it is judged beside the platform."""

    tcb_eval_data_number: int


class SgxReport(msgspec.Struct, frozen=True):
    """An enclave's report."""

    cpu_svn: str
    attributes: str
    mr_enclave: str
    mr_signer: str
    isv_prod_id: int
    isv_svn: int
    report_data: str

    def identity(self) -> Identity:
        """Read it."""
        return Identity(
            tee="sgx",
            measurement=self.mr_enclave,
            measurements={"mrenclave": self.mr_enclave, "mrsigner": self.mr_signer},
            svns={"cpu_svn": self.cpu_svn, "isv_prod_id": self.isv_prod_id, "isv_svn": self.isv_svn},
            is_debug=bool(bytes.fromhex(self.attributes)[0] & 0x02),
            report_data=bytes.fromhex(self.report_data),
            signer=self.mr_signer,
            product=self.isv_prod_id,
            svn=self.isv_svn,
        )


TD_MEASUREMENT = ("mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3")
"""The registers that are a TD's measurement."""


class TdReport(msgspec.Struct, frozen=True):
    """A TD's report, version 1.0, and the part that later versions have in common with it."""

    tee_tcb_svn: str
    mr_seam: str
    mr_signer_seam: str
    td_attributes: str
    mr_td: str
    mr_config_id: str
    mr_owner: str
    mr_owner_config: str
    rt_mr0: str
    rt_mr1: str
    rt_mr2: str
    rt_mr3: str
    report_data: str

    def identity(self) -> Identity:
        """Read it. A TD's firmware is in mr_td, what it booted in the registers: the measurement is all five."""
        return Identity(
            tee="tdx",
            measurement=":".join(getattr(self, name) for name in TD_MEASUREMENT),
            measurements={
                "mrtd": self.mr_td,
                "rtmr0": self.rt_mr0,
                "rtmr1": self.rt_mr1,
                "rtmr2": self.rt_mr2,
                "rtmr3": self.rt_mr3,
                "mrseam": self.mr_seam,
                "mrsignerseam": self.mr_signer_seam,
                "mrconfigid": self.mr_config_id,
                "mrowner": self.mr_owner,
                "mrownerconfig": self.mr_owner_config,
            },
            svns={"tee_tcb_svn": self.tee_tcb_svn},
            is_debug=bool(bytes.fromhex(self.td_attributes)[0] & 0x01),
            report_data=bytes.fromhex(self.report_data),
            td_attributes=bytes.fromhex(self.td_attributes),
        )


class Td15Report(msgspec.Struct, frozen=True):
    """A TD's report, version 1.5."""

    base: TdReport
    tee_tcb_svn2: str
    mr_service_td: str

    def identity(self) -> Identity:
        """Read it."""
        base = self.base.identity()
        return replace(
            base,
            measurements={**base.measurements, "mrservicetd": self.mr_service_td},
            svns={**base.svns, "tee_tcb_svn2": self.tee_tcb_svn2},
        )


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exactly one of the kinds of report."""

    sgx: SgxReport | None = msgspec.field(default=None, name="SgxEnclave")
    td10: TdReport | None = msgspec.field(default=None, name="TD10")
    td15: Td15Report | None = msgspec.field(default=None, name="TD15")

    def __post_init__(self) -> None:
        if sum(report is not None for report in (self.sgx, self.td10, self.td15)) != 1:
            raise ValueError("not exactly one report")

    def identity(self) -> Identity:
        """Read the report that there is."""
        return next(report.identity() for report in (self.sgx, self.td10, self.td15) if report is not None)


class Claims(msgspec.Struct, frozen=True):
    """The claims that appraisal needs. Times are seconds since 1970; those of the QE identity stand apart."""

    claims_version: Literal[1]
    tcb: Tcb
    platform: Platform
    qe: QuotingEnclave
    latest_issue_date: int
    earliest_expiration_date: int
    qe_iden_latest_issue_date: int
    qe_iden_earliest_expiration_date: int
    report: Report


_DECODER = msgspec.json.Decoder(Claims)


def parse_claims(claims_json: str) -> Claims:
    """Read the verifier's JSON.

    Raises:
        VerificationError: a form that is not known here; the pinned dcap-qvl was replaced.
    """
    try:
        return _DECODER.decode(claims_json)
    except msgspec.DecodeError as error:
        raise VerificationError(f"claims of dcap-qvl have an unknown form: {error}", code="claims_unknown") from error
