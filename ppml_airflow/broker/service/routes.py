"""The broker's routes: one table. What each one asks for, whether it needs a token, which function answers it.

All that is about runs needs a token. Documents and receipts need none: their signature is the authority. Evidence comes
in by Trustee's own routes, which are in `api`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, cast, get_args

from ppml_airflow.broker.service import (
    changes,
    closing,
    enclave_sessions,
    leases,
    logs,
    owners,
    receipts,
    releases,
    revocations,
    runs,
    sets,
    tokens,
)
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.callers import Caller
from ppml_airflow.domain.documents import RevocationKind
from ppml_airflow.errors import MalformedInputError, PolicyDeniedError
from ppml_airflow.protocol.messages import (
    AskSession,
    AskToken,
    Attest,
    Bundle,
    Changes,
    Commit,
    Dependents,
    DomainView,
    LeaseAnswer,
    LeaseStatus,
    OpenedSet,
    OpenRun,
    Published,
    ReleaseAnswer,
    ReleaseRequest,
    RunView,
    StepStatus,
    Token,
)
from ppml_airflow.provenance.log import Consistency
from ppml_airflow.signing import Envelope
from ppml_airflow.units import KIB, MIB, Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request: path parameters, decoded body, session cookie, and the caller where the route needs one."""

    path: Mapping[str, str]
    body: Any
    session_id: str
    caller: Caller | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A row of the table. `handle` returns a document, or bytes that are sent as they are."""

    method: str
    path: str
    summary: str
    handle: Callable[[Broker, Call], object]
    body: type[Any] | None = None
    answer: object = None
    needs_token: bool = False
    max_body_bytes: int = 256 * KIB
    judges_evidence: bool = False
    """Waits for a verified quote."""
    media_type: str = "application/json"


def _scoped(broker: Broker, call: Call) -> str:
    """The run of the path, within the caller's scope."""
    return _run_in_scope(broker, call, run_id=call.path["run_id"])


def _run_in_scope(broker: Broker, call: Call, *, run_id: str) -> str:
    with broker.decision() as ledger:
        pipeline = ledger.run_row(run_id).pipeline
    _require_scope(call, pipeline)
    return run_id


def _caller(call: Call) -> Caller:
    if call.caller is None:
        raise PolicyDeniedError("caller has no valid token", code="token_unknown")
    return call.caller


def _require_scope(call: Call, pipeline: str) -> None:
    _caller(call).require_scope(pipeline)


def _open_run(broker: Broker, call: Call) -> RunView:
    _require_scope(call, call.body.pipeline)
    return runs.open_run(broker, request=call.body)


def _find_run(broker: Broker, call: Call) -> RunView | None:
    pipeline = call.path["pipeline"]
    _require_scope(call, pipeline)
    return runs.find_run(
        broker, pipeline=pipeline, dag_id=call.path["dag_id"], airflow_run_id=call.path["airflow_run_id"]
    )


def _changes(broker: Broker, call: Call) -> Changes:
    return changes.changes(broker, since=_size(call, "since"), caller=_caller(call))


def _dependents(broker: Broker, call: Call) -> Dependents:
    kind = call.path["kind"]
    if kind not in get_args(RevocationKind):
        raise MalformedInputError(f"kind is {kind[:20]!r}, wanted one of {', '.join(get_args(RevocationKind))}")
    subject = cast(RevocationKind, kind), call.path["subject"]
    return revocations.dependents(broker, subject=subject, caller=_caller(call))


def _health(broker: Broker, _call: Call) -> dict[str, str]:
    with broker.decision():
        pass
    return {
        "status": "ok",
        "domain_id": broker.domain.domain_id,
        "trust": broker.domain.trust,
        "version": version("ppml-airflow"),
    }


def _domain(broker: Broker, _call: Call) -> DomainView:
    with broker.decision() as ledger:
        certificates = ledger.certificate_envelopes()
    return DomainView(
        domain_id=broker.domain.domain_id,
        name=broker.domain.name,
        trust=broker.domain.trust,
        roots=broker.domain.roots,
        threshold=broker.domain.threshold,
        certificates=certificates,
    )


def _sealed_for_run(broker: Broker, call: Call) -> Envelope | None:
    return runs.sealed_for_run(broker, run_id=_scoped(broker, call), dataset=call.path["dataset"])


def _release(broker: Broker, call: Call) -> ReleaseAnswer:
    _run_in_scope(broker, call, run_id=call.body.run_id)
    return releases.release(broker, request=call.body)


def _step(handle: Callable[..., object]) -> Callable[[Broker, Call], object]:
    return lambda broker, call: handle(broker, run_id=_scoped(broker, call), step_name=call.path["step"])


def _run(handle: Callable[..., object]) -> Callable[[Broker, Call], object]:
    return lambda broker, call: handle(broker, run_id=_scoped(broker, call))


def _put(handle: Callable[..., Digest]) -> Callable[[Broker, Call], object]:
    return lambda broker, call: {"digest": handle(broker, envelope=call.body)}


def _size(call: Call, name: str) -> int:
    """A number in the path.

    Raises:
        MalformedInputError: not one, or not written the usual way.
    """
    text = call.path[name]
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and str(int(text)) == text):
        raise MalformedInputError(f"{name} is {text[:20]!r}, wanted a whole number")
    return int(text)


PPML = "/ppml/v1"
TEXT = "text/plain; charset=utf-8"
ROUTES: tuple[Route, ...] = (
    Route(
        method="GET", path=f"{PPML}/health", summary="Whether the broker works", handle=_health, answer=dict[str, str]
    ),
    Route(
        method="GET",
        path=f"{PPML}/domain",
        summary="The domain and its certificates",
        handle=_domain,
        answer=DomainView,
    ),
    Route(
        method="POST",
        path=f"{PPML}/certificates",
        summary="Store a certificate that the owners signed",
        handle=_put(owners.put_certificate),
        body=Envelope,
        answer=dict[str, Digest],
    ),
    Route(
        method="POST",
        path=f"{PPML}/policies",
        summary="Put a policy version in force",
        handle=_put(owners.put_policy),
        body=Envelope,
        answer=dict[str, Digest],
    ),
    Route(
        method="GET",
        path=f"{PPML}/policies/{{name}}",
        summary="The policy version in force",
        handle=lambda broker, call: owners.find_policy(broker, name=call.path["name"]),
        answer=Envelope | None,
    ),
    Route(
        method="POST",
        path=f"{PPML}/revocations",
        summary="Revoke what the owners take back, and end what stands on it",
        handle=_put(revocations.put_revocation),
        body=Envelope,
        answer=dict[str, Digest],
    ),
    Route(
        method="GET",
        path=f"{PPML}/dependents/{{kind}}/{{subject}}",
        summary="Runs and outputs that depend on what is, or would be, revoked",
        handle=_dependents,
        answer=Dependents,
        needs_token=True,
    ),
    Route(
        method="POST",
        path=f"{PPML}/approvals",
        summary="Put an approval in force",
        handle=_put(owners.put_approval),
        body=Envelope,
        answer=dict[str, Digest],
        max_body_bytes=4 * MIB,
    ),
    Route(
        method="GET",
        path=f"{PPML}/approvals/{{pipeline}}",
        summary="The approval in force",
        handle=lambda broker, call: owners.find_approval(broker, pipeline=call.path["pipeline"]),
        answer=Envelope | None,
    ),
    Route(
        method="POST",
        path=f"{PPML}/manifests",
        summary="PUBLISH: move a dataset's head",
        handle=lambda broker, call: owners.publish(broker, envelope=call.body),
        body=Envelope,
        answer=Published,
        max_body_bytes=16 * MIB,
    ),
    Route(
        method="GET",
        path=f"{PPML}/manifests/{{digest}}",
        summary="A committed manifest",
        handle=lambda broker, call: owners.find_manifest(broker, digest=call.path["digest"]),
        answer=Envelope,
    ),
    Route(
        method="GET",
        path=f"{PPML}/datasets/{{dataset}}/head",
        summary="The manifest at a dataset's head",
        handle=lambda broker, call: owners.find_head(broker, dataset=call.path["dataset"]),
        answer=Envelope | None,
    ),
    Route(
        method="POST",
        path=f"{PPML}/runs",
        summary="OPEN-RUN",
        handle=_open_run,
        body=OpenRun,
        answer=RunView,
        needs_token=True,
    ),
    Route(
        method="GET",
        path=f"{PPML}/pipelines/{{pipeline}}/dags/{{dag_id}}/runs/{{airflow_run_id}}",
        summary="The run that Airflow calls by these labels",
        handle=_find_run,
        answer=RunView | None,
        needs_token=True,
    ),
    Route(
        method="GET",
        path=f"{PPML}/runs/{{run_id}}",
        summary="A run and its steps",
        handle=_run(runs.view_run),
        answer=RunView,
        needs_token=True,
    ),
    Route(
        method="GET",
        path=f"{PPML}/runs/{{run_id}}/sealed/{{dataset}}",
        summary="The manifest that was published for this run",
        handle=_sealed_for_run,
        answer=Envelope | None,
        needs_token=True,
    ),
    Route(
        method="GET",
        path=f"{PPML}/runs/{{run_id}}/steps/{{step}}",
        summary="The state of a step: no evidence, no key",
        handle=_step(runs.step_status),
        answer=StepStatus,
        needs_token=True,
    ),
    Route(
        method="GET",
        path=f"{PPML}/runs/{{run_id}}/steps/{{step}}/bundle",
        summary="What a guest needs to build the job",
        handle=_step(runs.bundle),
        answer=Bundle,
        needs_token=True,
    ),
    Route(
        method="GET",
        path=f"{PPML}/changes/{{since}}",
        summary="Runs whose steps may stand elsewhere than at that number",
        handle=_changes,
        answer=Changes,
        needs_token=True,
    ),
    Route(
        method="POST",
        path=f"{PPML}/runs/{{run_id}}/steps/{{step}}/cancel",
        summary="CANCEL: fence the open attempt",
        handle=_step(runs.cancel),
        answer=StepStatus,
        needs_token=True,
    ),
    Route(
        method="POST",
        path=f"{PPML}/runs/{{run_id}}/steps/{{step}}/sets",
        summary="Open a set: what its members are started with",
        handle=_step(sets.open_set),
        answer=OpenedSet,
        needs_token=True,
    ),
    Route(
        method="POST",
        path=f"{PPML}/runs/{{run_id}}/close",
        summary="CLOSE: no lease after it",
        handle=_run(closing.close_run),
        answer=Envelope,
        needs_token=True,
    ),
    Route(
        method="GET",
        path=f"{PPML}/runs/{{run_id}}/passport",
        summary="The passport of a closed run, canonical bytes",
        handle=_run(closing.passport),
        needs_token=True,
    ),
    Route(
        method="POST",
        path=f"{PPML}/lease",
        summary="Judge a session's evidence: a grant, a lease or a receipt",
        handle=lambda broker, call: leases.ask_lease(broker, session_id=call.session_id, request=call.body),
        body=Attest,
        answer=LeaseAnswer,
        judges_evidence=True,
    ),
    Route(
        method="POST",
        path=f"{PPML}/enclave-sessions",
        summary="Open or renew the session of a long-lived enclave, by its evidence: no key",
        handle=lambda broker, call: enclave_sessions.ask_session(broker, session_id=call.session_id, request=call.body),
        body=AskSession,
        answer=Envelope,
        judges_evidence=True,
    ),
    Route(
        method="POST",
        path=f"{PPML}/token",
        summary="A token about a session's accepted evidence",
        handle=lambda broker, call: tokens.ask_token(broker, session_id=call.session_id, request=call.body),
        body=AskToken,
        answer=Token,
    ),
    Route(
        method="GET",
        path=f"{PPML}/jwks",
        summary="The keys that sign tokens",
        handle=lambda broker, _call: tokens.published_keys(broker),
        answer=dict[str, Any],
    ),
    Route(
        method="GET",
        path=f"{PPML}/leases/{{lease_id}}",
        summary="Whether a guest may go on",
        handle=lambda broker, call: receipts.check_lease(broker, lease_id=call.path["lease_id"]),
        answer=LeaseStatus,
    ),
    Route(
        method="POST",
        path=f"{PPML}/receipts",
        summary="Commit a receipt and its outputs",
        handle=lambda broker, call: receipts.commit_receipt(broker, request=call.body),
        body=Commit,
        answer=StepStatus,
        max_body_bytes=16 * MIB,
    ),
    Route(
        method="POST",
        path=f"{PPML}/releases",
        summary="RELEASE: the release key of a committed output, to its recipient",
        handle=_release,
        body=ReleaseRequest,
        answer=ReleaseAnswer,
        needs_token=True,
    ),
    Route(
        method="GET",
        path=f"{PPML}/log/checkpoint",
        summary="The log's head, a C2SP checkpoint that the broker signs",
        handle=lambda broker, _call: logs.checkpoint(broker),
        media_type=TEXT,
    ),
    Route(
        method="GET",
        path=f"{PPML}/log/consistency/{{first}}/{{second}}",
        summary="That the log of `second` entries begins with the log of `first`",
        handle=lambda broker, call: logs.prove_consistency(
            broker, first=_size(call, "first"), second=_size(call, "second")
        ),
        answer=Consistency,
    ),
    Route(
        method="GET",
        path=f"{PPML}/log/proofs/{{digest}}",
        summary="That a document stands in the log: a C2SP tlog-proof, whose extra data is the entry",
        handle=lambda broker, call: logs.prove_entry(broker, digest=call.path["digest"]),
        media_type=TEXT,
    ),
)
