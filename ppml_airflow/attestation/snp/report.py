"""An SEV-SNP attestation report, read from its bytes. Untrusted until `verification` has judged its signature.

Source: AMD SEV Secure Nested Paging Firmware ABI Specification, document 56860, "ATTESTATION_REPORT" and "TCB_VERSION";
integers are little endian. Versions 2 to 5: the fields read here have not moved.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from ppml_airflow.errors import MalformedInputError, VerificationError

REPORT_BYTES = 1184
SIGNED_BYTES = 0x2A0

Product = Literal["Milan", "Genoa", "Turin"]
Signer = Literal["VCEK", "VLEK"]

LAYOUTS: Mapping[Product, Mapping[str, int]] = {
    "Milan": {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7},
    "Genoa": {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7},
    "Turin": {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7},
}
"""Which byte of a TCB version is which component."""

_VERSIONS = range(2, 6)
_VERSION_WITH_CPUID = 3
_ECDSA_P384_SHA384 = 1
_SIGNERS: Mapping[int, Signer] = {0: "VCEK", 1: "VLEK"}
_SCALAR_BYTES, _SCALAR_FIELD_BYTES = 48, 72


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpReport:
    """The fields that are judged or told. Byte strings as the report holds them."""

    version: int
    guest_policy: int
    privilege_level: int
    signer: Signer
    report_data: bytes
    measurement: bytes
    registers: Mapping[str, str]
    """The other registers that a guest or its owner fills, by AMD's name, hex."""
    reported_tcb: bytes
    chip_id: bytes
    """Zeros where the host masks it."""
    product: Product | None
    """By CPU family and model; reports of version 2 do not say."""
    signed: bytes
    r: int
    s: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a report; bytes after its end are ignored.

        Raises:
            MalformedInputError: too short.
            VerificationError: a version, signature algorithm, signing key or CPU that is not known here.
        """
        if len(data) < REPORT_BYTES:
            raise MalformedInputError(
                f"SEV-SNP report has {len(data)} bytes, wanted {REPORT_BYTES}", code="quote_malformed"
            )
        version, _, guest_policy = struct.unpack_from("<IIQ", data)
        level, algorithm = struct.unpack_from("<II", data, 0x30)
        (key_flags,) = struct.unpack_from("<I", data, 0x48)
        signer = _SIGNERS.get(key_flags >> 2 & 0b111)
        if version not in _VERSIONS or algorithm != _ECDSA_P384_SHA384 or signer is None or level > 3:
            raise VerificationError(
                f"SEV-SNP report has version {version}, signature algorithm {algorithm}, key {key_flags >> 2 & 0b111}, "
                f"VMPL {level}; wanted version 2 to 5, ECDSA P-384 by a VCEK or VLEK, VMPL 0 to 3",
                code="quote_unsupported",
            )
        return cls(
            version=version,
            guest_policy=guest_policy,
            privilege_level=level,
            signer=signer,
            report_data=data[0x50:0x90],
            measurement=data[0x90:0xC0],
            registers={
                "family_id": data[0x10:0x20].hex(),
                "image_id": data[0x20:0x30].hex(),
                "host_data": data[0xC0:0xE0].hex(),
                "id_key_digest": data[0xE0:0x110].hex(),
                "author_key_digest": data[0x110:0x140].hex(),
            },
            reported_tcb=data[0x180:0x188],
            chip_id=data[0x1A0:0x1E0],
            product=_product(data[0x188], data[0x189]) if version >= _VERSION_WITH_CPUID else None,
            signed=data[:SIGNED_BYTES],
            r=_scalar(data, at=SIGNED_BYTES),
            s=_scalar(data, at=SIGNED_BYTES + _SCALAR_FIELD_BYTES),
        )

    @property
    def is_debug(self) -> bool:
        """Whether the host may read the guest."""
        return bool(self.guest_policy >> 19 & 1)

    @property
    def guest_features(self) -> tuple[str, ...]:
        """What the guest's policy allows its host."""
        bits = {"smt": 16, "migration_agent": 18}
        return tuple(name for name, bit in bits.items() if self.guest_policy >> bit & 1)

    def svns(self, product: Product) -> dict[str, int]:
        """The reported TCB by component."""
        return {name: self.reported_tcb[index] for name, index in LAYOUTS[product].items()}


def _product(family: int, model: int) -> Product:
    if family == 0x19 and model <= 0x0F:
        return "Milan"
    if family == 0x19 and (0x10 <= model <= 0x1F or 0xA0 <= model <= 0xAF):
        return "Genoa"  # and Bergamo, Siena: the same root and layout
    if family == 0x1A and model <= 0x11:
        return "Turin"
    raise VerificationError(
        f"SEV-SNP report is of CPU family {family:#x} model {model:#x}; wanted Milan, Genoa or Turin",
        code="quote_unsupported",
    )


def _scalar(data: bytes, *, at: int) -> int:
    if any(data[at + _SCALAR_BYTES : at + _SCALAR_FIELD_BYTES]):
        raise VerificationError("SEV-SNP report has a signature longer than P-384's", code="quote_signature")
    return int.from_bytes(data[at : at + _SCALAR_BYTES], "little")
