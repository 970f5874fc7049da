"""A job in its two phases: prepared before the lease with nothing secret, run after it, sealed, signed, committed.

Messages 8 to 10 of the trust protocol. After the lease no exception leaves: what goes wrong is written to the log,
which is sealed, and becomes one word of the closed vocabulary, which stands in the receipt.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ppml_airflow import canonical
from ppml_airflow.domain.adhoc import STATEMENT_FILE, statement_param
from ppml_airflow.domain.documents import DatasetVersion, Lease, LeaseKeys, Member, Receipt
from ppml_airflow.domain.sets import LEADER, require_whole
from ppml_airflow.errors import MalformedInputError, PolicyDeniedError, PpmlError, UnavailableError, VerificationError
from ppml_airflow.guest.bundle import VerifiedBundle
from ppml_airflow.guest.identity import Identity
from ppml_airflow.guest.inputs import VerifiedInput, verify_input
from ppml_airflow.guest.outputs import output_seals, seal_job_log
from ppml_airflow.guest.speech import Speech, outcome_code, spoken_error
from ppml_airflow.guest.watch import Watch
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.protocol.launches import GuestResult
from ppml_airflow.protocol.messages import Commit, Published
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.sealing.outputs import OutputSeal, seal_files_output, seal_table_output
from ppml_airflow.sealing.versions import SealedVersion
from ppml_airflow.units import Digest, Name, parse_instant
from ppml_airflow.workloads.cluster import Cluster, ClusterKeys, messages_folder
from ppml_airflow.workloads.job import (
    FileKey,
    FilesInput,
    FilesOutput,
    JobKeys,
    JobResult,
    TableOutput,
    Workload,
    WorkloadJob,
)
from ppml_airflow.workloads.params import typed_params

_RETRY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedJob:
    """A job that has been judged and may be leased."""

    bundle: VerifiedBundle
    inputs: Mapping[Name, VerifiedInput]
    workload: Workload
    columns: Mapping[Name, tuple[Column, ...]]
    storage: Path
    log: Path
    index: int
    """Which member of a set; 0 without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedJob:
    """A prepared job with its lease. Holds secrets."""

    prepared: PreparedJob
    lease: Lease
    keys: LeaseKeys = field(repr=False)
    identity: Identity
    broker: BrokerClient
    speech: Speech


def verify_inputs(bundle: VerifiedBundle, *, storage: Path, scratch: Path) -> dict[Name, VerifiedInput]:
    """Verify every pinned input in storage, in the order of the pins.

    Raises:
        VerificationError: a part is missing or changed.
    """
    return {
        pinned.dataset: verify_input(
            bundle.manifests[pinned.dataset], digest=pinned.manifest, storage=storage, scratch=scratch
        )
        for pinned in bundle.job.inputs
    }


def workload_job(
    bundle: VerifiedBundle, *, code: Path, inputs: Mapping[Name, VerifiedInput], index: int
) -> WorkloadJob:
    """The job as a workload takes it."""
    job, step = bundle.job, bundle.step
    tables = tuple(found.table() for found in inputs.values() if found.is_table)
    files = tuple(FilesInput(dataset=dataset) for dataset, found in inputs.items() if not found.is_table)
    statement = statement_param(step)
    params = {name: value for name, value in job.params.items() if name != statement}
    return WorkloadJob(
        code=code,
        argv=(STATEMENT_FILE,) if statement else job.argv,
        params=typed_params(params, declared=step.params),
        environment=job.environment,
        inputs=tables,
        outputs=tuple(
            TableOutput(dataset=output.dataset, files=output.files, is_stream=output.body == "stream")
            for output in step.outputs
            if output.body != "files"
        ),
        limits=step.limits,
        members=step.members,
        index=index,
        files=files,
        folders=tuple(
            FilesOutput(dataset=output.dataset, files=output.files) for output in step.outputs if output.body == "files"
        ),
    )


def run_leased(leased: LeasedJob, *, heartbeat_s: float, commit_s: float) -> GuestResult:
    """Run, seal, sign and commit. A member that does not lead its set only runs: the leader commits for all.

    Args:
        leased: the job.
        heartbeat_s: how often the broker is asked whether to go on.
        commit_s: how long the receipt is offered to a broker that does not answer.

    Raises:
        PpmlError: the job failed, or its lease ended; a constant of the closed vocabulary.
    """
    lease, broker = leased.lease, leased.broker
    lifetime = (parse_instant(lease.expires) - parse_instant(lease.issued)).total_seconds()
    watch = Watch(
        ask=lambda: broker.lease_status(lease.lease_id).state,
        stop=leased.prepared.workload.cancel,
        lifetime_s=lifetime,
        interval_s=heartbeat_s,
    )
    prepared = leased.prepared
    seals = output_seals(
        lease,
        keys=leased.keys,
        bundle=prepared.bundle,
        storage=prepared.storage,
        signing_key=leased.identity.signing_key,
    )
    with watch:
        result, code = _compute(leased, seals=seals)
        versions: list[SealedVersion] = []
        if code == "ok" and not watch.reason and prepared.index == LEADER:
            leased.speech.tell("sealing", percent=100)
            versions, code = _seal(prepared, result=result, seals=seals)
        if watch.reason:
            raise spoken_error(watch.reason)
        if prepared.index != LEADER:
            return _end_as_member(leased, code=code)
        log = seal_job_log(prepared.log, lease=lease, bundle=prepared.bundle, storage=prepared.storage)
        receipt = _receipt(leased, versions=versions, outcome=outcome_code(code), result=result, log=log)
        receipt = _commit(leased, receipt=receipt, versions=versions, commit_s=commit_s)
    if receipt.outcome != "ok":
        raise spoken_error(receipt.outcome)
    leased.speech.tell("committed", percent=100)
    return GuestResult(
        state="committed",
        code="",
        attempt=lease.attempt,
        lease_id=lease.lease_id,
        receipt=canonical.digest(receipt),
        outputs=tuple(_published(output) for output in receipt.outputs),
    )


def _end_as_member(leased: LeasedJob, *, code: str) -> GuestResult:
    """End without a receipt. What the member printed is sealed under its own lease, beside the leader's log.

    Raises:
        PpmlError: its part of the job failed; a constant of the closed vocabulary.
    """
    prepared, lease = leased.prepared, leased.lease
    seal_job_log(prepared.log, lease=lease, bundle=prepared.bundle, storage=prepared.storage, member=prepared.index)
    if code != "ok":
        raise spoken_error(outcome_code(code))
    leased.speech.tell("ended", percent=100)
    return GuestResult(state="ended", code="", attempt=lease.attempt, lease_id=lease.lease_id, receipt=None, outputs=())


def _compute(leased: LeasedJob, *, seals: Mapping[Name, OutputSeal]) -> tuple[JobResult, str]:
    prepared, keys = leased.prepared, leased.keys
    leased.speech.tell("running")
    read: dict[Path, FileKey] = {}
    try:
        for dataset, found in prepared.inputs.items():
            if found.is_table:
                found.unpad(data_key=keys.data_keys[dataset])
                read.update(found.file_keys(data_key=keys.data_keys[dataset]))
    except VerificationError as error:
        _write_log(prepared.log, error)
        return JobResult(outcome="input_corrupt"), "input_corrupt"

    def write(dataset: str, path: str) -> FileKey:
        return FileKey(data_key=seals[dataset].data_key, aad=seals[dataset].aad(path))

    def open_files(dataset: str) -> Iterator[tuple[str, bytes]]:
        return prepared.inputs[dataset].read_files(data_key=keys.data_keys[dataset])

    cluster = None if keys.cluster_secret is None else _cluster(leased, secret=keys.cluster_secret)
    try:
        result = prepared.workload.run(
            keys=JobKeys(read=read, write=write, open_files=open_files, cluster=cluster),
            on_progress=leased.speech.tell_progress,
        )
    except Exception as error:  # whatever it is, its text stays inside
        _write_log(prepared.log, error)
        return JobResult(outcome="job_failed"), "guest_failed"
    return result, result.outcome


def _cluster(leased: LeasedJob, *, secret: bytes) -> Cluster:
    prepared, binding = leased.prepared, leased.identity.binding
    return Cluster(
        keys=ClusterKeys.derive(secret),
        folder=messages_folder(prepared.storage, set_id=binding.set_id),
        set_id=binding.set_id,
        index=binding.index,
        members=prepared.bundle.step.members,
    )


def _seal(
    prepared: PreparedJob, *, result: JobResult, seals: Mapping[Name, OutputSeal]
) -> tuple[list[SealedVersion], str]:
    versions = []
    try:
        for output in prepared.bundle.step.outputs:
            dataset, seal = output.dataset, seals[output.dataset]
            if output.body != "files":
                columns = prepared.columns[dataset]
                versions.append(seal_table_output(result.outputs[dataset], columns=columns, seal=seal))
            elif len(result.files.get(dataset, ())) != output.files:
                return [], "output_mismatch"
            else:
                versions.append(seal_files_output(result.files[dataset], seal=seal))
    except Exception as error:  # a full disk, say; a job's paths could stand in the message
        _write_log(prepared.log, error)
        return [], "guest_failed"
    return versions, "ok"


def _receipt(
    leased: LeasedJob, *, versions: list[SealedVersion], outcome: str, result: JobResult, log: Digest | None
) -> Receipt:
    lease = leased.lease
    return Receipt(
        lease_id=lease.lease_id,
        attempt=lease.attempt,
        binding=lease.binding,
        job=lease.job,
        run_id=lease.run_id,
        step=lease.step,
        inputs=lease.inputs,
        outputs=tuple(
            DatasetVersion(dataset=version.manifest.dataset, version=version.manifest.version, manifest=version.digest)
            for version in versions
        ),
        members=(),  # asked for when it is committed
        outcome=outcome,
        disclosed=_disclosed(leased, result) if outcome == "ok" else {},
        log=log,
    )


def _disclosed(leased: LeasedJob, result: JobResult) -> dict[Name, int]:
    """The counts that the approval lets out, within its bounds; the rest stays inside."""
    return {
        allowed.name: result.disclosed[allowed.name]
        for allowed in leased.prepared.bundle.step.disclosed
        if allowed.name in result.disclosed and allowed.minimum <= result.disclosed[allowed.name] <= allowed.maximum
    }


def _commit(leased: LeasedJob, *, receipt: Receipt, versions: list[SealedVersion], commit_s: float) -> Receipt:
    """Hand in the receipt; the same receipt gets the same answer, so a lost reply is asked for again.

    The leader of a set learns from the broker which leases its attempt has had; a member may be replaced meanwhile.

    Raises:
        PpmlError: refused, or no answer for a minute; a constant of the closed vocabulary.
    """
    step = leased.prepared.bundle.step
    manifests = tuple(version.envelope for version in versions)
    until = time.monotonic() + commit_s
    try:
        while True:
            try:
                if step.members > 1:
                    receipt = msgspec.structs.replace(receipt, members=_members(leased))
                leased.broker.commit(Commit(receipt=leased.identity.signing_key.sign(receipt), manifests=manifests))
                return receipt
            except UnavailableError:
                if time.monotonic() >= until:
                    raise
                time.sleep(_RETRY_S)
            except VerificationError as error:
                if error.code != "other_members" or time.monotonic() >= until:
                    raise
    except UnavailableError:
        raise spoken_error("broker_unavailable") from None
    except (PolicyDeniedError, VerificationError, MalformedInputError) as error:
        _write_log(leased.prepared.log, error)
        raise spoken_error(error.code if error.code.startswith("lease_") else "commit_refused") from None


def _members(leased: LeasedJob) -> tuple[Member, ...]:
    """The leases of this attempt, by the broker's word, which it compares; this guest's own is the first.

    Raises:
        VerificationError: they are no whole set, or not this leader's.
    """
    lease = leased.lease
    members = leased.broker.lease_status(lease.lease_id).members
    require_whole(members, step=leased.prepared.bundle.step)
    if (members[0].lease_id, members[0].binding) != (lease.lease_id, lease.binding):
        raise VerificationError("the set that the broker tells of has another leader", code="other_set")
    return members


def _published(output: DatasetVersion) -> Published:
    return Published(dataset=output.dataset, version=output.version, manifest=output.manifest)


def _write_log(log: Path, error: Exception) -> None:
    with log.open("a") as file:
        file.writelines(traceback.format_exception(error))
        if isinstance(error, PpmlError) and error.hint:
            file.write(error.hint + "\n")
