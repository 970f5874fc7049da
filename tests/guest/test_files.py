"""Folders of files in and out of an enclave: a model, say."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Output
from ppml_airflow.errors import PolicyDeniedError, PpmlError, VerificationError
from ppml_airflow.sealing.datasets import open_data_key, read_files, seal_files
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.sealing.versions import NewVersion, Producer
from ppml_airflow.workloads.job import FilesInput, FilesOutput, JobKeys, JobResult
from tests.support.broker_world import World, one_step
from tests.support.guest_world import CountingWorkload, GuestWorld

MODEL = {"net/weights.bin": b"secret weights", "net.json": b"{}"}


@pytest.fixture
def guests(guests: GuestWorld, tmp_path: Path) -> GuestWorld:
    """A world whose first step makes a folder of two files from `visits` and `plans`."""
    folder = tmp_path / "files"
    folder.mkdir()
    outputs = (Output(dataset="report", body="files", recipients=("analyst",), files=2),)
    world = World(
        folder=folder,
        platform=guests.world.platform,
        keystore=guests.world.keystore,
        steps=one_step(outputs=outputs),
    )
    return GuestWorld(world=world, folder=folder)


def made(files: dict[str, bytes]) -> JobResult:
    return JobResult(outcome="ok", files={"report": files})


def seal_model(guests: GuestWorld, *, run_id: str) -> Manifest:
    """Seal `visits` for a run as files."""
    owners, files = guests.world.owners, {}
    for name, content in MODEL.items():
        files[name] = guests.folder / "model" / name
        files[name].parent.mkdir(parents=True, exist_ok=True)
        files[name].write_bytes(content)
    sealed = seal_files(
        files,
        storage=guests.storage,
        new=NewVersion(domain_id=owners.domain.domain_id, dataset="visits", version=1, prev=None, run_id=run_id),
        dataset_key=owners.dataset_certificates["visits"],
        producer=Producer(serial=owners.producer_certificate.serial, key=owners.producer),
    )
    guests.world.client.publish(sealed.envelope)
    return sealed.manifest


def run_with_model(guests: GuestWorld) -> tuple[str, Manifest]:
    guests.seal("plans", rows=2)
    run_id = guests.world.open_run("model")
    manifest = seal_model(guests, run_id=run_id)
    guests.pass_gate(run_id)
    return run_id, manifest


def test_files_that_a_job_makes_are_sealed_with_their_names(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    guests.on_run = lambda workload: made(MODEL)
    result = guests.run(guests.request(run_id))
    assert guests.workload is not None
    assert guests.workload.job.folders == (FilesOutput(dataset="report", files=2),)
    assert guests.workload.job.outputs == ()
    manifest = canonical.decode(guests.world.client.manifest(result.outputs[0].manifest).payload, into=Manifest)
    assert (manifest.body, manifest.columns, len(manifest.parts)) == ("padded-files", (), 3)
    owners = guests.world.owners
    kek_id = owners.dataset_certificates["report"].kek_id
    data_key = open_data_key(manifest, key=owners.dataset_keys["report"], kek_id=kek_id)
    assert dict(read_files(manifest, folder=guests.part(manifest).parent, data_key=data_key)) == MODEL
    stored = b"".join(path.read_bytes() for path in guests.storage.rglob("*") if path.is_file())
    assert b"secret weights" not in stored
    assert b"net.json" not in stored


@pytest.mark.parametrize(
    "files", [{}, {"one": b"1"}, {"one": b"1", "two": b"2", "three": b"3"}], ids=["none", "too few", "too many"]
)
def test_another_number_of_files_than_approved_leaves_no_output(files: dict[str, bytes], guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    guests.on_run = lambda workload: made(files)
    with pytest.raises(PpmlError) as raised:
        guests.run(guests.request(run_id))
    assert raised.value.code == "output_mismatch"
    assert guests.world.client.head("report") is None


def test_a_name_that_leads_out_of_the_folder_leaves_no_output(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    guests.on_run = lambda workload: made({"../evil": b"1", "two": b"2"})
    with pytest.raises(PpmlError):
        guests.run(guests.request(run_id))
    assert guests.world.client.head("report") is None


def test_a_job_reads_granted_files_in_memory(guests: GuestWorld) -> None:
    run_id, _ = run_with_model(guests)
    seen: dict[str, bytes] = {}

    def read(workload: CountingWorkload) -> JobResult:
        seen.update(workload.keys.open_files("visits"))
        return made({"one": b"1", "two": b"2"})

    guests.on_run = read
    guests.run(guests.request(run_id))
    assert guests.workload is not None
    assert guests.workload.job.files == (FilesInput(dataset="visits"),)
    assert [table.view for table in guests.workload.job.inputs] == ["plans"]
    assert seen == MODEL
    left = b"".join(path.read_bytes() for path in guests.private.rglob("*") if path.is_file())
    assert b"secret weights" not in left


def test_a_flipped_byte_of_a_granted_file_is_named_before_the_lease(guests: GuestWorld) -> None:
    run_id, manifest = run_with_model(guests)
    part = guests.part(manifest, index=2)
    content = bytearray(part.read_bytes())
    content[60] ^= 1
    part.write_bytes(content)
    with pytest.raises(VerificationError, match="part-00002 of visits"):
        guests.run(guests.request(run_id))


def test_files_that_are_not_granted_are_refused() -> None:
    keys = JobKeys(read={}, write=lambda dataset, path: pytest.fail("no output"))
    with pytest.raises(PolicyDeniedError, match="not granted"):
        keys.open_files("model")
