"""Runs: open, look at, cancel. What Airflow may ask; none of it yields a key."""

from __future__ import annotations

import secrets

from ppml_airflow.broker import store
from ppml_airflow.broker.decisions.approvals import APPROVE_HINT, require_in_force
from ppml_airflow.broker.decisions.runs import decide_open_run, missing_inputs, require_same_run
from ppml_airflow.broker.service.attempts import end_open_attempts
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.broker.service.pinning import pin_heads
from ppml_airflow.broker.service.status import status_of, view_of
from ppml_airflow.domain.documents import Run
from ppml_airflow.domain.jobs import require_step
from ppml_airflow.errors import PolicyDeniedError
from ppml_airflow.protocol.messages import Bundle, OpenRun, RunView, StepStatus
from ppml_airflow.signing import Envelope


def open_run(broker: Broker, *, request: OpenRun) -> RunView:
    """OPEN-RUN. Same key and params give the same run; its key is (pipeline, dag_id, Airflow's run_id), never the try.

    Raises:
        PolicyDeniedError: no approval in force, slot or params outside it, or the key was used with other params.
    """
    with broker.decision() as ledger:
        existing = _existing(
            ledger,
            pipeline=request.pipeline,
            dag_id=request.claimed.get("dag_id", ""),
            airflow_run_id=request.claimed.get("run_id", ""),
        )
        if existing is not None:
            approval = ledger.approval(existing.approval)
            require_same_run(request.params, slot=request.slot, approval=approval, existing=existing)
            return view_of(broker, ledger, run=existing)
        digest = ledger.approval_in_force(request.pipeline)
        if digest is None:
            raise PolicyDeniedError(
                f"pipeline {request.pipeline} is not approved", code="not_approved", hint=APPROVE_HINT
            )
        approval = ledger.approval(digest)
        require_in_force(approval, digest=digest, in_force=digest, now=ledger.now)
        ledger.require_not_revoked(("approval", digest))
        run = decide_open_run(
            approval=approval,
            approval_digest=digest,
            slot=request.slot,
            params=request.params,
            claimed=request.claimed,
            run_id=secrets.token_hex(16),
            epoch=ledger.epoch,
            now=ledger.now,
        )
        envelope = broker.signing_key.sign(run)
        store.insert(
            ledger.connection,
            store.run,
            run_id=run.run_id,
            digest=envelope.digest,
            pipeline=run.pipeline,
            slot=run.slot,
            dag_id=run.claimed["dag_id"],
            airflow_run_id=run.claimed["run_id"],
            opened=run.opened,
            counted=False,
        )
        ledger.put(envelope, kind="run", run_id=run.run_id)
        pin_heads(broker, ledger, approval=approval, run=run)
        return view_of(broker, ledger, run=run)


def view_run(broker: Broker, *, run_id: str) -> RunView:
    """A run with the status of its steps."""
    with broker.decision() as ledger:
        return view_of(broker, ledger, run=ledger.run(run_id))


def find_run(broker: Broker, *, pipeline: str, dag_id: str, airflow_run_id: str) -> RunView | None:
    """The run that Airflow calls by these labels, if it has been opened."""
    with broker.decision() as ledger:
        run = _existing(ledger, pipeline=pipeline, dag_id=dag_id, airflow_run_id=airflow_run_id)
        return view_of(broker, ledger, run=run) if run else None


def step_status(broker: Broker, *, run_id: str, step_name: str) -> StepStatus:
    """The state of one step."""
    with broker.decision() as ledger:
        run = ledger.run(run_id)
        approval = ledger.approval(run.approval)
        return status_of(broker, ledger, approval=approval, run=run, step=require_step(approval, name=step_name))


def bundle(broker: Broker, *, run_id: str, step_name: str) -> Bundle:
    """What a guest needs to build the job.

    Raises:
        PolicyDeniedError: inputs are missing (`inputs_missing`).
    """
    with broker.decision() as ledger:
        row = ledger.run_row(run_id)
        run = ledger.run(run_id)
        step = require_step(ledger.approval(run.approval), name=step_name)
        pins = ledger.pins(run_id, step_name)
        if pins is None:
            missing = ", ".join(missing_inputs(step, pinned=ledger.pinned(run_id, step_name)))
            raise PolicyDeniedError(f"inputs of {step_name} are missing: {missing}", code="inputs_missing")
        envelope, document = pins
        return Bundle(
            approval=ledger.envelope(run.approval),
            certificates=ledger.certificate_envelopes(),
            run=ledger.envelope(row.digest),
            pins=envelope,
            manifests=tuple(ledger.envelope(pinned.manifest) for pinned in document.inputs),
        )


def sealed_for_run(broker: Broker, *, run_id: str, dataset: str) -> Envelope | None:
    """The manifest that was published for this run, if any."""
    with broker.decision() as ledger:
        row = store.find(ledger.connection, store.manifest, run_id=run_id, dataset=dataset)
        return ledger.envelope(row.digest) if row else None


def cancel(broker: Broker, *, run_id: str, step_name: str) -> StepStatus:
    """CANCEL: fence the attempt that is open; its guest learns of it within 10 s."""
    with broker.decision() as ledger:
        run = ledger.run(run_id)
        approval = ledger.approval(run.approval)
        step = require_step(approval, name=step_name)
        end_open_attempts(ledger, run_id=run_id, step=step_name, outcome="cancelled")
        return status_of(broker, ledger, approval=approval, run=run, step=step)


def _existing(ledger: Ledger, *, pipeline: str, dag_id: str, airflow_run_id: str) -> Run | None:
    key = {"pipeline": pipeline, "dag_id": dag_id, "airflow_run_id": airflow_run_id}
    row = store.find(ledger.connection, store.run, **key)
    return ledger.run(row.run_id) if row else None
