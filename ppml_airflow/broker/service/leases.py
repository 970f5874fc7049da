"""Grants and leases: the decision that keys hang on, in one transaction, which also writes a denial.

What may be leased is decided by `broker.decisions`; this module fetches the state that it needs and writes the answer.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.attestation.report_data import public_jwk
from ppml_airflow.broker import store
from ppml_airflow.broker.decisions.approvals import require_in_force
from ppml_airflow.broker.decisions.leases import (
    decide_grant,
    draw_up_lease,
    require_fresh,
    require_job,
    require_lease_allowed,
    require_turn,
)
from ppml_airflow.broker.service.attempts import end_open_attempts, end_silent_holder, record_denial, write_attempt
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.cases import Case, committed_receipt, find_job, load_case, require_unused
from ppml_airflow.broker.service.evidence import VerifiedAhead, appraise_case, remember_collateral, verify_ahead
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.broker.service.sessions import challenge_of, load_session, spend
from ppml_airflow.domain.documents import Lease, LeaseKeys
from ppml_airflow.errors import MalformedInputError, PolicyDeniedError, PpmlError, VerificationError
from ppml_airflow.protocol.messages import Attest, LeaseAnswer
from ppml_airflow.provenance.passport import EvidenceRecord
from ppml_airflow.sealing import wrapping
from ppml_airflow.sealing.datasets import dataset_wrap, open_data_key
from ppml_airflow.units import Digest, format_instant

RELEASE_KEK = "release-keys"
"""The key at the KMS under which release keys are wrapped."""


def ask_lease(broker: Broker, *, session_id: str, request: Attest) -> LeaseAnswer:
    """Judge a session's evidence: a Grant for a preflight, a Lease for a job, the receipt for a committed step.

    The nonce is spent whatever the answer is, and a denial is recorded; the same session asked again gets the same
    bytes.

    Raises:
        VerificationError: the evidence is not authentic, not fresh or not of this job.
        PolicyDeniedError: a rule says no.
        MalformedInputError: what was handed in as a quote or a key is none.
        UnavailableError: an output is being written by another run; the nonce stays unspent.
    """
    denied: PpmlError
    ahead = verify_ahead(broker, session_id=session_id, request=request)
    with broker.decision() as ledger:
        session = load_session(ledger, session_id=session_id)
        if session.answer is not None:
            _require_repeated(session, request=request, ledger=ledger)
            return canonical.decode(session.answer, into=LeaseAnswer)
        where: tuple[str, str] | None = None
        try:
            where = find_job(ledger, request.binding.job_digest)
            with ledger.log.savepoint():
                answer = _judge(broker, ledger, session=session, request=request, where=where, ahead=ahead)
            remember_collateral(ledger, ahead=ahead)
            spend(ledger, session_id=session_id, answer=answer)
            return answer
        except (VerificationError, PolicyDeniedError, MalformedInputError) as error:
            remember_collateral(ledger, ahead=ahead)
            spend(ledger, session_id=session_id, answer=None)
            record_denial(ledger, where=where, error=error)
            denied = error
    raise denied


def _judge(
    broker: Broker,
    ledger: Ledger,
    *,
    session: sa.Row[Any],
    request: Attest,
    where: tuple[str, str],
    ahead: VerifiedAhead | None,
) -> LeaseAnswer:
    binding = request.binding
    # 1 fresh: this session's nonce, which opens to B; B's key K signed the request and is the attested key
    require_fresh(challenge_of(session), binding=binding, signature=request.signature, now=ledger.now)
    if session.quote is None or session.tee_pubkey != canonical.encode(public_jwk(binding.signing_key)):
        raise VerificationError("evidence is missing, or attests another key than K", code="other_key")
    # 2 the job that the broker itself computes is the one that B names
    case = load_case(ledger, session=session, request=request, where=where)
    require_job(binding, job=case.job)
    # 3 the approval in force covers it, and it is its turn
    in_force = ledger.approval_in_force(case.approval.pipeline)
    require_in_force(case.approval, digest=case.run.approval, in_force=in_force, now=ledger.now)
    require_turn(case.step, approval=case.approval, run=case.run, state=case.state, now=ledger.now)
    # 4 the quote is authentic, covers nonce and K, and the policy in force accepts it
    record = appraise_case(broker, case, ahead=ahead)
    # 5 preflight: a grant, no key. job: the gate, attempts, runs, outputs; then the lease
    if binding.role == "preflight":
        return _grant(case, record)
    if binding.role != "job":
        raise PolicyDeniedError(f"role {binding.role} is not served here", code="role_unknown")
    committed = committed_receipt(case)
    if committed is not None:
        return LeaseAnswer(granted_until=None, lease=None, sealed_keys=None, receipt=ledger.envelope(committed))
    require_unused(case)
    require_lease_allowed(
        case.step,
        approval=case.approval,
        approval_digest=case.run.approval,
        run=case.run,
        state=case.state,
        now=ledger.now,
    )
    return _lease(broker, case, record)


def _require_repeated(session: sa.Row[Any], *, request: Attest, ledger: Ledger) -> None:
    """The same guest asks again: same binding, signed by K; the answer's bytes were kept."""
    unspent = replace(challenge_of(session), spent=False)
    require_fresh(unspent, binding=request.binding, signature=request.signature, now=ledger.now)


def _grant(case: Case, record: EvidenceRecord) -> LeaseAnswer:
    ledger, connection = case.ledger, case.ledger.connection
    grant = decide_grant(
        approval=case.approval, approval_digest=case.run.approval, run=case.run, state=case.state, now=ledger.now
    )
    place, expires = {"run_id": case.run.run_id, "step": case.step.name}, format_instant(grant.expires)
    values = {"policy": grant.policy, "approval": grant.approval, "epoch": grant.epoch, "expires": expires}
    store.delete(connection, store.granted, **place)
    store.insert(connection, store.granted, **place, **values)
    write_attempt(ledger, record, run_id=case.run.run_id, outcome="granted")
    return LeaseAnswer(granted_until=expires, lease=None, sealed_keys=None, receipt=None)


def _lease(broker: Broker, case: Case, record: EvidenceRecord) -> LeaseAnswer:
    ledger = case.ledger
    lease = draw_up_lease(
        lease_id=secrets.token_hex(16),
        binding=case.request.binding,
        job=case.job,
        step=case.step,
        approval=case.approval,
        run=case.run,
        state=case.state,
        certificates=case.certificates,
        now=ledger.now,
    )
    keys = LeaseKeys(
        data_keys={pinned.dataset: _data_key(broker, case, pinned.manifest) for pinned in lease.inputs},
        release_keys={output.dataset: wrapping.new_key() for output in lease.outputs},
    )
    envelope = broker.signing_key.sign(lease)
    end_open_attempts(ledger, run_id=case.run.run_id, step=case.step.name, outcome="fenced")
    _reserve(broker, case, lease=lease, release_keys=dict(keys.release_keys))
    store.update(ledger.connection, store.run, where={"run_id": case.run.run_id}, counted=True)
    ledger.put(envelope, kind="lease", run_id=case.run.run_id)
    write_attempt(ledger, record, run_id=case.run.run_id, outcome="open", lease=lease, lease_digest=envelope.digest)
    sealed = wrapping.hpke_seal(
        canonical.encode(keys), to=case.request.binding.sealing_key, info=wrapping.lease_info(envelope.digest)
    )
    return LeaseAnswer(granted_until=None, lease=envelope, sealed_keys=sealed, receipt=None)


def _data_key(broker: Broker, case: Case, digest: Digest) -> bytes:
    """Unwrap an input's data key: from its committed manifest only, under that dataset's own key (confused deputy)."""
    _, manifest = case.ledger.committed_manifest(digest)
    serial = dataset_wrap(manifest).serial
    certificate = case.certificates.by_serial.get(serial)
    if certificate is None or certificate.role != "dataset" or certificate.subject != manifest.dataset:
        raise VerificationError(f"data key of {manifest.dataset} is wrapped to another dataset", code="wrong_wrap")
    context = wrapping.dataset_key_context(
        domain_id=broker.domain.domain_id, dataset=manifest.dataset, kek_id=certificate.kek_id
    )
    private = broker.kms.unwrap(broker.wrapped_dataset_key(serial), key_id=certificate.kek_id, context=context)
    return open_data_key(manifest, key=wrapping.SealingKey.from_private_bytes(private), kek_id=certificate.kek_id)


def _reserve(broker: Broker, case: Case, *, lease: Lease, release_keys: dict[str, bytes]) -> None:
    connection = case.ledger.connection
    for output in lease.outputs:
        end_silent_holder(case.ledger, dataset=output.dataset)
        reserved = {"dataset": output.dataset, "version": output.version, "lease_id": lease.lease_id}
        store.insert(connection, store.reservation, **reserved)
        context = wrapping.release_key_context(
            domain_id=broker.domain.domain_id, lease_id=lease.lease_id, dataset=output.dataset
        )
        wrapped = broker.kms.wrap(release_keys[output.dataset], key_id=RELEASE_KEK, context=context)
        kept = {"lease_id": lease.lease_id, "dataset": output.dataset, "wrapped": wrapped}
        store.insert(connection, store.release_key, **kept)
