"""A guest from its first byte to its last: the numbered steps of the trust protocol, messages 4 to 10, in one place.

Nothing of a job runs before an approval by the owners and a lease by a broker whom they certified have been verified
under the domain that is measured with this image. Everything that comes from the host is untrusted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Domain, Receipt, Step
from ppml_airflow.errors import MalformedInputError, PolicyDeniedError
from ppml_airflow.guest.bundle import VerifiedBundle, verify_broker_documents, verify_bundle
from ppml_airflow.guest.code import copy_code, write_statement
from ppml_airflow.guest.identity import Quoter, Within, attest, make_identity
from ppml_airflow.guest.jobs import LeasedJob, PreparedJob, run_leased, verify_inputs, workload_job
from ppml_airflow.guest.leases import open_lease_keys, verify_lease
from ppml_airflow.guest.process import require_clean_environment
from ppml_airflow.guest.speech import Speech
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.protocol.launches import GuestResult
from ppml_airflow.protocol.messages import LaunchRequest, LeaseAnswer, Published
from ppml_airflow.signing import Envelope
from ppml_airflow.units import Name, parse_instant
from ppml_airflow.workloads.job import Workload, WorkloadJob


class WorkloadFactory(Protocol):
    """Makes the workload of that name, in a private directory, with its text going to a log."""

    def __call__(self, name: Name, *, job: WorkloadJob, private: Path, log: Path) -> Workload:
        """Make it; nothing of the job runs yet."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a guest stands on. `domain` and `image` are measured; the rest is its own or the platform's."""

    domain: Domain
    image: Name
    private: Path
    """An empty private directory; counts as inside."""
    quoter: Quoter
    connect: Callable[[str], BrokerClient]
    workload: WorkloadFactory
    now: Callable[[], datetime]
    heartbeat_s: float = 10.0
    """How often a running job asks whether to go on."""
    commit_s: float = 60.0
    """How long a receipt is offered to a broker that does not answer."""
    within: Within | None = None
    """The session in which this guest lives for several jobs; none: for this one."""


def run_guest(request: LaunchRequest, *, around: Surroundings, speech: Speech) -> GuestResult:
    """Verify, attest, and end with a grant (preflight) or a committed receipt (job).

    Raises:
        PpmlError: refused, or failed. Once `speech` is closed only its closed vocabulary may be told.
    """
    speech.tell("verifying")
    # 1 what the owners and their broker signed, under the measured domain; then J
    bundle = verify_bundle(request, domain=around.domain, image=around.image, now=around.now())
    require_clean_environment(bundle.job.environment)
    require_role(request, step=bundle.step)
    # 2 a private copy of the code, compared with the approved digests; of an adhoc step the run's statement
    private = around.private / "job"
    private.mkdir(mode=0o700)
    code = copy_code(request.code, approved=bundle.step.code, into=private / "code")
    write_statement(bundle.job, step=bundle.step, into=code)
    if request.role == "preflight":
        # 3 K, E, B; nonce, quote; a grant and no key
        speech.tell("attesting")
        with around.connect(request.broker) as broker:
            answer = attest(make_identity(bundle.job, role="preflight"), broker=broker, quoter=around.quoter)
        return _granted(answer, speech=speech)
    return _run_job(request, bundle=bundle, code=code, around=around, speech=speech)


def _run_job(
    request: LaunchRequest, *, bundle: VerifiedBundle, code: Path, around: Surroundings, speech: Speech
) -> GuestResult:
    # 3 every part of every input, as the manifests name them
    storage, private, log = Path(request.storage), code.parent, around.private / "job.log"
    inputs = verify_inputs(bundle, storage=storage, scratch=private / "unpadded")
    # 4 the first phase of the workload: judged and analysed, with errors in full
    speech.tell("preparing")
    job = workload_job(bundle, code=code, inputs=inputs, index=request.index)
    workload = around.workload(bundle.step.workload, job=job, private=private, log=log)
    try:
        prepared = PreparedJob(
            bundle=bundle,
            inputs=inputs,
            workload=workload,
            columns=workload.prepare(),
            index=request.index,
            storage=storage,
            log=log,
        )
        with around.connect(request.broker) as broker:
            return _lease_and_run(request, prepared=prepared, broker=broker, around=around, speech=speech)
    finally:
        workload.close()


def _lease_and_run(
    request: LaunchRequest, *, prepared: PreparedJob, broker: BrokerClient, around: Surroundings, speech: Speech
) -> GuestResult:
    bundle = prepared.bundle
    # 5 K, E, B; nonce, quote; the broker's decision
    speech.tell("attesting")
    role: Literal["job", "member"] = "job" if bundle.step.members == 1 else "member"
    set_id = around.within.session_id if around.within else request.set_id
    identity = make_identity(bundle.job, role=role, set_id=set_id, index=request.index)
    answer = attest(identity, broker=broker, quoter=around.quoter, within=around.within)
    if answer.receipt is not None:
        return _already_committed(answer.receipt, bundle=bundle)
    if answer.lease is None or answer.sealed_keys is None:
        raise MalformedInputError("the broker answered a job with neither a lease nor a receipt")
    # 6 the lease, by a broker certified at its time, for this guest; run and pins by such a broker, too
    lease = verify_lease(answer.lease, bundle=bundle, identity=identity)
    verify_broker_documents(request.bundle, certificates=bundle.certificates, now=parse_instant(lease.issued))
    # 7 from here on a secret is in memory: the closed vocabulary
    speech.close()
    keys = open_lease_keys(answer.sealed_keys, envelope=answer.lease, lease=lease, identity=identity)
    speech.tell("leased")
    # 8 run, 9 seal, 10 sign and commit
    return run_leased(
        LeasedJob(prepared=prepared, lease=lease, keys=keys, identity=identity, broker=broker, speech=speech),
        heartbeat_s=around.heartbeat_s,
        commit_s=around.commit_s,
    )


def require_role(request: LaunchRequest, *, step: Step) -> None:
    """A host that starts the wrong thing hears so before anything is attested; the broker refuses it, too.

    Raises:
        PolicyDeniedError: a set's step is started as one job, or the other way round, or a member too many.
    """
    if request.role != "preflight" and (request.role == "member") != (step.members > 1):
        raise PolicyDeniedError(
            f"step {step.name} is done by {step.members} enclaves, and this one is started as a {request.role}",
            code="set_wanted" if step.members > 1 else "no_set",
        )
    if request.index >= step.members:
        raise PolicyDeniedError(f"member {request.index} of a set of {step.members}, from 0", code="other_index")


def _granted(answer: LeaseAnswer, *, speech: Speech) -> GuestResult:
    if answer.granted_until is None:
        raise MalformedInputError("the broker answered a preflight with something else than a grant")
    speech.tell("granted")
    return GuestResult(state="granted", code="", attempt=0, lease_id=None, receipt=None, outputs=())


def _already_committed(envelope: Envelope, *, bundle: VerifiedBundle) -> GuestResult:
    """The step was done by an earlier attempt: its receipt is told again, and nothing runs."""
    receipt = canonical.decode(envelope.payload, into=Receipt)
    if (receipt.run_id, receipt.step) != (bundle.job.run_id, bundle.job.step):
        raise MalformedInputError("the broker answered with the receipt of another step")
    return GuestResult(
        state="committed",
        code="already_committed",
        attempt=receipt.attempt,
        lease_id=receipt.lease_id,
        receipt=envelope.digest,
        outputs=tuple(
            Published(dataset=output.dataset, version=output.version, manifest=output.manifest)
            for output in receipt.outputs
        ),
    )
