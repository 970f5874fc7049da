"""The recipient's side: fetch the release key of an output, verify who made the output, open it into the sink.

1. RELEASE, under the certificate of this agent's key: only a committed output has a release key.
2. A certified broker signed the lease, of this run; the lease names H(B), B holds K, K signed the manifest. So neither
   the storage nor anybody between broker and recipient can hand over a result of his own.
3. Release key and recipient key together open the data key; each alone opens nothing.
4. Every part is whole, in its place, of this version; the sink appears by one rename.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from ppml_airflow import canonical
from ppml_airflow.agent.runs import VerifiedRun, own_certificates
from ppml_airflow.agent.settings import Delivery, Settings
from ppml_airflow.agent.sinks import sweep, write_folder, write_table
from ppml_airflow.agent.tasks import Progress
from ppml_airflow.domain.documents import Certificate, Lease
from ppml_airflow.domain.trust import verify_broker_document
from ppml_airflow.errors import ConfigurationError, PpmlError, VerificationError
from ppml_airflow.protocol.messages import Published, ReleaseAnswer, ReleaseRequest
from ppml_airflow.sealing.datasets import FILE_BODIES, aad_of, open_files, open_released_key, open_table_parts
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.sealing.streams import STREAM_BODIES, read_stream
from ppml_airflow.sealing.tables import read_sealed_batches, read_sealed_schema
from ppml_airflow.sealing.versions import dataset_folder
from ppml_airflow.sealing.wrapping import hpke_open, release_info
from ppml_airflow.signing import verify_envelope

_NOT_THIS_CERTIFICATE = ("not_a_recipient", "not_certified")


class Recipient:
    """Delivers what the map names."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._scratch = settings.state / "scratch"

    def sweep(self) -> None:
        """Remove what a killed agent left: encrypted scratch files, and temporary files beside the sinks."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        for entry in self._settings.delivers.values():
            sweep(entry.sink)

    def deliver(self, entry: Delivery, *, verified: VerifiedRun, progress: Progress) -> Published:
        """Open the output of a run into its sink; asked again, do it again with the same result.

        Raises:
            PolicyDeniedError: not committed yet, or not for this recipient.
            VerificationError: not authentic, not of this run, or not whole. The sink is as it was before.
            ConfigurationError: the sink cannot hold the table or cannot be written.
        """
        key, dataset = self._settings.recipient, entry.dataset
        if key is None:
            raise ConfigurationError("agent has no recipient_key")
        own = own_certificates(verified, key=key.public, role="recipient", dataset=dataset)
        certificate, answer = fetch_release(verified, dataset=dataset, own=own)
        manifest = verify_release(answer, verified=verified, dataset=dataset, recipient=certificate)
        info = release_info(run_id=verified.run.run_id, dataset=dataset, serial=certificate.serial)
        release_key = hpke_open(answer.sealed_release_key, key=key, info=info)
        data_key = open_released_key(manifest, key=key, serial=certificate.serial, release_key=release_key)
        folder = dataset_folder(
            self._settings.storage, dataset=dataset, version=manifest.version, digest=answer.manifest.digest
        )
        self._open(manifest, folder=folder, data_key=data_key, entry=entry, progress=progress)
        return Published(dataset=dataset, version=manifest.version, manifest=answer.manifest.digest)

    def _open(self, manifest: Manifest, *, folder: Path, data_key: bytes, entry: Delivery, progress: Progress) -> None:
        if entry.is_folder != (manifest.body in FILE_BODIES):
            holds = (
                "files, and its sink is no folder" if entry.is_folder is False else "a table, and its sink is a folder"
            )
            raise ConfigurationError(
                f"output {manifest.dataset} is {holds}",
                code="sink_unfit",
                hint="let the sink in agent.yaml end in .csv or .parquet for a table, in / for files",
            )
        if entry.is_folder:
            write_folder(
                entry.sink, write=lambda target: open_files(manifest, folder=folder, data_key=data_key, target=target)
            )
            return
        self._scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=self._scratch) as scratch:
            batches = _rows(manifest, folder=folder, data_key=data_key, scratch=Path(scratch), progress=progress)
            schema = next(batches).schema
            write_table(_alike(batches, schema=schema), entry.sink, schema=schema)


def _rows(
    manifest: Manifest, *, folder: Path, data_key: bytes, scratch: Path, progress: Progress
) -> Iterator[pa.RecordBatch]:
    """The rows of an output, part by part; each part begins with an empty batch, for a part may have no rows.

    Scratch files are still encrypted, and one is there at a time.
    """
    total = sum(part.size for part in manifest.parts)
    done = 0
    files = open_table_parts(manifest, folder=folder, data_key=data_key, scratch=scratch)
    if manifest.body in STREAM_BODIES:
        yield from read_stream(files, manifest=manifest, data_key=data_key)
        return
    for part, file in zip(manifest.parts, files, strict=True):
        progress.report(done, total=total)
        aad = aad_of(manifest, part=part)
        schema = read_sealed_schema(file, data_key=data_key, aad=aad).remove_metadata()
        yield pa.RecordBatch.from_pylist([], schema=schema)
        for batch in read_sealed_batches(file, data_key=data_key, aad=aad):
            progress.report(done, total=total)
            yield batch.replace_schema_metadata(None)
        done += part.size
        if file.parent == scratch:
            file.unlink()


def _alike(batches: Iterable[pa.RecordBatch], *, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The batches that hold rows; all of them, empty ones too, must have the same columns."""
    for batch in batches:
        if not batch.schema.equals(schema):
            raise VerificationError("parts of the output have different columns", code="part_changed")
        if batch.num_rows:
            yield batch


def fetch_release(
    verified: VerifiedRun, *, dataset: str, own: tuple[Certificate, ...]
) -> tuple[Certificate, ReleaseAnswer]:
    """Ask for the release key. A key may be certified anew while a run goes on: older certificates are tried too.

    Raises:
        PolicyDeniedError: not committed, or not a recipient of this output.
    """
    refused: list[PpmlError] = []
    for certificate in own:
        request = ReleaseRequest(run_id=verified.run.run_id, dataset=dataset, recipient=certificate.serial)
        try:
            return certificate, verified.broker.release(request)
        except PpmlError as error:
            if error.code not in _NOT_THIS_CERTIFICATE:
                raise
            refused.append(error)
    raise refused[0]


def verify_release(answer: ReleaseAnswer, *, verified: VerifiedRun, dataset: str, recipient: Certificate) -> Manifest:
    """Verify that the manifest was made by the attested enclave which a certified broker leased this run's output to.

    Raises:
        VerificationError: a link of that chain is missing, or is of another run, dataset, version or recipient.
    """
    run = verified.run
    lease = verify_broker_document(answer.lease, into=Lease, certificates=verified.certificates, now=verified.now)
    if lease.run_id != run.run_id:
        raise VerificationError(f"lease is of run {lease.run_id}, wanted {run.run_id}", code="other_run")
    reserved = next((output for output in lease.outputs if output.dataset == dataset), None)
    if reserved is None or recipient.serial not in reserved.recipient_certificates:
        raise VerificationError(f"lease {lease.lease_id} is not for {dataset} to this recipient", code="other_lease")
    if canonical.digest(answer.binding) != lease.binding or answer.binding.domain_id != run.domain_id:
        raise VerificationError(f"binding is not the one of lease {lease.lease_id}", code="other_binding")
    manifest = verify_envelope(answer.manifest, into=Manifest, keys=(answer.binding.signing_key,))
    found = (manifest.domain_id, manifest.dataset, manifest.version, manifest.prev, manifest.run_id, manifest.lease_id)
    wanted = (run.domain_id, dataset, reserved.version, reserved.prev, run.run_id, lease.lease_id)
    if found != wanted:
        raise VerificationError(f"manifest of {dataset} is not the one that was leased", code="other_manifest")
    return manifest
