"""Pins: which version of each input a step of a run reads. Once complete they are signed, and final."""

from __future__ import annotations

import msgspec

from ppml_airflow import canonical
from ppml_airflow.broker import store
from ppml_airflow.broker.decisions.runs import complete_pins, input_to_pin
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.domain.documents import Approval, DatasetVersion, Run, Step
from ppml_airflow.domain.jobs import build_job
from ppml_airflow.errors import PolicyDeniedError
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.units import Digest


def pin_heads(broker: Broker, ledger: Ledger, *, approval: Approval, run: Run) -> None:
    """At OPEN-RUN: pin every input with rule `head`.

    Raises:
        PolicyDeniedError: such a dataset has no version yet, or the newest depends on something that is revoked.
    """
    for step in approval.steps:
        for wanted in step.inputs:
            if wanted.version != "head":
                continue
            head = ledger.head(wanted.dataset)
            if head is None:
                raise PolicyDeniedError(
                    f"input {wanted.dataset} of {step.name} has no version yet",
                    code="input_missing",
                    hint="its owner seals a first version, then start the run again",
                )
            ledger.require_sound_manifest(head.manifest, dataset=head.dataset)
            _pin(ledger, run_id=run.run_id, step=step, version=head)
        _complete(broker, ledger, approval=approval, run=run, step=step)


def pin_committed(broker: Broker, ledger: Ledger, *, manifest: Manifest, digest: Digest, run_id: str) -> None:
    """When a manifest made for a run is committed: pin it wherever a step of that run waits for it."""
    run = ledger.run(run_id)
    approval = ledger.approval(run.approval)
    version = DatasetVersion(dataset=manifest.dataset, version=manifest.version, manifest=digest)
    for step in approval.steps:
        if input_to_pin(step, manifest=manifest, run_id=run.run_id):
            _pin(ledger, run_id=run.run_id, step=step, version=version)
            _complete(broker, ledger, approval=approval, run=run, step=step)


def _pin(ledger: Ledger, *, run_id: str, step: Step, version: DatasetVersion) -> None:
    if version.dataset in ledger.pinned(run_id, step.name):
        return
    values = msgspec.structs.asdict(version)
    store.insert(ledger.connection, store.pinned, run_id=run_id, step=step.name, **values)


def _complete(broker: Broker, ledger: Ledger, *, approval: Approval, run: Run, step: Step) -> None:
    if ledger.pins(run.run_id, step.name) is not None:
        return
    pins = complete_pins(step, run_id=run.run_id, pinned=ledger.pinned(run.run_id, step.name))
    if pins is None:
        return
    envelope = broker.signing_key.sign(pins)
    ledger.put(envelope, kind="pins", run_id=run.run_id)
    job = build_job(approval=approval, approval_digest=run.approval, run=run, pins=pins, step_name=step.name)
    row = {"run_id": run.run_id, "step": step.name, "digest": envelope.digest, "job_digest": canonical.digest(job)}
    store.insert(ledger.connection, store.pins, **row)
