"""Sealed datasets: what was sealed is opened, attacks on what lies in storage are refused, failures leave nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppml_airflow import canonical
from ppml_airflow.errors import ConfigurationError, MalformedInputError, VerificationError
from ppml_airflow.sealing.datasets import (
    encode_directory,
    open_data_key,
    open_files,
    open_table,
    require_successor,
    seal_files,
    seal_table,
    verify_manifest,
    verify_parts,
)
from ppml_airflow.sealing.manifest import Manifest, Part
from ppml_airflow.sealing.sources import TableSource, open_source
from ppml_airflow.sealing.versions import (
    MANIFEST_FILE,
    NewVersion,
    Producer,
    SealedVersion,
    dataset_folder,
    finish_version,
    load_envelope,
    seal_bodies,
    unfinished_folder,
)
from ppml_airflow.sealing.wrapping import SealingKey, new_key
from ppml_airflow.signing import Envelope, SigningKey, sign_payload
from tests.support.sealing_keys import HeldKey

DOMAIN = "sha256:" + "d" * 64
RUN = "7" * 32
KEY = SealingKey.generate()
DATASET_KEY = HeldKey(serial="1" * 32, kek_id="kek-claims", key=KEY.public)
PRODUCER = Producer(serial="2" * 32, key=SigningKey.generate())
TABLE = pa.table({"id": list(range(1000)), "name": [f"person {i}" for i in range(1000)]})


def new(*, dataset: str = "claims", version: int = 1, prev: str | None = None) -> NewVersion:
    return NewVersion(domain_id=DOMAIN, dataset=dataset, version=version, prev=prev, run_id=RUN)


def source_of(table: pa.Table, *, fails_after: int | None = None) -> TableSource:
    def batches() -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(table.to_batches(max_chunksize=100)):
            if number == fails_after:
                raise ConfigurationError("file claims.csv, column id, row 301: a value is not a whole number")
            yield batch

    return TableSource(path=Path("claims.parquet"), schema=table.schema, batches=batches)


def sealed(storage: Path, *, parts: int = 1, **place: object) -> SealedVersion:
    part_bytes = -(-TABLE.nbytes // parts)
    version = seal_table(
        source_of(TABLE),
        storage=storage,
        new=new(**place),  # type: ignore[arg-type]  # passed on
        dataset_key=DATASET_KEY,
        producer=PRODUCER,
        part_bytes=part_bytes,
    )
    assert len(version.manifest.parts) == parts
    return version


def data_key(version: SealedVersion) -> bytes:
    return open_data_key(version.manifest, key=KEY, kek_id="kek-claims")


def rows(version: SealedVersion, *, manifest: Manifest | None = None) -> pa.Table:
    batches = open_table(manifest or version.manifest, folder=version.folder, data_key=data_key(version))
    return pa.Table.from_batches(batches, schema=TABLE.schema)


def verified(envelope: Envelope, *, dataset: str = "claims", domain_id: str = DOMAIN) -> Manifest:
    producers = {PRODUCER.serial: PRODUCER.key.public}
    return verify_manifest(envelope, domain_id=domain_id, dataset=dataset, producers=producers, leases={})


# ---------------------------------------------------------------- seal and open


@pytest.mark.parametrize("parts", [1, 3])
def test_a_table_comes_back_from_its_folder(tmp_path: Path, parts: int) -> None:
    version = sealed(tmp_path, parts=parts)
    envelope = load_envelope(version.folder)
    assert verified(envelope) == version.manifest
    assert rows(version) == TABLE
    assert envelope.digest == version.digest
    assert version.folder == dataset_folder(tmp_path, dataset="claims", version=1, digest=version.digest)
    assert version.folder.name == f"000001-{version.digest[7:23]}"
    assert {file.name for file in version.folder.iterdir()} == {
        MANIFEST_FILE,
        *(part.path for part in version.manifest.parts),
    }


def test_a_csv_file_is_sealed_and_opened(tmp_path: Path) -> None:
    path = tmp_path / "claims.csv"
    path.write_text("id,amount\n1,2.5\n2,\n")
    version = seal_table(
        open_source(path), storage=tmp_path / "s", new=new(), dataset_key=DATASET_KEY, producer=PRODUCER
    )
    assert [(column.name, column.type) for column in version.manifest.columns] == [
        ("id", "int64"),
        ("amount", "double"),
    ]
    opened = pa.Table.from_batches(open_table(version.manifest, folder=version.folder, data_key=data_key(version)))
    assert opened.to_pylist() == [{"id": 1, "amount": 2.5}, {"id": 2, "amount": None}]


def test_a_table_without_rows_has_one_part(tmp_path: Path) -> None:
    version = seal_table(
        source_of(TABLE.slice(0, 0)), storage=tmp_path, new=new(), dataset_key=DATASET_KEY, producer=PRODUCER
    )
    assert len(version.manifest.parts) == 1
    assert rows(version) == TABLE.slice(0, 0)


def test_nothing_in_storage_tells_the_data(tmp_path: Path) -> None:
    version = sealed(tmp_path)
    stored = b"".join(file.read_bytes() for file in version.folder.iterdir())
    assert b"person" not in stored
    assert data_key(version) not in stored


def test_every_version_has_its_own_data_key(tmp_path: Path) -> None:
    assert data_key(sealed(tmp_path)) != data_key(sealed(tmp_path))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "files"
    folder.mkdir()
    names = {"model/weights.onnx": b"w" * 3_000_000, "größen and labels.txt": b"labels", "empty": b""}
    found = {}
    for number, (name, data) in enumerate(names.items()):
        found[name] = folder / str(number)
        found[name].write_bytes(data)
    return found


def seal_model(files: dict[str, Path], storage: Path) -> SealedVersion:
    return seal_files(files, storage=storage, new=new(dataset="model"), dataset_key=DATASET_KEY, producer=PRODUCER)


def open_model(version: SealedVersion, target: Path, *, manifest: Manifest | None = None) -> tuple[Path, ...]:
    return open_files(manifest or version.manifest, folder=version.folder, data_key=data_key(version), target=target)


def test_files_come_back_under_their_names(tmp_path: Path, files: dict[str, Path]) -> None:
    version = seal_model(files, tmp_path / "storage")
    opened = open_model(version, tmp_path / "opened")
    assert [str(path.relative_to(tmp_path / "opened")) for path in opened] == list(files)
    assert [path.read_bytes() for path in opened] == [path.read_bytes() for path in files.values()]
    with pytest.raises(ConfigurationError, match="not overwritten"):
        open_model(version, tmp_path / "opened")


def test_names_of_files_are_not_in_storage(tmp_path: Path, files: dict[str, Path]) -> None:
    version = seal_model(files, tmp_path / "storage")
    assert b"weights" not in b"".join(file.read_bytes() for file in version.folder.iterdir())
    assert [part.path for part in version.manifest.parts] == [f"part-0000{i}" for i in range(4)]


@pytest.mark.parametrize("name", ["../escaped", "/etc/passwd", "a/../../b", ".", "a\\b", "a\nb", ""])
def test_a_file_name_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="under these names"):
        encode_directory({name: tmp_path})


def test_no_files_or_two_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no files"):
        encode_directory({})
    with pytest.raises(ConfigurationError, match="differ only by case"):
        encode_directory({"a": tmp_path, "A": tmp_path})


def test_a_table_is_not_opened_as_files_or_files_as_a_table(tmp_path: Path, files: dict[str, Path]) -> None:
    table, model = sealed(tmp_path / "s"), seal_model(files, tmp_path / "s")
    with pytest.raises(VerificationError, match="wanted files"):
        open_model(table, tmp_path / "opened")
    with pytest.raises(VerificationError, match="wanted a table"):
        rows(model)


# ---------------------------------------------------------------- attacks on parts


def change(path: Path, how: Callable[[bytes], bytes]) -> None:
    path.write_bytes(how(path.read_bytes()))


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "one byte flipped": lambda b: b[:500] + bytes([b[500] ^ 1]) + b[501:],
    "first byte flipped": lambda b: bytes([b[0] ^ 1]) + b[1:],
    "last byte flipped": lambda b: b[:-1] + bytes([b[-1] ^ 1]),
    "truncated": lambda b: b[:-1],
    "emptied": lambda b: b"",
    "extended": lambda b: b + b"\0",
}


@pytest.mark.parametrize("how", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_part_is_refused_by_name(tmp_path: Path, how: Callable[[bytes], bytes]) -> None:
    version = sealed(tmp_path, parts=3)
    change(version.folder / "part-00001", how)
    with pytest.raises(VerificationError, match="part-00001") as refusal:
        verify_parts(version.manifest, folder=version.folder)
    assert refusal.value.code == "part_changed"
    with pytest.raises(VerificationError, match="part-00001"):
        rows(version)


@pytest.mark.parametrize("how", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_file_is_refused_and_nothing_is_left(
    tmp_path: Path, files: dict[str, Path], how: Callable[[bytes], bytes]
) -> None:
    version = seal_model(files, tmp_path / "storage")
    change(version.folder / "part-00001", how)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(VerificationError, match="part-00001"):
        open_model(version, tmp_path / "opened")
    assert sorted(tmp_path.iterdir()) == before


def test_a_dropped_part_is_refused_by_name(tmp_path: Path, files: dict[str, Path]) -> None:
    version, model = sealed(tmp_path / "s", parts=3), seal_model(files, tmp_path / "s")
    for dropped in (version, model):
        (dropped.folder / "part-00002").unlink()
        with pytest.raises(VerificationError, match=r"part-00002 of .* is missing"):
            verify_parts(dropped.manifest, folder=dropped.folder)
    with pytest.raises(VerificationError, match="part-00002"):
        rows(version)
    with pytest.raises(VerificationError, match="part-00002"):
        open_model(model, tmp_path / "opened")
    assert not (tmp_path / "opened").exists()


def test_a_part_that_is_a_link_is_refused(tmp_path: Path) -> None:
    version = sealed(tmp_path)
    part = version.folder / "part-00000"
    shutil.move(part, tmp_path / "elsewhere")
    part.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VerificationError, match="missing"):
        verify_parts(version.manifest, folder=version.folder)


def swap(a: Path, b: Path) -> None:
    first = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(first)


def test_swapped_parts_are_refused(tmp_path: Path) -> None:
    version = sealed(tmp_path, parts=3)
    swap(version.folder / "part-00000", version.folder / "part-00001")
    with pytest.raises(VerificationError, match="part-00000"):
        rows(version)


def test_a_part_of_another_dataset_is_refused(tmp_path: Path) -> None:
    claims, plans = sealed(tmp_path), sealed(tmp_path, dataset="plans")
    shutil.copy(plans.folder / "part-00000", claims.folder / "part-00000")
    with pytest.raises(VerificationError, match="part-00000 of claims"):
        rows(claims)


def with_part(manifest: Manifest, index: int, file: Path) -> Manifest:
    """A manifest whose size and digest of a part are those of another file: what is left is that part's own AAD."""
    data = file.read_bytes()
    part = msgspec.structs.replace(manifest.parts[index], size=len(data), digest=canonical.digest_bytes(data))
    parts = (*manifest.parts[:index], part, *manifest.parts[index + 1 :])
    return msgspec.structs.replace(manifest, parts=parts)


def test_swapped_parts_are_refused_even_if_the_manifest_names_them(tmp_path: Path, files: dict[str, Path]) -> None:
    table, model = sealed(tmp_path / "s", parts=3), seal_model(files, tmp_path / "s")
    for version in (table, model):
        swap(version.folder / "part-00001", version.folder / "part-00002")
        manifest = with_part(version.manifest, 1, version.folder / "part-00001")
        manifest = with_part(manifest, 2, version.folder / "part-00002")
        verify_parts(manifest, folder=version.folder)
        with pytest.raises(VerificationError, match="part-00001"):
            rows(version, manifest=manifest) if version is table else open_model(
                version, tmp_path / "opened", manifest=manifest
            )


def test_plain_parquet_swapped_in_is_refused_even_if_the_manifest_names_it(tmp_path: Path) -> None:
    version = sealed(tmp_path)
    pq.write_table(TABLE, version.folder / "part-00000")
    with pytest.raises(VerificationError, match="not the one that the manifest names"):
        rows(version)
    manifest = with_part(version.manifest, 0, version.folder / "part-00000")
    with pytest.raises(VerificationError, match="not encrypted Parquet"):
        rows(version, manifest=manifest)


def test_a_part_sealed_under_another_version_is_refused(tmp_path: Path) -> None:
    version = sealed(tmp_path)
    parts = tuple(msgspec.structs.replace(part, sealed_version=2) for part in version.manifest.parts)
    with pytest.raises(VerificationError, match="part-00000"):
        rows(version, manifest=msgspec.structs.replace(version.manifest, parts=parts))


def test_a_part_kept_from_an_earlier_version_opens_under_that_version(tmp_path: Path) -> None:
    first = sealed(tmp_path)
    later = msgspec.structs.replace(first.manifest, version=2, prev=first.digest)
    assert rows(first, manifest=later) == TABLE


def test_a_dropped_file_is_noticed_even_if_the_manifest_drops_it_too(tmp_path: Path, files: dict[str, Path]) -> None:
    version = seal_model(files, tmp_path / "s")
    manifest = msgspec.structs.replace(version.manifest, parts=version.manifest.parts[:-1])
    with pytest.raises(VerificationError):
        open_model(version, tmp_path / "opened", manifest=manifest)


def test_a_directory_that_names_more_files_than_there_are_is_refused(tmp_path: Path, files: dict[str, Path]) -> None:
    key, place = new_key(), new(dataset="model")
    with unfinished_folder(tmp_path / "s", new=place) as folder:
        sources = [encode_directory(files), *list(files.values())[:-1]]
        parts = seal_bodies(sources, folder, new=place, data_key=key, padded=False)
        version = finish_version(folder, new=place, body="files", parts=parts, columns=(), wraps=(), maker=PRODUCER)
    with pytest.raises(VerificationError, match="other files than it names"):
        open_files(version.manifest, folder=version.folder, data_key=key, target=tmp_path / "opened")


# ---------------------------------------------------------------- attacks on manifests and keys


def test_a_forged_manifest_by_a_valid_but_uncertified_key_is_refused(tmp_path: Path) -> None:
    forger = SigningKey.generate()
    honest = sealed(tmp_path)
    named_himself = msgspec.structs.replace(honest.manifest, producer="3" * 32)
    with pytest.raises(VerificationError, match=r"names producer 3333.*, which may not make it") as refusal:
        verified(forger.sign(named_himself))
    assert refusal.value.code == "not_certified"
    with pytest.raises(VerificationError, match="unknown key"):
        verified(forger.sign(honest.manifest))


def test_a_manifest_signed_by_the_forger_as_well_is_refused(tmp_path: Path) -> None:
    payload = sealed(tmp_path).envelope.payload
    both = sign_payload(payload, payload_type=Manifest.payload_type, keys=(PRODUCER.key, SigningKey.generate()))
    with pytest.raises(VerificationError):
        verified(both)


def test_a_changed_manifest_is_refused(tmp_path: Path) -> None:
    version = sealed(tmp_path)
    changed = msgspec.structs.replace(version.manifest, version=2)
    with pytest.raises(VerificationError, match="wrong signature"):
        verified(msgspec.structs.replace(version.envelope, payload=canonical.encode(changed)))
    with pytest.raises(MalformedInputError):
        verified(msgspec.structs.replace(version.envelope, payload=version.envelope.payload + b" "))


def test_the_manifest_of_another_dataset_or_domain_is_refused(tmp_path: Path) -> None:
    envelope = sealed(tmp_path).envelope
    with pytest.raises(VerificationError, match="of dataset claims, wanted plans"):
        verified(envelope, dataset="plans")
    with pytest.raises(VerificationError, match="belongs to domain"):
        verified(envelope, domain_id="sha256:" + "e" * 64)


def test_a_manifest_of_a_lease_is_made_with_the_key_of_that_lease(tmp_path: Path) -> None:
    enclave = SigningKey.generate(scheme="p256")
    claimed = msgspec.structs.replace(sealed(tmp_path).manifest, producer=None, lease_id="4" * 32)
    envelope = enclave.sign(claimed)

    def verify(leases: dict[str, SigningKey]) -> Manifest:
        keys = {lease_id: key.public for lease_id, key in leases.items()}
        # A lease id is no serial of a producer, and the other way round.
        producers = {"4" * 32: enclave.public}
        return verify_manifest(envelope, domain_id=DOMAIN, dataset="claims", producers=producers, leases=keys)

    assert verify({"4" * 32: enclave}) == claimed
    with pytest.raises(VerificationError, match="names lease 4444"):
        verify({"5" * 32: enclave})
    with pytest.raises(VerificationError, match="unknown key"):
        verify({"4" * 32: SigningKey.generate(scheme="p256")})


def test_an_older_manifest_is_refused() -> None:
    head = "sha256:" + "a" * 64

    def manifest(version: int, prev: str | None) -> Manifest:
        return Manifest(
            domain_id=DOMAIN,
            dataset="claims",
            version=version,
            prev=prev,
            body="parquet",
            parts=(),
            columns=(),
            wraps=(),
            producer="2" * 32,
            run_id=None,
            lease_id=None,
        )

    require_successor(manifest(1, None), head_version=0, head_digest=None)
    require_successor(manifest(8, head), head_version=7, head_digest=head)
    for stale in (manifest(7, head), manifest(1, None), manifest(9, head), manifest(8, "sha256:" + "b" * 64)):
        with pytest.raises(VerificationError, match="wanted version 8") as refusal:
            require_successor(stale, head_version=7, head_digest=head)
        assert refusal.value.code == "not_next"


def test_a_wrapped_key_copied_into_a_lenient_dataset_does_not_open(tmp_path: Path) -> None:
    strict = sealed(tmp_path)
    lenient = sealed(tmp_path, dataset="lenient")
    confused = msgspec.structs.replace(lenient.manifest, wraps=strict.manifest.wraps)
    with pytest.raises(VerificationError, match="for another purpose"):
        open_data_key(confused, key=KEY, kek_id="kek-claims")


def test_a_manifest_without_a_key_for_its_dataset_is_refused(tmp_path: Path) -> None:
    bare = msgspec.structs.replace(sealed(tmp_path).manifest, wraps=())
    with pytest.raises(VerificationError, match="no key for its dataset"):
        open_data_key(bare, key=KEY, kek_id="kek-claims")


def test_contradictory_manifests_are_malformed(tmp_path: Path) -> None:
    manifest = sealed(tmp_path).manifest
    part, wrap = manifest.parts[0], manifest.wraps[0]
    for changes in ({"lease_id": "4" * 32}, {"producer": None}, {"parts": (part, part)}, {"wraps": (wrap, wrap)}):
        plain = msgspec.to_builtins(manifest) | {name: msgspec.to_builtins(value) for name, value in changes.items()}
        with pytest.raises(MalformedInputError):
            canonical.decode(canonical.encode(plain), into=Manifest)


def test_a_part_outside_the_folder_is_malformed() -> None:
    part = {"path": "../part-00000", "size": 1, "digest": DOMAIN, "sealed_version": 1}
    with pytest.raises(MalformedInputError):
        canonical.decode(canonical.encode(part), into=Part)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="is missing"):
        load_envelope(tmp_path)
    (tmp_path / MANIFEST_FILE).write_bytes(b"{}")
    with pytest.raises(MalformedInputError):
        load_envelope(tmp_path)


# ---------------------------------------------------------------- failures leave nothing


@pytest.mark.parametrize("fails_after", [0, 3, 9])
def test_a_source_that_fails_leaves_no_half_written_dataset(tmp_path: Path, fails_after: int) -> None:
    with pytest.raises(ConfigurationError, match="row 301"):
        seal_table(
            source_of(TABLE, fails_after=fails_after),
            storage=tmp_path,
            new=new(),
            dataset_key=DATASET_KEY,
            producer=PRODUCER,
            part_bytes=4000,
        )
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list((tmp_path / "claims").iterdir()) == []


def test_a_missing_file_leaves_no_half_written_dataset(tmp_path: Path, files: dict[str, Path]) -> None:
    files["gone"] = tmp_path / "gone"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        seal_model(files, tmp_path / "storage")
    assert list((tmp_path / "storage" / "model").iterdir()) == []


def test_an_unfinished_folder_is_not_taken_for_a_version(tmp_path: Path) -> None:
    seen: list[str] = []

    def batches() -> Iterator[pa.RecordBatch]:
        seen.extend(folder.name for folder in (tmp_path / "claims").iterdir())
        yield from TABLE.to_batches()

    source = TableSource(path=Path("claims.parquet"), schema=TABLE.schema, batches=batches)
    seal_table(source, storage=tmp_path, new=new(), dataset_key=DATASET_KEY, producer=PRODUCER)
    assert len(seen) == 1
    assert seen[0].startswith(".unfinished-")
