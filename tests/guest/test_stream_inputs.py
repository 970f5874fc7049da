"""A stream that storage has changed is refused before the lease, and the hint says which frame."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppml_airflow.errors import VerificationError
from ppml_airflow.guest.inputs import verify_input
from ppml_airflow.sealing.streams import open_stream_source, seal_stream
from ppml_airflow.sealing.versions import NewVersion, Producer, SealedVersion
from ppml_airflow.sealing.wrapping import SealingKey
from ppml_airflow.signing import SigningKey
from tests.support.sealing_keys import HeldKey

KEY = HeldKey(serial="1" * 32, kek_id="kek-clicks", key=SealingKey.generate().public)
PRODUCER = Producer(serial="2" * 32, key=SigningKey.generate())


@pytest.fixture
def version(tmp_path: Path) -> SealedVersion:
    source = tmp_path / "clicks.jsonl"
    source.write_text("".join(f'{{"n": {number}}}\n' for number in range(1000)))
    return seal_stream(
        open_stream_source(source),
        storage=tmp_path / "storage",
        new=NewVersion(domain_id="sha256:" + "d" * 64, dataset="clicks", version=1, prev=None, run_id=None),
        dataset_key=KEY,
        producer=PRODUCER,
    )


def test_a_whole_stream_is_an_input_with_columns(tmp_path: Path, version: SealedVersion) -> None:
    found = verify_input(
        version.manifest, digest=version.digest, storage=tmp_path / "storage", scratch=tmp_path / "scratch"
    ).table()
    assert found.is_stream
    assert [column.name for column in found.columns] == ["n"]
    assert [part.name for part in found.parts] == ["part-00000"]


def test_a_dropped_frame_is_named_in_the_hint(tmp_path: Path, version: SealedVersion) -> None:
    segment = version.folder / "part-00000"
    data = segment.read_bytes()
    segment.write_bytes(data[56 + int.from_bytes(data[40:44], "big") :])
    with pytest.raises(VerificationError, match="part part-00000 of clicks is not the one") as refused:
        verify_input(
            version.manifest, digest=version.digest, storage=tmp_path / "storage", scratch=tmp_path / "scratch"
        )
    assert refused.value.code == "part_changed"
    assert refused.value.hint == ("segment part-00000, partition 0: frame 0 is missing, 1 stands in its place")
