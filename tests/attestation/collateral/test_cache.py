from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.attestation.collateral.cache import Bundle, CollateralCache, parse_family
from ppml_airflow.attestation.collateral.memory import SeenFile
from ppml_airflow.attestation.collateral.statements import PlatformFamily
from ppml_airflow.attestation.roots import INTEL_ROOT
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.attestation.verification import NOTHING_SEEN, CollateralNumbers
from ppml_airflow.errors import ConfigurationError, MalformedInputError, UnavailableError, VerificationError
from tests.attestation.collateral.conftest import Vendor
from tests.attestation.conftest import NOW

# ---------------------------------------------------------------- cache


def test_what_was_stored_is_loaded(cache: CollateralCache, vendor: Vendor, family: PlatformFamily) -> None:
    collateral = vendor.collateral()
    cache.store(family, collateral=collateral, now=NOW)
    assert cache.load(family) == collateral
    assert list(cache.families()) == [family]


def test_family_that_is_not_there_is_said_with_what_to_do(cache: CollateralCache, family: PlatformFamily) -> None:
    with pytest.raises(UnavailableError, match="ppml collateral import") as caught:
        cache.load(family)
    assert caught.value.code == "no_collateral"


@pytest.mark.parametrize(
    "older", [{"evaluation_number": 16}, {"list_number": 4}, {"evaluation_number": 18, "list_number": 4}]
)
def test_older_collateral_never_replaces_what_was_seen(
    cache: CollateralCache, vendor: Vendor, family: PlatformFamily, older: dict[str, int]
) -> None:
    newest = vendor.collateral(evaluation_number=17, list_number=5)
    cache.store(family, collateral=newest, now=NOW)
    with pytest.raises(VerificationError) as caught:
        cache.store(
            family, collateral=vendor.collateral(**{"evaluation_number": 17, "list_number": 5, **older}), now=NOW
        )
    assert caught.value.code == "collateral_rollback"
    assert cache.load(family) == newest


def test_older_collateral_is_refused_also_when_the_cache_was_emptied(
    cache: CollateralCache, vendor: Vendor, family: PlatformFamily
) -> None:
    cache.store(family, collateral=vendor.collateral(evaluation_number=17), now=NOW)
    (cache.folder / f"{family}.json").unlink()
    with pytest.raises(VerificationError, match="evaluation 16"):
        cache.store(family, collateral=vendor.collateral(evaluation_number=16), now=NOW)


def test_same_numbers_again_are_fine(cache: CollateralCache, vendor: Vendor, family: PlatformFamily) -> None:
    for _ in range(2):
        cache.store(family, collateral=vendor.collateral(evaluation_number=17), now=NOW)


def test_forged_collateral_neither_replaces_nor_raises(
    cache: CollateralCache, vendor: Vendor, other_platform: SimulatedPlatform, family: PlatformFamily
) -> None:
    good = vendor.collateral()
    cache.store(family, collateral=good, now=NOW)
    before = cache.seen.highest(family, root=vendor.platform.root.key_id)
    forger = Vendor(other_platform)
    with pytest.raises(VerificationError, match="no root that counts"):
        cache.store(family, collateral=forger.collateral(evaluation_number=9999), now=NOW)
    assert cache.load(family) == good
    assert cache.seen.highest(family, root=vendor.platform.root.key_id) == before
    assert cache.seen.highest(family, root=other_platform.root.key_id) == NOTHING_SEEN


def test_simulated_collateral_is_not_kept_where_intels_root_counts(
    cache: CollateralCache, vendor: Vendor, family: PlatformFamily
) -> None:
    with pytest.raises(VerificationError):
        dataclasses.replace(cache, roots=(INTEL_ROOT,)).store(family, collateral=vendor.collateral(), now=NOW)


@pytest.mark.parametrize("text", ["sgx-ffff53494d55-platform", "tdx-00a067110000-processor"])
def test_family_is_read_as_it_is_written(text: str) -> None:
    assert str(parse_family(text)) == text


@pytest.mark.parametrize("text", ["", "sgx", "sgx-00-platform", "snp-ffff53494d55-platform", "sgx-ffff53494d55-../x"])
def test_name_that_is_no_family_is_refused(text: str) -> None:
    with pytest.raises(MalformedInputError):
        parse_family(text)


def test_strangers_files_in_the_folder_are_passed_over(
    cache: CollateralCache, vendor: Vendor, family: PlatformFamily
) -> None:
    cache.store(family, collateral=vendor.collateral(), now=NOW)
    (cache.folder / "my-own-notes.json").write_text("{}")
    assert list(cache.families()) == [family]


# ---------------------------------------------------------------- bundles


def _elsewhere(cache: CollateralCache, folder: Path) -> CollateralCache:
    return CollateralCache(folder=folder / "there", roots=cache.roots, seen=SeenFile(folder / "there.seen"))


def test_bundle_brings_collateral_to_a_machine_without_network(
    cache: CollateralCache, vendor: Vendor, family: PlatformFamily, tmp_path: Path
) -> None:
    cache.store(family, collateral=vendor.collateral(), now=NOW)
    there = _elsewhere(cache, tmp_path)
    assert there.import_(cache.export(now=NOW), now=NOW) == (family,)
    assert there.load(family) == cache.load(family)


def test_old_bundle_is_refused_and_changes_nothing(
    cache: CollateralCache, vendor: Vendor, family: PlatformFamily, tmp_path: Path
) -> None:
    cache.store(family, collateral=vendor.collateral(evaluation_number=16), now=NOW)
    old, there = cache.export(now=NOW), _elsewhere(cache, tmp_path)
    newest = vendor.collateral(evaluation_number=17)
    there.store(family, collateral=newest, now=NOW)
    with pytest.raises(VerificationError) as caught:
        there.import_(old, now=NOW)
    assert caught.value.code == "collateral_rollback"
    assert there.load(family) == newest


def test_stale_bundle_is_refused_and_says_so(
    cache: CollateralCache, vendor: Vendor, family: PlatformFamily, tmp_path: Path
) -> None:
    cache.store(family, collateral=vendor.collateral(), now=NOW)
    with pytest.raises(VerificationError) as caught:
        _elsewhere(cache, tmp_path).import_(cache.export(now=NOW), now=NOW + timedelta(days=31))
    assert caught.value.code == "collateral_expired"


def test_bundle_with_one_bad_entry_is_refused_whole(
    cache: CollateralCache, vendor: Vendor, family: PlatformFamily, tmp_path: Path
) -> None:
    cache.store(family, collateral=vendor.collateral(), now=NOW)
    bundle = canonical.decode(cache.export(now=NOW), into=Bundle)
    lie = msgspec.structs.replace(bundle.entries[0], family=msgspec.structs.replace(family, fmspc="00906ed50000"))
    there = _elsewhere(cache, tmp_path)
    with pytest.raises(VerificationError):
        there.import_(canonical.encode(msgspec.structs.replace(bundle, entries=(*bundle.entries, lie))), now=NOW)
    assert list(there.families()) == []


@pytest.mark.parametrize("change", [{"version": 2}, {"entries": 2}])
def test_bundle_of_another_form_is_refused(
    cache: CollateralCache, vendor: Vendor, family: PlatformFamily, change: dict[str, Any]
) -> None:
    cache.store(family, collateral=vendor.collateral(), now=NOW)
    bundle = canonical.decode(cache.export(now=NOW), into=Bundle)
    fields = {"entries": bundle.entries * 2} if "entries" in change else change
    with pytest.raises(MalformedInputError):
        cache.import_(canonical.encode(msgspec.structs.replace(bundle, **fields)), now=NOW)


# ---------------------------------------------------------------- memory


def test_memory_only_ever_rises(tmp_path: Path, family: PlatformFamily) -> None:
    seen, root = SeenFile(tmp_path / "seen.json"), "aa" * 48
    for evaluation, pck, top in ((17, 3, 2), (15, 4, 1), (16, 1, 9)):
        seen.remember(family, root=root, numbers=CollateralNumbers(evaluation=evaluation, pck_crl=pck, root_crl=top))
    highest = SeenFile(tmp_path / "seen.json").highest(family, root=root)
    assert highest == CollateralNumbers(evaluation=17, pck_crl=4, root_crl=9)


def test_memory_of_one_root_binds_no_other(tmp_path: Path, family: PlatformFamily) -> None:
    seen = SeenFile(tmp_path / "seen.json")
    seen.remember(family, root="aa" * 48, numbers=CollateralNumbers(evaluation=99, pck_crl=99, root_crl=99))
    assert seen.highest(family, root="bb" * 48) == NOTHING_SEEN


def test_list_of_a_ca_is_remembered_for_all_its_platforms(tmp_path: Path, family: PlatformFamily) -> None:
    seen = SeenFile(tmp_path / "seen.json")
    seen.remember(family, root="aa" * 48, numbers=CollateralNumbers(evaluation=17, pck_crl=3, root_crl=2))
    other = msgspec.structs.replace(family, fmspc="00906ed50000")
    highest = seen.highest(other, root="aa" * 48)
    assert highest == CollateralNumbers(evaluation=0, pck_crl=3, root_crl=2)


def test_two_processes_share_what_they_saw(tmp_path: Path, family: PlatformFamily) -> None:
    one, other = (SeenFile(tmp_path / "seen.json") for _ in range(2))
    other.remember(family, root="aa" * 48, numbers=CollateralNumbers(evaluation=17, pck_crl=1, root_crl=1))
    assert one.highest(family, root="aa" * 48).evaluation == 17


@pytest.mark.parametrize("content", [b"", b"{}", b"garbage"])
def test_damaged_memory_is_no_empty_memory(tmp_path: Path, family: PlatformFamily, content: bytes) -> None:
    (tmp_path / "seen.json").write_bytes(content)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        SeenFile(tmp_path / "seen.json").highest(family, root="aa" * 48)
