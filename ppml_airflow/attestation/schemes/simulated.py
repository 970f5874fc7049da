"""A simulated TEE platform: SGX quotes and collateral under a root made for one installation.

The bytes are those of a real platform and go through the verifier that takes Intel's root; what tells them apart is the
root key alone (`roots.trust_of`). It protects nothing against the administrator of the machine: whoever reads the
folder can quote anything. Give it to the quoting service only.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec

from ppml_airflow.attestation.report_data import REPORT_DATA_BYTES
from ppml_airflow.attestation.roots import TrustRoot
from ppml_airflow.attestation.schemes import simulated_pki as pki
from ppml_airflow.attestation.schemes.sgx_quote import EnclaveReport, QuoteSigner, certify_attestation_key
from ppml_airflow.attestation.schemes.simulated_collateral import (
    QE_MR_SIGNER,
    QE_PRODUCT,
    QE_SVN,
    Conditions,
    make_collateral,
)
from ppml_airflow.errors import ConfigurationError, MalformedInputError

MEASUREMENT_BYTES = 32
_HEALTHY = Conditions()
_CPU_SVN = bytes([pki.COMPONENT_SVN] * 16)
_ENCLAVE_MR_SIGNER = hashlib.sha256(b"ppml_airflow simulated enclave signer").digest()
_QE_MR_ENCLAVE = hashlib.sha256(b"ppml_airflow simulated quoting enclave, measurement").digest()


class SimulatedPlatform:
    """A machine whose CPU is played by software: it quotes whatever measurement its holder names.

    Attributes:
        root: the root of this installation; `root.trust` is always `simulated`.
    """

    def __init__(
        self, *, root: pki.CertifiedKey, ca: pki.CertifiedKey, pck: pki.CertifiedKey, tcb: pki.CertifiedKey
    ) -> None:
        self._root, self._ca, self._pck, self._tcb = root, ca, pck, tcb
        self.root = TrustRoot.from_pem(root.pem.decode())
        self._signer = _make_signer(pck, chain=pck.pem + ca.pem + root.pem)

    @classmethod
    def create(cls, folder: Path, *, now: datetime) -> Self:
        """Make a platform with keys of its own and store it. The folder appears whole or not at all.

        Raises:
            ConfigurationError: the folder has something in it already.
        """
        root = pki.make_root(now=now)
        ca = pki.make_authority("SIMULATED PCK Platform CA, NOT Intel", issuer=root, now=now)
        pck = pki.make_leaf(
            "SIMULATED PCK Certificate, NOT Intel", issuer=ca, now=now, extension=pki.platform_extension()
        )
        tcb = pki.make_leaf("SIMULATED TCB Signing, NOT Intel", issuer=root, now=now)
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            for name, certified in (("root", root), ("ca", ca), ("pck", pck), ("tcb", tcb)):
                certified.store(staging, name=name)
            staging.rename(folder)
        except OSError as error:
            shutil.rmtree(staging, ignore_errors=True)
            raise ConfigurationError(
                f"simulated platform {folder} cannot be made: {error.strerror}", hint="name a new or an empty folder"
            ) from error
        return cls(root=root, ca=ca, pck=pck, tcb=tcb)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a platform that `create` stored. It quotes with a fresh attestation key.

        Raises:
            ConfigurationError: the folder is incomplete or broken.
        """
        root, ca, pck, tcb = (pki.CertifiedKey.load(folder, name=name) for name in ("root", "ca", "pck", "tcb"))
        return cls(root=root, ca=ca, pck=pck, tcb=tcb)

    @property
    def root_der(self) -> bytes:
        """The root certificate, DER."""
        return self.root.certificate

    def collateral(self, now: datetime, *, conditions: Conditions = _HEALTHY) -> bytes:
        """Sign collateral that is valid for 30 days from `now`.

        Args:
            now: aware.
            conditions: what to say of the platform; healthy if not given.

        Returns:
            `QuoteCollateralV3` as JSON. Other bytes at each call: signatures are randomised.
        """
        return make_collateral(conditions, root=self._root, ca=self._ca, pck=self._pck, tcb=self._tcb, now=now)

    def quote_sgx(self, *, measurement: bytes, report_data: bytes, is_debug: bool = False) -> bytes:
        """Quote an enclave of this measurement (32 bytes) with this report data (64 bytes): an SGX quote, version 3.

        Raises:
            MalformedInputError: a length is wrong; nothing is padded or cut.
        """
        for name, value, length in (
            ("measurement", measurement, MEASUREMENT_BYTES),
            ("report data", report_data, REPORT_DATA_BYTES),
        ):
            if len(value) != length:
                raise MalformedInputError(f"{name} has {len(value)} bytes, wanted {length}")
        report = EnclaveReport(
            cpu_svn=_CPU_SVN,
            mr_enclave=measurement,
            mr_signer=_ENCLAVE_MR_SIGNER,
            report_data=report_data,
            is_debug=is_debug,
        )
        return self._signer.quote(report)


def _make_signer(pck: pki.CertifiedKey, *, chain: bytes) -> QuoteSigner:
    attestation_key = ec.generate_private_key(ec.SECP256R1())
    quoting_enclave = EnclaveReport(
        cpu_svn=_CPU_SVN,
        mr_enclave=_QE_MR_ENCLAVE,
        mr_signer=QE_MR_SIGNER,
        report_data=bytes(REPORT_DATA_BYTES),
        product=QE_PRODUCT,
        svn=QE_SVN,
    )
    certification = certify_attestation_key(attestation_key, quoting_enclave=quoting_enclave, pck=pck.key, chain=chain)
    return QuoteSigner(attestation_key=attestation_key, qe_svn=QE_SVN, pce_svn=pki.PCE_SVN, certification=certification)
