"""Collateral from a caching service of our own, over real TLS."""

from __future__ import annotations

import dataclasses
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ppml_airflow.attestation.collateral.cache import CollateralCache
from ppml_airflow.attestation.collateral.service import INTEL_PCS, CollateralService, fetch_collateral
from ppml_airflow.attestation.collateral.source import CachedCollateral, OneCollateral
from ppml_airflow.attestation.collateral.statements import PlatformFamily
from ppml_airflow.attestation.evidence import Evidence
from ppml_airflow.attestation.verification import verify_evidence
from ppml_airflow.errors import ConfigurationError, MalformedInputError, UnavailableError, VerificationError
from tests.attestation.collateral.conftest import Vendor
from tests.attestation.conftest import NOW
from tests.support.pccs import Pccs, serving


def _service(source: CachedCollateral) -> CollateralService:
    assert source.service is not None
    return source.service


# ---------------------------------------------------------------- fetching


def test_fetched_collateral_verifies_the_quote(
    source: CachedCollateral, vendor: Vendor, family: PlatformFamily, quote: bytes
) -> None:
    collateral = fetch_collateral(family, service=_service(source))
    evidence = Evidence(tee="sgx", quote=quote)
    verified = verify_evidence(evidence, collateral=collateral, roots=(vendor.platform.root,), now=NOW)
    assert verified.tcb_status == "UpToDate"


def test_service_whose_certificate_another_ca_signed_is_refused(
    source: CachedCollateral, family: PlatformFamily, tmp_path: Path, vendor: Vendor
) -> None:
    with serving(tmp_path / "other", collateral=vendor.collateral) as other:
        wrong = CollateralService(url=_service(source).url, ca_file=other.ca_file)
        with pytest.raises(VerificationError) as caught:
            fetch_collateral(family, service=wrong)
    assert caught.value.code == "collateral_service_untrusted"


def test_service_that_no_ca_of_this_machine_certified_is_refused(
    source: CachedCollateral, family: PlatformFamily
) -> None:
    with pytest.raises(VerificationError) as caught:
        fetch_collateral(family, service=CollateralService(url=_service(source).url, ca_file=None))
    assert caught.value.code == "collateral_service_untrusted"


def test_service_under_another_name_than_certified_is_refused(source: CachedCollateral, family: PlatformFamily) -> None:
    service = _service(source)
    renamed = CollateralService(url=service.url.replace("127.0.0.1", "localhost"), ca_file=service.ca_file)
    with pytest.raises(VerificationError) as caught:
        fetch_collateral(family, service=renamed)
    assert caught.value.code == "collateral_service_untrusted"


@pytest.mark.parametrize("url", ["http://pccs", "https://", "ftp://x", "", "https://u:p@pccs", "https://pccs?x=1"])
def test_service_without_tls_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="no plain https address"):
        CollateralService(url=url, ca_file=None)


def test_service_that_is_down_is_unavailable_and_says_what_to_do(family: PlatformFamily, pccs: Pccs) -> None:
    with pytest.raises(UnavailableError, match="ppml collateral import") as caught:
        fetch_collateral(family, service=CollateralService(url="https://127.0.0.1:9", ca_file=pccs.ca_file))
    assert caught.value.code == "collateral_unavailable"


@pytest.mark.parametrize("status", [404, 429, 500, 302])
def test_service_that_does_not_know_or_sends_elsewhere_is_unavailable(
    source: CachedCollateral, family: PlatformFamily, pccs: Pccs, status: int
) -> None:
    pccs.status = status
    with pytest.raises(UnavailableError, match=f"answered {status}"):
        fetch_collateral(family, service=_service(source))


@pytest.mark.parametrize(
    ("path", "body"), [("tcb", b"{}"), ("tcb", b"no"), ("rootcacrl", b"zz"), ("pckcrl", b"\x30"), ("identity", b"[]")]
)
def test_answer_that_does_not_read_is_refused(
    source: CachedCollateral, family: PlatformFamily, pccs: Pccs, path: str, body: bytes
) -> None:
    pccs.changed[path] = (200, body, {})
    with pytest.raises(MalformedInputError):
        source.refresh(family, service=_service(source), now=NOW)


def test_endless_answer_is_cut(source: CachedCollateral, family: PlatformFamily, pccs: Pccs) -> None:
    pccs.changed["tcb"] = (200, b" " * (1 << 21), {})
    with pytest.raises(MalformedInputError, match="answered more than"):
        fetch_collateral(family, service=_service(source))


def test_ca_file_that_is_none_is_wrong_configuration(family: PlatformFamily, pccs: Pccs, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="CA of the collateral service"):
        fetch_collateral(family, service=CollateralService(url=pccs.url, ca_file=tmp_path / "none.pem"))


def test_intels_own_service_keeps_the_roots_list_elsewhere(pccs: Pccs) -> None:
    intel = CollateralService(url=INTEL_PCS, ca_file=None).root_list_url
    assert intel == "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    assert CollateralService(url=pccs.url, ca_file=None).root_list_url.startswith(pccs.url)


# ---------------------------------------------------------------- before a decision


def test_missing_collateral_is_fetched_when_evidence_comes_in_and_only_once(
    source: CachedCollateral, quote: bytes, pccs: Pccs
) -> None:
    with pytest.raises(UnavailableError):
        source.load(quote)
    threads = [threading.Thread(target=source.prepare, args=(quote,), kwargs={"now": NOW}) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert source.load(quote)
    assert len(pccs.paths) == 4


def test_decision_waits_for_no_network(source: CachedCollateral, quote: bytes, pccs: Pccs) -> None:
    source.prepare(quote, now=NOW)
    asked = len(pccs.paths)
    for _ in range(3):
        source.load(quote)
    assert len(pccs.paths) == asked


def test_service_that_is_down_leaves_a_clear_refusal(source: CachedCollateral, quote: bytes, pccs: Pccs) -> None:
    pccs.status = 503
    source.prepare(quote, now=NOW)
    with pytest.raises(UnavailableError) as caught:
        source.load(quote)
    assert caught.value.code == "no_collateral"


def test_lying_service_puts_nothing_into_the_cache(
    source: CachedCollateral, quote: bytes, pccs: Pccs, other_platform: object
) -> None:
    pccs.collateral = Vendor(other_platform).collateral  # type: ignore[arg-type]
    source.prepare(quote, now=NOW)
    with pytest.raises(UnavailableError):
        source.load(quote)


def test_without_a_service_nothing_is_fetched(cache: CollateralCache, quote: bytes) -> None:
    offline = CachedCollateral(cache=cache, service=None, refresh_after=timedelta(hours=24))
    offline.prepare(quote, now=NOW)
    assert offline.refresh_due(now=NOW) == ()
    with pytest.raises(UnavailableError):
        offline.load(quote)


# ---------------------------------------------------------------- refreshed ahead


def test_collateral_is_refreshed_long_before_it_expires(
    source: CachedCollateral, vendor: Vendor, family: PlatformFamily, quote: bytes
) -> None:
    vendor.now = datetime.now(UTC).replace(microsecond=0)
    source.prepare(quote, now=vendor.now)
    first = source.load(quote)
    assert source.refresh_due(now=vendor.now + timedelta(hours=23)) == ()
    vendor.now += timedelta(hours=25)
    assert source.refresh_due(now=vendor.now) == (family,)
    assert source.load(quote) != first


def test_failed_refresh_keeps_what_is_there_and_is_tried_again(
    source: CachedCollateral, vendor: Vendor, family: PlatformFamily, quote: bytes, pccs: Pccs
) -> None:
    vendor.now = datetime.now(UTC).replace(microsecond=0)
    source.prepare(quote, now=vendor.now)
    kept, later = source.load(quote), vendor.now + timedelta(hours=25)
    pccs.status = 500
    assert source.refresh_due(now=later) == ()
    assert source.load(quote) == kept
    pccs.status, vendor.now = 200, later
    assert source.refresh_due(now=later) == (family,)


def test_service_that_rolls_back_is_not_followed(
    source: CachedCollateral, vendor: Vendor, quote: bytes, family: PlatformFamily
) -> None:
    vendor.conditions = dataclasses.replace(vendor.conditions, evaluation_number=17)
    source.prepare(quote, now=NOW)
    newest = source.load(quote)
    vendor.conditions = dataclasses.replace(vendor.conditions, evaluation_number=16)
    with pytest.raises(VerificationError, match="evaluation 16"):
        source.refresh(family, service=_service(source), now=NOW)
    assert source.load(quote) == newest


def test_refresher_works_by_itself_until_it_is_stopped(source: CachedCollateral, vendor: Vendor, quote: bytes) -> None:
    vendor.now = datetime.now(UTC).replace(microsecond=0)
    source.prepare(quote, now=vendor.now)
    first, stop, done = source.load(quote), threading.Event(), threading.Event()
    vendor.now += timedelta(hours=25)

    def clock() -> datetime:
        done.set()
        return vendor.now

    thread = threading.Thread(target=source.keep_fresh, kwargs={"clock": clock, "stop": stop})
    thread.start()
    assert done.wait(10)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert source.load(quote) != first


# ---------------------------------------------------------------- stale


def test_stale_collateral_is_denied_and_said_so(source: CachedCollateral, vendor: Vendor, quote: bytes) -> None:
    source.prepare(quote, now=NOW)
    with pytest.raises(VerificationError) as caught:
        verify_evidence(
            Evidence(tee="sgx", quote=quote),
            collateral=source.load(quote),
            roots=(vendor.platform.root,),
            now=NOW + timedelta(days=31),
        )
    assert caught.value.code == "collateral_expired"
    assert caught.value.hint


def test_one_collateral_serves_every_quote(quote: bytes) -> None:
    one = OneCollateral(read=lambda: b"the same")
    one.prepare(quote, now=NOW)
    assert one.load(quote) == one.load(b"another") == b"the same"
