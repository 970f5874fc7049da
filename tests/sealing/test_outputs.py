"""What an enclave seals opens for its recipients once released, and its size says nothing."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, VerificationError
from ppml_airflow.sealing.columns import columns_of
from ppml_airflow.sealing.datasets import open_data_key, open_files, open_released_key, open_table, verify_manifest
from ppml_airflow.sealing.outputs import OutputSeal, seal_files_output, seal_table_output
from ppml_airflow.sealing.tables import write_sealed_parquet
from ppml_airflow.sealing.versions import Enclave, NewVersion, SealedVersion, part_path
from ppml_airflow.sealing.wrapping import SealingKey, new_key
from ppml_airflow.signing import SigningKey
from tests.support.sealing_keys import HeldKey

DOMAIN = "sha256:" + "d" * 64
LEASE = "4" * 32
ANALYST = "6" * 32
DATASET_PRIVATE, ANALYST_PRIVATE = SealingKey.generate(), SealingKey.generate()
K = SigningKey.generate(scheme="p256")


def output_seal(storage: Path, *, dataset: str = "report") -> OutputSeal:
    return OutputSeal(
        storage=storage,
        new=NewVersion(domain_id=DOMAIN, dataset=dataset, version=3, prev="sha256:" + "a" * 64, run_id="7" * 32),
        dataset_key=HeldKey(serial="1" * 32, kek_id="kek-report", key=DATASET_PRIVATE.public),
        recipients=(HeldKey(serial=ANALYST, key=ANALYST_PRIVATE.public),),
        release_key=new_key(),
        enclave=Enclave(lease_id=LEASE, key=K),
    )


def written(seal: OutputSeal, out: Path, tables: list[pa.Table]) -> list[Path]:
    """What a job leaves in its private folder: encrypted Parquet under the keys that the seal gives."""
    out.mkdir(parents=True)
    parts = []
    for index, table in enumerate(tables):
        path = part_path(index)
        write_sealed_parquet(
            table.to_batches(), out / path, schema=table.schema, data_key=seal.data_key, aad=seal.aad(path)
        )
        parts.append(out / path)
    return parts


def sealed(seal: OutputSeal, out: Path, *tables: pa.Table) -> SealedVersion:
    return seal_table_output(written(seal, out, list(tables)), columns=columns_of(tables[0].schema), seal=seal)


REPORT = pa.table({"plan": ["a", "b"], "visits": [1, 2]})


def test_a_recipient_opens_a_released_output(tmp_path: Path) -> None:
    seal = output_seal(tmp_path / "storage")
    version = sealed(seal, tmp_path / "out", REPORT.slice(0, 1), REPORT.slice(1))
    manifest = verify_manifest(
        version.envelope, domain_id=DOMAIN, dataset="report", producers={}, leases={LEASE: K.public}
    )
    data_key = open_released_key(manifest, key=ANALYST_PRIVATE, serial=ANALYST, release_key=seal.release_key)
    opened = pa.Table.from_batches(open_table(manifest, folder=version.folder, data_key=data_key))
    assert opened == REPORT
    assert (manifest.body, manifest.producer, manifest.lease_id) == ("padded-parquet", None, LEASE)


def test_a_next_step_opens_an_output_with_the_key_of_its_dataset(tmp_path: Path) -> None:
    seal = output_seal(tmp_path / "storage")
    version = sealed(seal, tmp_path / "out", REPORT)
    assert open_data_key(version.manifest, key=DATASET_PRIVATE, kek_id="kek-report") == seal.data_key


def test_an_output_does_not_open_without_its_release_key(tmp_path: Path) -> None:
    version = sealed(output_seal(tmp_path / "storage"), tmp_path / "out", REPORT)
    with pytest.raises(VerificationError, match="release key"):
        open_released_key(version.manifest, key=ANALYST_PRIVATE, serial=ANALYST, release_key=new_key())


def test_an_output_does_not_open_for_others(tmp_path: Path) -> None:
    seal = output_seal(tmp_path / "storage")
    version = sealed(seal, tmp_path / "out", REPORT)
    with pytest.raises(PolicyDeniedError, match="not sealed to 8888") as refusal:
        open_released_key(version.manifest, key=ANALYST_PRIVATE, serial="8" * 32, release_key=seal.release_key)
    assert refusal.value.code == "not_a_recipient"
    with pytest.raises(VerificationError):
        open_released_key(version.manifest, key=SealingKey.generate(), serial=ANALYST, release_key=seal.release_key)


def test_the_size_of_an_output_does_not_follow_a_value(tmp_path: Path) -> None:
    contents = [
        pa.table({"name": ["Smith"] * 1000}),
        pa.table({"name": [f"person {i} of many" for i in range(1000)]}),
        pa.table({"name": pa.array([], pa.string())}),
    ]
    shapes = set()
    for number, table in enumerate(contents):
        version = sealed(output_seal(tmp_path / f"s{number}"), tmp_path / f"out{number}", table)
        files = sorted((file.name, file.stat().st_size) for file in version.folder.iterdir() if "part" in file.name)
        shapes.add((tuple(files), tuple((part.path, part.size) for part in version.manifest.parts)))
        shapes.add(((version.folder / "manifest.json").stat().st_size > 0,))
    assert len(shapes) == 2


def test_the_manifest_of_an_output_has_one_size_whatever_the_content(tmp_path: Path) -> None:
    sizes = set()
    for number, table in enumerate([REPORT, REPORT.slice(0, 0)]):
        version = sealed(output_seal(tmp_path / f"s{number}"), tmp_path / f"out{number}", table)
        sizes.add(len(version.envelope.payload))
    assert len(sizes) == 1


def test_a_flipped_output_part_is_refused(tmp_path: Path) -> None:
    seal = output_seal(tmp_path / "storage")
    version = sealed(seal, tmp_path / "out", REPORT)
    part = version.folder / "part-00000"
    data = bytearray(part.read_bytes())
    data[-100] ^= 1
    part.write_bytes(data)
    with pytest.raises(VerificationError, match="part-00000"):
        list(open_table(version.manifest, folder=version.folder, data_key=seal.data_key))


def test_parts_of_two_outputs_are_not_exchanged(tmp_path: Path) -> None:
    report, other = output_seal(tmp_path / "s"), output_seal(tmp_path / "s", dataset="other")
    first, second = sealed(report, tmp_path / "out1", REPORT), sealed(other, tmp_path / "out2", REPORT)
    (first.folder / "part-00000").write_bytes((second.folder / "part-00000").read_bytes())
    with pytest.raises(VerificationError, match="part-00000"):
        list(open_table(first.manifest, folder=first.folder, data_key=report.data_key))


def test_a_part_under_another_name_than_it_was_written_for_is_refused(tmp_path: Path) -> None:
    seal = output_seal(tmp_path / "storage")
    parts = written(seal, tmp_path / "out", [REPORT.slice(0, 1), REPORT.slice(1)])
    version = seal_table_output(parts[::-1], columns=columns_of(REPORT.schema), seal=seal)
    with pytest.raises(VerificationError, match="part-00000"):
        list(open_table(version.manifest, folder=version.folder, data_key=seal.data_key))


def test_files_of_a_job_are_padded_and_come_back(tmp_path: Path) -> None:
    seal = output_seal(tmp_path / "storage")
    (tmp_path / "a").write_bytes(b"a" * 10)
    (tmp_path / "b").write_bytes(b"b" * 100_000)
    version = seal_files_output({"model/a": tmp_path / "a", "model/b": tmp_path / "b"}, seal=seal)
    assert len({part.size for part in version.manifest.parts}) == 1
    opened = open_files(version.manifest, folder=version.folder, data_key=seal.data_key, target=tmp_path / "opened")
    assert [path.read_bytes() for path in opened] == [b"a" * 10, b"b" * 100_000]


def test_a_failed_output_leaves_nothing(tmp_path: Path) -> None:
    seal = output_seal(tmp_path / "storage")
    parts = written(seal, tmp_path / "out", [REPORT])
    with pytest.raises(ConfigurationError, match="cannot be read"):
        seal_table_output([*parts, tmp_path / "gone"], columns=columns_of(REPORT.schema), seal=seal)
    assert list((tmp_path / "storage" / "report").iterdir()) == []


def test_a_seal_shows_no_secret(tmp_path: Path) -> None:
    seal = output_seal(tmp_path)
    assert repr(seal.data_key) not in repr(seal)
    assert repr(seal.release_key) not in repr(seal)
