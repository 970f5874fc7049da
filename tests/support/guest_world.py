"""A guest in this process: real broker, real sealed tables, simulated quotes, and a workload that a test plays.

Everything between host and guest can be changed before `run`: the request, the broker's answers, the storage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pyarrow as pa

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Lease, Receipt
from ppml_airflow.guest.session import Surroundings, run_guest
from ppml_airflow.guest.speech import Speech
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.protocol.launches import GuestEvent, GuestResult
from ppml_airflow.protocol.messages import Attest, LaunchRequest, LeaseAnswer
from ppml_airflow.sealing.datasets import seal_table
from ppml_airflow.sealing.manifest import Column, Manifest
from ppml_airflow.sealing.sources import open_source
from ppml_airflow.sealing.tables import read_sealed_parquet, write_sealed_parquet
from ppml_airflow.sealing.versions import NewVersion, Producer, dataset_folder
from ppml_airflow.signing import Envelope, SigningKey
from ppml_airflow.workloads.job import JobKeys, JobResult, WorkloadJob
from tests.support.broker_world import World
from tests.support.policies import MEASUREMENT

CODE = {"query.sql": b"select 1"}
COLUMNS = (Column(name="rows", type="int64"),)


class CountingWorkload:
    """Plays Spark: counts the rows of its inputs into each output. `on_run` may do anything instead."""

    def __init__(
        self, job: WorkloadJob, *, private: Path, log: Path, on_run: Callable[[CountingWorkload], JobResult | None]
    ) -> None:
        self.job, self.private, self.log = job, private, log
        self.is_cancelled = False
        self.is_closed = False
        self.rows = 0
        self._on_run = on_run

    def prepare(self) -> Mapping[str, tuple[Column, ...]]:
        self.log.write_text("prepared\n")
        return {output.dataset: COLUMNS for output in self.job.outputs}

    def run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        self.keys = keys
        for table in self.job.inputs:
            for part in table.parts:
                key = keys.read[part]
                self.rows += read_sealed_parquet(part, data_key=key.data_key, aad=key.aad).num_rows
            on_progress(50)
        played = self._on_run(self)
        return played if played is not None else self.write(keys)

    def write(self, keys: JobKeys) -> JobResult:
        table = pa.table({"rows": pa.array([self.rows], pa.int64())})
        outputs = {}
        for output in self.job.outputs:
            folder = self.private / "output" / output.dataset
            folder.mkdir(parents=True)
            outputs[output.dataset] = tuple(folder / f"part-{index:05d}" for index in range(output.files))
            for part in outputs[output.dataset]:
                key = keys.write(output.dataset, part.name)
                write_sealed_parquet(table.to_batches(), part, schema=table.schema, data_key=key.data_key, aad=key.aad)
        return JobResult(outcome="ok", outputs=outputs, disclosed={"rows": self.rows, "secret": 1})

    def cancel(self) -> None:
        self.is_cancelled = True

    def close(self) -> None:
        self.is_closed = True


class MeddlingClient:
    """A broker's client between guest and broker that changes leases on their way. Wraps a real one."""

    def __init__(self, client: BrokerClient, *, meddle: Callable[[LeaseAnswer], LeaseAnswer]) -> None:
        self._client, self._meddle = client, meddle

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)

    def __enter__(self) -> MeddlingClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def lease(self, request: Attest) -> LeaseAnswer:
        return self._meddle(self._client.lease(request))


@dataclass(kw_only=True)
class GuestWorld:
    """A broker's world, a storage with sealed tables, and guests."""

    world: World
    folder: Path
    events: list[GuestEvent] = field(default_factory=list)
    quotes: int = 0

    def __post_init__(self) -> None:
        self.storage = self.folder / "storage"
        self.workload: CountingWorkload | None = None
        self.on_run: Callable[[CountingWorkload], JobResult | None] = lambda workload: None
        self.connect: Callable[[str], BrokerClient] = lambda url: self.world.connect()
        self.domain = self.world.owners.domain
        self.image = "spark"
        self.speech = Speech(self.events.append)

    def seal(self, dataset: str, *, run_id: str | None = None, rows: int = 3) -> Manifest:
        """What the owner's agent does: seal a table of that many rows and publish it."""
        source = self.folder / f"{dataset}.csv"
        source.write_text("id,name\n" + "".join(f"{row},Smith\n" for row in range(rows)))
        owners, head = self.world.owners, self.world.client.head(dataset)
        sealed = seal_table(
            open_source(source),
            storage=self.storage,
            new=NewVersion(
                domain_id=owners.domain.domain_id,
                dataset=dataset,
                version=canonical.decode(head.payload, into=Manifest).version + 1 if head else 1,
                prev=head.digest if head else None,
                run_id=run_id,
            ),
            dataset_key=owners.dataset_certificates[dataset],
            producer=Producer(serial=owners.producer_certificate.serial, key=owners.producer),
        )
        self.world.client.publish(sealed.envelope)
        return sealed.manifest

    def ready_run(self, name: str = "manual") -> str:
        """A run whose first step has its inputs, really sealed."""
        if self.world.client.head("plans") is None:
            self.seal("plans", rows=2)
        run_id = self.world.open_run(name)
        self.seal("visits", run_id=run_id)
        return run_id

    def request(self, run_id: str, *, role: str = "job", step: str = "aggregate", **changes: object) -> LaunchRequest:
        """An honest host's request."""
        request = LaunchRequest(
            image="spark",
            role=role,
            step=step,
            bundle=self.world.client.bundle(run_id, step),
            code=CODE,
            broker="unix:/broker",
            storage=str(self.storage),
        )
        return msgspec.structs.replace(request, **changes)

    def run(self, request: LaunchRequest) -> GuestResult:
        """Run a guest to its end."""
        self.speech = Speech(self.events.append)
        return run_guest(request, around=self.surroundings(), speech=self.speech)

    def surroundings(self) -> Surroundings:
        """What a new guest stands on."""
        private = self.folder / f"private-{len(list(self.folder.glob('private-*')))}"
        private.mkdir(mode=0o700)
        self.private = private
        return Surroundings(
            domain=self.domain,
            image=self.image,
            private=private,
            quoter=self._quote,
            connect=self.connect,
            workload=self._workload,
            now=lambda: self.world.now,
            heartbeat_s=0.05,
            commit_s=1.0,
        )

    def pass_gate(self, run_id: str) -> None:
        """A preflight of the first step."""
        assert self.run(self.request(run_id, role="preflight")).state == "granted"

    def gated_run(self) -> str:
        """A run whose first step may be leased."""
        run_id = self.ready_run()
        self.pass_gate(run_id)
        return run_id

    def meddle(self, change: Callable[[Lease], Lease], *, key: SigningKey | None = None) -> None:
        """From now on leases are changed and signed again, by the broker itself or by another key."""

        def answer(given: LeaseAnswer) -> LeaseAnswer:
            assert given.lease is not None
            lease = change(canonical.decode(given.lease.payload, into=Lease))
            signed: Envelope = (key or self.world.owners.broker).sign(lease)
            return msgspec.structs.replace(given, lease=signed)

        self.connect = lambda url: MeddlingClient(self.world.connect(), meddle=answer)  # type: ignore[return-value]

    def part(self, manifest: Manifest, index: int = 0) -> Path:
        """A sealed part in storage."""
        digest = canonical.digest(manifest)
        folder = dataset_folder(self.storage, dataset=manifest.dataset, version=manifest.version, digest=digest)
        return folder / manifest.parts[index].path

    def receipts(self, run_id: str) -> list[Receipt]:
        """What the broker was told by guests of the first step, from its store."""
        with self.world.broker.decision() as ledger:
            rows = ledger.attempts(run_id, "aggregate")
            return [canonical.decode(ledger.envelope(row.receipt).payload, into=Receipt) for row in rows if row.receipt]

    def _quote(self, report_data: bytes) -> bytes:
        self.quotes += 1
        return self.world.platform.quote_sgx(measurement=MEASUREMENT, report_data=report_data)

    def _workload(self, name: str, *, job: WorkloadJob, private: Path, log: Path) -> CountingWorkload:
        assert name == "spark-sql"
        self.workload = CountingWorkload(job, private=private, log=log, on_run=self.on_run)
        return self.workload
