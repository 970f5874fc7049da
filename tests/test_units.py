from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppml_airflow import canonical
from ppml_airflow.errors import MalformedInputError
from ppml_airflow.units import Digest, HexId, Instant, Name, RelativePath, format_instant, parse_instant, spell_trust

ZERO = "0" * 64


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9999, 12, 30), timezones=st.timezones()))  # noqa: DTZ001
def test_an_instant_reads_as_the_moment_it_was_written_for(moment: datetime) -> None:
    text = format_instant(moment)
    assert parse_instant(text) == moment.astimezone(UTC).replace(microsecond=0)
    assert canonical.convert(text, into=Instant) == text


def test_instants_sort_as_their_moments() -> None:
    moments = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=7 * step) for step in range(500)]
    assert [format_instant(moment) for moment in moments] == sorted(map(format_instant, moments))


def test_other_zones_are_written_in_utc() -> None:
    moment = datetime(2026, 11, 23, 2, 3, 4, tzinfo=timezone(timedelta(hours=2)))
    assert format_instant(moment) == "2026-11-23T00:03:04Z"


def test_a_naive_datetime_is_refused() -> None:
    with pytest.raises(MalformedInputError, match="has no time zone"):
        format_instant(datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    "text", ["", "2026-11-23", "2026-11-23T01:02:03", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "x" * 1000]
)
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(MalformedInputError, match="is not of the form"):
        parse_instant(text)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Digest, f"sha256:{ZERO}"),
        (Name, "nightly_analytics-2.v1"),
        (HexId, "0" * 32),
        (Instant, "2026-11-23T01:02:03Z"),
        (RelativePath, "a/b=1/part-00000.parquet"),
    ],
)
def test_a_well_formed_scalar_is_accepted(kind: Any, value: str) -> None:
    assert canonical.convert(value, into=kind) == value


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Digest, ZERO),
        (Digest, f"sha256:{ZERO[1:]}"),
        (Digest, f"sha256:{ZERO}0"),
        (Digest, f"sha256:{'A' * 64}"),
        (Digest, f"sha512:{ZERO}"),
        (Digest, f"sha256:{ZERO}\n"),
        (Name, ""),
        (Name, "1st"),
        (Name, ".hidden"),
        (Name, "a/b"),
        (Name, "a b"),
        (Name, "a" * 101),
        (Name, "größe"),
        (Name, "name\n"),
        (HexId, "0" * 31),
        (HexId, "0" * 33),
        (HexId, "G" * 32),
        (HexId, "0" * 32 + "\n"),
        (Instant, "2026-11-23T01:02:03+00:00"),
        (Instant, "2026-11-23T01:02:03.5Z"),
        (Instant, "\uff12026-11-23T01:02:03Z"),
        (Instant, "2026-11-23T01:02:03Z\n"),
        (RelativePath, ""),
        (RelativePath, "/etc/passwd"),
        (RelativePath, "a//b"),
        (RelativePath, "a/"),
        (RelativePath, ".."),
        (RelativePath, "../a"),
        (RelativePath, "a/../b"),
        (RelativePath, "a/.."),
        (RelativePath, "./a"),
        (RelativePath, "a/./b"),
        (RelativePath, "a\\b"),
        (RelativePath, "a b"),
        (RelativePath, "a\n"),
        (RelativePath, "a\0"),
        (RelativePath, "a" * 401),
    ],
)
def test_an_ill_formed_scalar_is_refused(kind: Any, value: str) -> None:
    with pytest.raises(MalformedInputError):
        canonical.convert(value, into=kind)


@given(st.text(alphabet="ab./\\\n\0= ", max_size=12))
def test_no_relative_path_leaves_its_folder(text: str) -> None:
    try:
        canonical.convert(text, into=RelativePath)
    except MalformedInputError:
        return
    parts = text.split("/")
    assert all(part not in ("", ".", "..") for part in parts)
    assert not set(text) & set("\\\n\0 ")


def test_a_simulation_is_spelt_so_that_nobody_overlooks_it() -> None:
    assert (spell_trust("simulated"), spell_trust("hardware")) == ("SIMULATED", "hardware")
