"""The owner's side: read a source, seal it as the next version of its dataset, publish it.

1. What an earlier attempt or a crash left unpublished is removed.
2. The version that was published for this run, if there is one, is the answer.
3. The source is sealed to the dataset's certified key as head + 1, signed by the producer's key.
4. PUBLISH. When another producer was faster, the version is removed and sealed again on top of the new head.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from ppml_airflow import canonical
from ppml_airflow.agent.journal import Journal, Unfinished
from ppml_airflow.agent.runs import VerifiedRun, own_certificates
from ppml_airflow.agent.settings import Seal, Settings, source_of
from ppml_airflow.agent.tasks import Progress
from ppml_airflow.domain.documents import ParamValue
from ppml_airflow.errors import ConfigurationError, PpmlError, UnavailableError, VerificationError
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.protocol.messages import Published
from ppml_airflow.sealing.datasets import seal_files, seal_table, verify_manifest
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.sealing.sources import FilesSource, TableSource, is_table, open_files_source, open_source
from ppml_airflow.sealing.streams import StreamSource, is_stream, open_stream_source, seal_stream
from ppml_airflow.sealing.versions import NewVersion, Producer, SealedVersion, load_envelope, unfinished_prefix
from ppml_airflow.signing import Envelope
from ppml_airflow.units import Digest

MAX_RACES = 5

Source = TableSource | FilesSource | StreamSource

_log = logging.getLogger(__name__)


class Owner:
    """Seals what the map names. One seal of a dataset at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._journal = Journal(settings.state)
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def sweep(self, broker: BrokerClient) -> None:
        """Remove what a killed agent left: half sealed versions at once, whole ones when the broker says so."""
        for note in self._journal.unfinished():
            for folder in (self._settings.storage / note.dataset).glob(f"{unfinished_prefix(note.run_id)}*"):
                shutil.rmtree(folder)
            try:
                self._settle(note, broker=broker)
            except PpmlError as error:
                _log.warning("what run %s left of %s stays for now: %s", note.run_id, note.dataset, error.code)

    def seal(self, entry: Seal, *, verified: VerifiedRun, progress: Progress) -> Published:
        """Seal a source for a run and publish it; asked again, answer with the same version.

        Raises:
            ConfigurationError: the source cannot be sealed.
            VerificationError: dataset or producer key is not certified, or the broker's answer is not authentic.
            PpmlError: what the broker refuses. Nothing is left in storage, unless the broker cannot be asked whether
                it had accepted; then the next seal or the next start decides.
        """
        dataset, broker = entry.dataset, verified.broker
        with self._locks[dataset]:
            for note in self._journal.unfinished():
                if note.dataset == dataset:
                    self._settle(note, broker=broker)
            published = broker.sealed_for_run(verified.run.run_id, dataset)
            if published is not None:
                return _require_verified(published, verified=verified, dataset=dataset)
            source = _open(entry, params=verified.run.params, progress=progress)
            for _ in range(MAX_RACES):
                sealed = self._seal_next(source, dataset=dataset, verified=verified)
                answer = self._publish(sealed, broker=broker)
                if answer is not None:
                    return answer
        raise UnavailableError(
            f"dataset {dataset} was moved by others {MAX_RACES} times meanwhile",
            code="not_next",
            hint="try again later",
        )

    # ---------------------------------------------------------------- inside

    def _seal_next(self, source: Source, *, dataset: str, verified: VerifiedRun) -> SealedVersion:
        """Seal the version after the head, to certified keys only; a note in the journal stays until it is settled."""
        signing_key = self._settings.producer
        if signing_key is None:
            raise ConfigurationError("agent has no producer_key")
        own = own_certificates(verified, key=signing_key.public, role="producer", dataset=dataset)
        certificate = verified.certificates.current(role="dataset", subject=dataset, now=verified.now)
        version, prev = _head(verified.broker.head(dataset), dataset=dataset)
        note = Unfinished(dataset=dataset, run_id=verified.run.run_id)
        self._journal.begin(note)
        try:
            new = NewVersion(
                domain_id=verified.run.domain_id,
                dataset=dataset,
                version=version + 1,
                prev=prev,
                run_id=verified.run.run_id,
            )
            storage, producer = self._settings.storage, Producer(serial=own[0].serial, key=signing_key)
            if isinstance(source, FilesSource):
                return seal_files(source.files, storage=storage, new=new, dataset_key=certificate, producer=producer)
            if isinstance(source, StreamSource):
                return seal_stream(source, storage=storage, new=new, dataset_key=certificate, producer=producer)
            return seal_table(source, storage=storage, new=new, dataset_key=certificate, producer=producer)
        except BaseException:
            self._remove_versions(note, keep=None)  # nothing of this run was published: step 2 has asked
            self._journal.end(note)
            raise

    def _publish(self, sealed: SealedVersion, *, broker: BrokerClient) -> Published | None:
        """Publish; None if another producer was faster. Whatever goes wrong, the broker says whether it counts."""
        manifest = sealed.manifest
        note = Unfinished(dataset=manifest.dataset, run_id=manifest.run_id or "")
        try:
            published = broker.publish(sealed.envelope)
            if published.manifest != sealed.digest:
                raise VerificationError(f"broker published {published.manifest}, asked for {sealed.digest}")
        except PpmlError as error:
            committed = self._settle(note, broker=broker)
            if committed == sealed.digest:
                return Published(dataset=manifest.dataset, version=manifest.version, manifest=sealed.digest)
            if error.code == "not_next":
                return None
            raise
        self._journal.end(note)
        return published

    def _settle(self, note: Unfinished, *, broker: BrokerClient) -> Digest | None:
        """Ask the broker what it has of a dataset for a run, remove our other versions of it, and end the note."""
        envelope = broker.sealed_for_run(note.run_id, note.dataset)
        committed = envelope.digest if envelope else None
        self._remove_versions(note, keep=committed)
        self._journal.end(note)
        return committed

    def _remove_versions(self, note: Unfinished, *, keep: Digest | None) -> None:
        """Remove what this agent's key sealed of a dataset for a run, except the committed version."""
        key = self._settings.producer
        for folder in (self._settings.storage / note.dataset).glob("[0-9]*"):
            if folder.is_symlink():
                continue
            try:
                envelope = load_envelope(folder)
                manifest = canonical.decode(envelope.payload, into=Manifest)
            except PpmlError:
                continue  # not of this agent's making
            own = key is not None and [signature.keyid for signature in envelope.signatures] == [key.public.key_id]
            if own and manifest.run_id == note.run_id and envelope.digest != keep:
                shutil.rmtree(folder)


def _require_verified(envelope: Envelope, *, verified: VerifiedRun, dataset: str) -> Published:
    """What the broker says was published for this run, if a producer certified for the dataset signed it so.

    Expired certificates count: what they sealed in their time stays sealed.
    """
    producers = {
        serial: certificate.key
        for serial, certificate in verified.certificates.by_serial.items()
        if certificate.role == "producer" and dataset in certificate.datasets
    }
    run = verified.run
    manifest = verify_manifest(envelope, domain_id=run.domain_id, dataset=dataset, producers=producers, leases={})
    if manifest.run_id != run.run_id:
        raise VerificationError(f"manifest of {dataset} is not of run {run.run_id}", code="other_run")
    return Published(dataset=dataset, version=manifest.version, manifest=envelope.digest)


def _head(envelope: Envelope | None, *, dataset: str) -> tuple[int, Digest | None]:
    """Version and digest of a dataset's head. A wrong one costs a refused PUBLISH, nothing more."""
    if envelope is None:
        return 0, None
    manifest = canonical.decode(envelope.payload, into=Manifest)
    if manifest.dataset != dataset:
        raise VerificationError(f"broker answered with a head of {manifest.dataset}, wanted {dataset}")
    return manifest.version, envelope.digest


def _open(entry: Seal, *, params: Mapping[str, ParamValue], progress: Progress) -> Source:
    source = source_of(entry, params=params)
    if is_stream(source):
        stream = open_stream_source(source, expected=entry.columns)
        return dataclasses.replace(stream, watch=partial(progress.report, total=stream.size))
    if is_table(source):
        return _watched(open_source(source, expected=entry.columns), progress=progress)
    if entry.columns:
        raise ConfigurationError(f"source {source} is no table, but agent.yaml names columns of it")
    return open_files_source(source)


def _watched(source: TableSource, *, progress: Progress) -> TableSource:
    """The same source, which reports how much of it has been read: rows of Parquet, about that many bytes of CSV."""
    is_parquet = source.path.suffix.lower() == ".parquet"
    total = pq.read_metadata(source.path).num_rows if is_parquet else source.path.stat().st_size

    def batches() -> Iterator[pa.RecordBatch]:
        done = 0
        progress.report(done, total=total)
        for batch in source.batches():
            yield batch
            done += batch.num_rows if is_parquet else batch.nbytes
            progress.report(done, total=total)

    return dataclasses.replace(source, batches=batches)
