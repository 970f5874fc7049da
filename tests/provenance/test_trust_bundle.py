from __future__ import annotations

import pytest

from ppml_airflow import canonical
from ppml_airflow.attestation.roots import INTEL_ROOT
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.provenance.trust_bundle import MAX_BUNDLE_BYTES, make_trust_bundle, parse_trust_bundle
from tests.support.owners import Owners
from tests.support.simulated_run import SimulatedRun


def test_a_bundle_reads_as_it_was_written(finished: SimulatedRun) -> None:
    bundle = finished.trust(checkpoints=(finished.checkpoint(size=3),))
    assert parse_trust_bundle(canonical.encode(bundle)) == bundle
    assert [root.trust for root in bundle.roots] == ["simulated"]


def test_white_space_around_a_bundle_does_not_matter(finished: SimulatedRun) -> None:
    bundle = finished.trust()
    assert parse_trust_bundle(b"\n" + canonical.encode(bundle) + b"\n") == bundle


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b'{"domain":null}', b"x" * (MAX_BUNDLE_BYTES + 1)])
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigurationError, match="trust bundle cannot be read") as refused:
        parse_trust_bundle(data)
    assert "ppml trust export" in refused.value.hint


def test_a_root_that_is_no_certificate_is_refused(finished: SimulatedRun) -> None:
    with pytest.raises(ConfigurationError, match="not a DER certificate"):
        parse_trust_bundle(canonical.encode(finished.trust(tee_roots=(b"junk",))))


def test_a_simulated_domain_needs_a_simulated_root() -> None:
    with pytest.raises(ConfigurationError, match="names no simulated TEE root"):
        make_trust_bundle(Owners("visits").domain, tee_roots=[INTEL_ROOT])


def test_a_hardware_domain_needs_a_hardware_root(finished: SimulatedRun) -> None:
    domain = Owners("visits", trust="hardware").domain
    with pytest.raises(ConfigurationError, match="names no hardware TEE root"):
        make_trust_bundle(domain, tee_roots=[finished.platform.root])
    assert make_trust_bundle(domain, tee_roots=[INTEL_ROOT]).roots == (INTEL_ROOT,)
