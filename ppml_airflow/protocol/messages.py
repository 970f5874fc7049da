"""The messages between Airflow, hosts, guests, agents and the broker that are not signed documents themselves.

Everything a host hands to a guest (`Bundle`, `LaunchRequest`) is untrusted: the guest verifies it under the domain
that is measured with its image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ppml_airflow.canonical import Document
from ppml_airflow.domain.documents import Binding, Member, ParamValue, RevocationKind
from ppml_airflow.signing import Envelope, PublicKey
from ppml_airflow.units import Digest, HexId, Instant, Name, RelativePath, Trust

KBS_VERSION = "0.4.0"


class Bundle(Document, frozen=True, kw_only=True):
    """What the guest needs to build a job: message 4 of the protocol."""

    approval: Envelope
    certificates: tuple[Envelope, ...]
    run: Envelope
    pins: Envelope
    manifests: tuple[Envelope, ...]


RuntimeName = Literal["process", "docker"]


class LaunchRequest(Document, tag_field="type", tag="launch", frozen=True, kw_only=True):
    """From a runtime to the quoting service, and from there to the guest, to whom all of it is untrusted."""

    image: Name
    runtime: RuntimeName = "process"
    is_watched: bool = False
    """The guest outlives this connection and lives as long as its watch is renewed."""
    role: Literal["preflight", "job", "member", "session"]
    """`session`: the guest lives as long as this connection, and runs every launch that comes over it later."""
    set_id: str = ""
    """Of a member: its set and which member it is."""
    index: Annotated[int, Meta(ge=0)] = 0
    step: Name
    bundle: Bundle
    code: Mapping[RelativePath, bytes]
    broker: str
    """http://, https:// or unix:/path. A container is told the socket that leads there instead."""
    storage: str
    """The folder of sealed datasets. A container is told where it is mounted instead."""


class OpenRun(Document, frozen=True, kw_only=True):
    """OPEN-RUN: `claimed` must hold `dag_id` and `run_id`; together with the pipeline they are the key."""

    pipeline: Name
    slot: Instant | None
    params: Mapping[Name, ParamValue]
    claimed: Mapping[str, str]


class Published(Document, frozen=True, kw_only=True):
    """A head that moved, or had moved already."""

    dataset: Name
    version: int
    manifest: Digest


StepState = Literal["waiting", "denied", "granted", "running", "committed", "failed", "cancelled"]


class StepStatus(Document, frozen=True, kw_only=True):
    """What the broker knows of one step of a run: no evidence, no key."""

    run_id: HexId
    step: Name
    state: StepState
    waiting_for: str
    """Why not further: `inputs: visits`, `grant`, `lease`, `receipt`; empty when settled."""
    code: str
    """The last denial's or failure's code; empty if none."""
    reason: str
    hint: str
    attempt: int
    granted: bool
    """A grant that is current: not expired, policy and approval in force."""
    outputs: tuple[Published, ...]
    disclosed: Mapping[Name, int]
    """The counts that the committed attempt let out, as the approval allows."""
    trust: Trust


class Changes(Document, frozen=True, kw_only=True):
    """The runs whose steps may stand elsewhere than when `number` was what was asked for."""

    number: Annotated[int, Meta(ge=0)]
    """What to ask for next time. A smaller one than was asked for means that the broker has been restored."""
    runs: tuple[HexId, ...]
    everything: bool
    """Any run may: a policy, an approval or a certificate changed, or too many runs for one answer."""


class Attest(Document, frozen=True, kw_only=True):
    """What a guest asks a lease with; `signature` by K over `domain.jobs.signed_request`."""

    binding: Binding
    signature: bytes
    session_signature: bytes | None
    """Of a job within an enclave's session, which its `set_id` names: by that session's K over
    `domain.jobs.signed_within_session`."""


class AskSession(Document, frozen=True, kw_only=True):
    """What a long-lived enclave opens or renews its session with; `signature` as in `Attest`."""

    binding: Binding
    signature: bytes
    pipeline: Name
    step: Name


class LeaseAnswer(Document, frozen=True, kw_only=True):
    """One of three: a grant's expiry (preflight), a lease with its keys, or the receipt of a committed step."""

    granted_until: Instant | None
    lease: Envelope | None
    sealed_keys: bytes | None
    """HPKE to E of `LeaseKeys`, info = lease_info(H(Lease))."""
    receipt: Envelope | None


class Commit(Document, frozen=True, kw_only=True):
    """A receipt and the manifests of the outputs it names, all signed by K."""

    receipt: Envelope
    manifests: tuple[Envelope, ...]


class ReleaseRequest(Document, frozen=True, kw_only=True):
    """A recipient asks for the release key of an output."""

    run_id: HexId
    dataset: Name
    recipient: HexId
    """Serial of the recipient's certificate."""


class ReleaseAnswer(Document, frozen=True, kw_only=True):
    """The release key, HPKE to the recipient's key with `release_info`, and the committed manifest with its proof.

    HPKE authenticates no sender and the connection is not trusted, so the recipient follows signatures: a certified
    broker signed the lease, the lease names H(B), B holds K, K signed the manifest. Without them anybody between
    broker and recipient could hand over a result of his own.
    """

    sealed_release_key: bytes
    manifest: Envelope
    lease: Envelope
    """The lease under which the manifest was made."""
    binding: Binding
    """The B whose digest the lease names."""


class RunView(Document, frozen=True, kw_only=True):
    """A run as people and operators see it."""

    run: Envelope
    run_id: HexId
    pipeline: Name
    slot: Instant
    state: Literal["open", "closed", "cancelled", "lapsed"]
    trust: Trust
    steps: tuple[StepStatus, ...]


class OpenedSet(Document, frozen=True, kw_only=True):
    """A new set: what the host starts `members` guests with. Grants nothing: each member attests."""

    set_id: HexId
    members: int


def members_of(request: LaunchRequest, *, opened: OpenedSet) -> list[LaunchRequest]:
    """The request of each member of a set, which differ in nothing but the index."""
    return [
        msgspec.structs.replace(request, role="member", set_id=opened.set_id, index=index)
        for index in range(opened.members)
    ]


class LeaseStatus(Document, frozen=True, kw_only=True):
    """What a guest asks every 10 s: anything but `current` means stop."""

    state: Literal["current", "fenced", "cancelled", "expired", "closed", "revoked"]
    members: tuple[Member, ...]
    """The leases of its set's attempt so far, which the receipt must list; empty without a set."""


class DomainView(Document, frozen=True, kw_only=True):
    """The broker's word about its domain: for looking up, never for trusting."""

    domain_id: Digest
    name: Name
    trust: Trust
    roots: tuple[PublicKey, ...]
    threshold: int
    certificates: tuple[Envelope, ...]


class AskToken(Document, frozen=True, kw_only=True):
    """For whom a token about accepted evidence is."""

    audience: Annotated[str, Meta(min_length=1, max_length=200)]


class Token(Document, frozen=True, kw_only=True):
    """A signed attestation result: a compact JWT."""

    token: str


class DependentOutput(Document, frozen=True, kw_only=True):
    """A version of a dataset that an enclave made."""

    dataset: Name
    version: int
    manifest: Digest
    recipients: tuple[Name, ...]
    released: bool
    """Whether its key has been released to any of them."""


class Dependent(Document, frozen=True, kw_only=True):
    """An attempt that stands on what is, or would be, revoked."""

    run_id: HexId
    pipeline: Name
    slot: Instant
    step: Name
    attempt: int
    outcome: str
    through: str
    """The input by which it does; empty where it stands on the subject itself."""
    outputs: tuple[DependentOutput, ...]


class Dependents(Document, frozen=True, kw_only=True):
    """All that depends on a subject, oldest first."""

    kind: RevocationKind
    subject: str
    revoked: bool
    attempts: tuple[Dependent, ...]
    sealed: tuple[Published, ...]
    """Versions that its key sealed, or that are sealed to it."""


class AgentTask(Document, frozen=True, kw_only=True):
    """What an operator may ask of an agent: one verb, one name, one run."""

    verb: Literal["seal", "deliver"]
    name: Name
    run_id: HexId


class AgentTaskView(Document, frozen=True, kw_only=True):
    """How far the agent is. `code` and `reason` hold no value of the data."""

    task_id: Digest
    state: Literal["running", "done", "failed"]
    percent: int
    kind: str
    """Name of the error class when failed, else empty."""
    code: str
    reason: str
    hint: str
    published: Published | None
    """The dataset version that was sealed or delivered."""
    location: str
    """deliver: the sink, as the agent's own file names it; else empty."""


class Problem(Document, frozen=True, kw_only=True):
    """An error on the wire (also the body of /kbs errors, where `type` is Trustee's)."""

    type: str
    kind: str
    code: str
    detail: str
    hint: str
