"""The policy of the tests' owners: the simulated platform as it is, and one image."""

from __future__ import annotations

import hashlib

import msgspec

from ppml_airflow.attestation.policy import ImageReference, Policy
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.domain.documents import Domain

MEASUREMENT = hashlib.sha256(b"image spark").digest()


def standard_policy(domain: Domain, *, platform: SimulatedPlatform, **changes: object) -> Policy:
    """The policy `standard`, version 1; `changes` replace its fields."""
    policy = Policy(
        domain_id=domain.domain_id,
        name="standard",
        version=1,
        images={"spark": ImageReference(measurements=(MEASUREMENT.hex(),))},
        tees=("sgx",),
        trust_roots=(platform.root.key_id,),
        tcb_statuses=("UpToDate",),
        advisories=(),
        minimum_evaluation_number=1,
        platform_features=("smt", "dynamic_platform", "cached_keys"),
    )
    return msgspec.structs.replace(policy, **changes)
