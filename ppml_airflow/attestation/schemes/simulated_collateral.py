"""The collateral of a simulated platform: what its vendor says of it today, in the form that Intel's services answer.

TCB info version 3, QE identity version 2, two revocation lists. Signed over exactly the JSON bytes that are sent.

Source: Intel PCS API version 4; `QuoteCollateralV3` of dcap-qvl for the envelope (signatures and lists as hex).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ppml_airflow.attestation.schemes.sgx_quote import sign_raw
from ppml_airflow.attestation.schemes.simulated_pki import (
    COMPONENT_SVN,
    FMSPC,
    PCE_ID,
    PCE_SVN,
    CertifiedKey,
    make_revocation_list,
)
from ppml_airflow.units import format_instant

COLLATERAL_LIFETIME = timedelta(days=30)
QE_MR_SIGNER = hashlib.sha256(b"ppml_airflow simulated quoting enclave").digest()
QE_PRODUCT = 1
QE_SVN = 8
_TCB_DATE = "2026-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What the simulated vendor says. By default a healthy platform; anything else is for tests and rehearsals."""

    tcb_status: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    qe_status: str = "UpToDate"
    is_platform_revoked: bool = False
    lowest_component_svn: int = COMPONENT_SVN
    """Of the only TCB level; above `COMPONENT_SVN` the platform matches no level."""
    fmspc: bytes = FMSPC
    evaluation_number: int = 1
    list_number: int = 1
    """Of both revocation lists."""
    lifetime: timedelta = COLLATERAL_LIFETIME


def make_collateral(
    conditions: Conditions, *, root: CertifiedKey, ca: CertifiedKey, pck: CertifiedKey, tcb: CertifiedKey, now: datetime
) -> bytes:
    """Sign collateral that is valid from `now`; JSON bytes.

    Args:
        conditions: what to say of the platform.
        root: signs the list of revoked CAs.
        ca: signs the list of revoked platforms.
        pck: the platform's certificate.
        tcb: signs TCB info and QE identity.
        now: aware.
    """
    issued = now.replace(microsecond=0)
    dates = {
        "issueDate": format_instant(issued),
        "nextUpdate": format_instant(issued + conditions.lifetime),
        "tcbEvaluationDataNumber": conditions.evaluation_number,
    }
    tcb_info = _compact({**_tcb_info(conditions), **dates})
    qe_identity = _compact({**_qe_identity(conditions), **dates})
    revoked = (pck.certificate.serial_number,) if conditions.is_platform_revoked else ()
    lists: Any = {"now": issued, "lifetime": conditions.lifetime, "number": conditions.list_number}
    signing_chain = (tcb.pem + root.pem).decode()
    collateral = {
        "pck_crl_issuer_chain": (ca.pem + root.pem).decode(),
        "root_ca_crl": make_revocation_list(root, revoked=(), **lists).hex(),
        "pck_crl": make_revocation_list(ca, revoked=revoked, **lists).hex(),
        "tcb_info_issuer_chain": signing_chain,
        "tcb_info": tcb_info,
        "tcb_info_signature": sign_raw(tcb_info.encode(), key=tcb.key).hex(),
        "qe_identity_issuer_chain": signing_chain,
        "qe_identity": qe_identity,
        "qe_identity_signature": sign_raw(qe_identity.encode(), key=tcb.key).hex(),
    }
    return _compact(collateral).encode()


def _tcb_info(conditions: Conditions) -> dict[str, object]:
    level = {
        "tcb": {"sgxtcbcomponents": [{"svn": conditions.lowest_component_svn}] * 16, "pcesvn": PCE_SVN},
        "tcbDate": _TCB_DATE,
        "tcbStatus": conditions.tcb_status,
        "advisoryIDs": list(conditions.advisories),
    }
    return {
        "id": "SGX",
        "version": 3,
        "fmspc": conditions.fmspc.hex().upper(),
        "pceId": PCE_ID.hex().upper(),
        "tcbType": 0,
        "tcbLevels": [level],
    }


def _qe_identity(conditions: Conditions) -> dict[str, object]:
    return {
        "id": "QE",
        "version": 2,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "05000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_MR_SIGNER.hex().upper(),
        "isvprodid": QE_PRODUCT,
        "tcbLevels": [{"tcb": {"isvsvn": QE_SVN}, "tcbDate": _TCB_DATE, "tcbStatus": conditions.qe_status}],
    }


def _compact(value: Mapping[str, object]) -> str:
    return json.dumps(value, separators=(",", ":"))
