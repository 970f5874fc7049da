"""The documents of the trust protocol: domain, certificates, approvals, runs, jobs, leases, receipts.

Values only. Who signs each: `docs/reference/documents.md`. How each is checked: `domain.trust` for what owners sign,
`domain.jobs` for what guest, broker and verifier compute alike. Manifests are in `sealing.manifest`, policies in
`attestation.policy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from ppml_airflow.canonical import Document, digest
from ppml_airflow.signing import PublicKey, SignedDocument
from ppml_airflow.units import Digest, HexId, Instant, Name, RelativePath, Trust

ParamValue = int | str | bool
Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]
MAX_TEXT_CHARACTERS = 10_000

# ---------------------------------------------------------------- what owners sign


class Domain(Document, frozen=True, kw_only=True):
    """The owners' root keys. Its digest is part of every image's measurement."""

    name: Name
    roots: tuple[PublicKey, ...]
    threshold: Positive
    trust: Trust

    def __post_init__(self) -> None:
        if len({root.key_id for root in self.roots}) != len(self.roots):
            raise ValueError("domain has a root key twice")
        if self.threshold > len(self.roots):
            raise ValueError(f"domain has {len(self.roots)} roots and a threshold of {self.threshold}")
        if any(root.scheme == "xwing" for root in self.roots):
            raise ValueError("domain has a root key that cannot sign")

    @property
    def domain_id(self) -> Digest:
        """The digest by which everything else names this domain."""
        return digest(self)


Role = Literal["broker", "producer", "recipient", "dataset", "log"]


class Certificate(SignedDocument, frozen=True, kw_only=True):
    """The owners' word that a key has a role. Agents and guests seal only to certified keys."""

    payload_type: ClassVar[str] = "application/vnd.ppml.certificate.v1+json"
    domain_id: Digest
    role: Role
    subject: Name
    """Who holds the key: `broker`, `owner`, `analyst`; for role `dataset` the dataset's name."""
    key: PublicKey
    """Ed25519 for broker and producer; X-Wing for recipient, dataset and log."""
    datasets: tuple[Name, ...]
    """What the key may be used for; empty for broker. For log: whose adhoc questions leave logs that it may open."""
    kek_id: str
    """Role `dataset`: the id under which the KMS wraps the private half; else empty."""
    not_after: Instant
    serial: HexId


RevocationKind = Literal["measurement", "platform", "approval", "certificate", "key"]
_REVOCABLE: Mapping[RevocationKind, Any] = {
    "measurement": Annotated[str, Meta(pattern=r"^([0-9a-f]{64}|[0-9a-f]{96}(:[0-9a-f]{96}){4})$(?!\n)")],
    "platform": HexId,
    "approval": Digest,
    "certificate": HexId,
    "key": Digest,
}
"""The type of each kind's subject."""


class Revocation(SignedDocument, frozen=True, kw_only=True):
    """The owners' word that something is not to be relied on any more. Nothing takes it back."""

    payload_type: ClassVar[str] = "application/vnd.ppml.revocation.v1+json"
    domain_id: Digest
    kind: RevocationKind
    subject: Annotated[str, Meta(max_length=600)]
    """Measurement: SGX 64 hex, TDX five times 96 hex, joined by colons. Platform: its PPID, 32 hex. Approval: digest.
    Certificate: serial. Key: key id."""
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
    time: Instant

    def __post_init__(self) -> None:
        try:
            msgspec.convert(self.subject, type=_REVOCABLE[self.kind])
        except msgspec.ValidationError as error:
            raise ValueError(f"subject is no {self.kind}: {error}") from error


class IntegerParam(Document, tag_field="type", tag="integer", frozen=True, kw_only=True):
    """A whole number within closed bounds."""

    minimum: int
    maximum: int
    default: int


class DecimalParam(Document, tag_field="type", tag="decimal", frozen=True, kw_only=True):
    """A decimal number within closed bounds, written as a string such as `0.25`."""

    minimum: str
    maximum: str
    default: str


class DateParam(Document, tag_field="type", tag="date", frozen=True, kw_only=True):
    """A calendar date `YYYY-MM-DD` within closed bounds."""

    minimum: str
    maximum: str
    default: str


class EnumParam(Document, tag_field="type", tag="enum", frozen=True, kw_only=True):
    """One of the listed strings."""

    choices: tuple[str, ...]
    default: str


class BooleanParam(Document, tag_field="type", tag="boolean", frozen=True, kw_only=True):
    """True or false."""

    default: bool


class TextParam(Document, tag_field="type", tag="text", frozen=True, kw_only=True):
    """Free text: the statement of an adhoc step, and nothing else (`domain.adhoc`)."""

    maximum_characters: Annotated[int, Meta(ge=1, le=MAX_TEXT_CHARACTERS)]
    default: str


Param = IntegerParam | DecimalParam | DateParam | EnumParam | BooleanParam | TextParam


class Input(Document, frozen=True, kw_only=True):
    """A dataset that a step reads. `head`: the newest version; `this-run`: the version sealed for this very run."""

    dataset: Name
    version: Literal["head", "this-run"]


class Output(Document, frozen=True, kw_only=True):
    """A dataset that a step writes, and the holders of recipient certificates who may open it."""

    dataset: Name
    body: Literal["table", "files", "stream"]
    recipients: tuple[Name, ...]
    files: Positive
    """How many parts a table, files a folder, segments a stream has: fixed before the lease, so that it says nothing of
    the data."""

    @property
    def sealed(self) -> tuple[str, int]:
        """Body and number of parts of its manifest: files have one part more, with their names."""
        match self.body:
            case "table":
                return "padded-parquet", self.files
            case "stream":
                return "padded-frames", self.files
            case "files":
                return "padded-files", self.files + 1


class Disclosure(Document, frozen=True, kw_only=True):
    """A count that may leave the enclave after the lease, within bounds."""

    name: Name
    minimum: int
    maximum: int


class Limits(Document, frozen=True, kw_only=True):
    """What a job may use at most."""

    wall_s: Positive
    memory_mib: Positive
    cores: Positive


class Step(Document, frozen=True, kw_only=True):
    """One attested job of an approved pipeline."""

    name: Name
    kind: Literal["fixed", "adhoc"]
    """`fixed`: its code is approved. `adhoc`: the run brings its statement, and `domain.adhoc` says what then holds."""
    image: Name
    workload: Name
    """Which entry of the workload registry runs it, such as `spark-sql`."""
    code: Mapping[RelativePath, Digest]
    argv: tuple[str, ...]
    """Template: an element `{name}` is replaced whole by the value of the param."""
    params: Mapping[Name, Param]
    environment: Mapping[str, str]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    log_recipients: tuple[Name, ...]
    disclosed: tuple[Disclosure, ...]
    gates: tuple[Literal["before", "after"], ...]
    policy: Name
    members: Positive
    """How many enclaves do the job together: a set, whose leases are issued all at once or not at all; 1 = no set."""
    replacements: NonNegative
    """How many members of one attempt may be replaced by new ones; none of them the first, who leads the set."""
    attempts: Positive
    limits: Limits

    def __post_init__(self) -> None:
        if self.members == 1 and self.replacements:
            raise ValueError(f"step {self.name} is no set and has {self.replacements} replacements")


class Slots(Document, frozen=True, kw_only=True):
    """When a pipeline may run. A slot is a period, called by the instant of its start in `zone`."""

    period: Literal["hour", "day", "week", "month"]
    zone: str
    window_hours: Positive
    """How long after its period's end a slot's run may still go on."""
    backfill: NonNegative
    """How many periods before the current one may be opened."""


class Approval(SignedDocument, frozen=True, kw_only=True, dict=True):
    """The owners' signature on a compiled pipeline."""

    payload_type: ClassVar[str] = "application/vnd.ppml.approval.v1+json"
    domain_id: Digest
    pipeline: Name
    replaces: Digest | None
    """The approval that this one puts out of force; null for the first."""
    steps: tuple[Step, ...]
    edges: tuple[tuple[Name, Name], ...]
    """(earlier step, later step): the earlier one must be committed before the later one gets a lease."""
    slots: Slots
    runs_per_slot: Positive
    valid_from: Instant
    valid_until: Instant

    def step(self, name: str) -> Step | None:
        """The step of that name, or None."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> Mapping[str, Step]:
        """Of two steps of one name the first, though a broker takes no such approval."""
        return {step.name: step for step in reversed(self.steps)}


# ---------------------------------------------------------------- what the broker signs


class Run(SignedDocument, frozen=True, kw_only=True):
    """The broker's record of one execution of an approved pipeline for one slot."""

    payload_type: ClassVar[str] = "application/vnd.ppml.run.v1+json"
    run_id: HexId
    domain_id: Digest
    approval: Digest
    pipeline: Name
    slot: Instant
    params: Mapping[Name, ParamValue]
    epoch: NonNegative
    opened: Instant
    claimed: Mapping[str, str]
    """Airflow's dag_id, run_id, try number, logical date: labels, shown and never trusted."""


class DatasetVersion(Document, frozen=True, kw_only=True):
    """One version of a dataset, named by the digest of its manifest."""

    dataset: Name
    version: Positive
    manifest: Digest


class Pins(SignedDocument, frozen=True, kw_only=True):
    """The inputs of one step of one run, complete and final."""

    payload_type: ClassVar[str] = "application/vnd.ppml.pins.v1+json"
    run_id: HexId
    step: Name
    inputs: tuple[DatasetVersion, ...]


class LeaseOutput(Document, frozen=True, kw_only=True):
    """A reserved version of an output, and to whom the guest seals it (serials of certificates)."""

    dataset: Name
    version: Positive
    prev: Digest | None
    dataset_certificate: HexId | None
    """Null for an adhoc step: no later step reads its answer."""
    recipient_certificates: tuple[HexId, ...]


class Lease(SignedDocument, frozen=True, kw_only=True):
    """The broker's permission, for one attested binding, to run one attempt of one job. Keys travel beside it."""

    payload_type: ClassVar[str] = "application/vnd.ppml.lease.v1+json"
    lease_id: HexId
    binding: Digest
    job: Digest
    run_id: HexId
    step: Name
    attempt: Positive
    epoch: NonNegative
    issued: Instant
    expires: Instant
    inputs: tuple[DatasetVersion, ...]
    outputs: tuple[LeaseOutput, ...]
    log_certificates: tuple[HexId, ...]


class LeaseKeys(Document, frozen=True, kw_only=True):
    """What travels inside HPKE(E): opened by the guest only. Never logged, never stored."""

    data_keys: Mapping[Name, bytes]
    """Data key (32 bytes) of each input dataset."""
    release_keys: Mapping[Name, bytes]
    """Release key (32 bytes) of each output dataset."""
    cluster_secret: bytes | None
    """32 bytes that the members of a set share, and nobody else; null without a set."""

    def __repr__(self) -> str:
        return "lease keys"


class EnclaveSession(SignedDocument, frozen=True, kw_only=True):
    """The broker's record that a long-lived enclave has attested; no key comes with it. Renewed by a later one."""

    payload_type: ClassVar[str] = "application/vnd.ppml.enclave-session.v1+json"
    session_id: HexId
    binding: Digest
    scope: Digest
    epoch: NonNegative
    issued: Instant
    expires: Instant
    """Unless it is renewed before; the enclave ends itself then, and jobs under it are refused."""


class AttemptRecord(Document, frozen=True, kw_only=True):
    """One attempt of one step as RunClosed lists it. Digests of what a passport encloses; null where there is none."""

    step: Name
    role: Literal["preflight", "job", "member"]
    attempt: NonNegative
    """0 for a preflight, from 1 for jobs; the members of a set have one together."""
    index: NonNegative
    """Which member of a set; 0 without one."""
    time: Instant
    evidence: Digest
    lease: Digest | None
    receipt: Digest | None
    outcome: str
    """`granted`, `committed`, `fenced`, `expired`, `open`, or the receipt's failure code. Of members that sign none:
    `ended` with their set's receipt, or `replaced`."""


class Denial(Document, frozen=True, kw_only=True):
    """A request that the broker refused."""

    step: Name
    time: Instant
    code: str


class Release(Document, frozen=True, kw_only=True):
    """A release key handed to a recipient."""

    dataset: Name
    recipient: HexId
    time: Instant


class RunClosed(SignedDocument, frozen=True, kw_only=True):
    """The end of a run: every attempt, denial and release, and where the log then stood."""

    payload_type: ClassVar[str] = "application/vnd.ppml.run-closed.v1+json"
    run: Digest
    run_id: HexId
    closed: Instant
    attempts: tuple[AttemptRecord, ...]
    denials: tuple[Denial, ...]
    releases: tuple[Release, ...]
    log_size: NonNegative
    log_root: Digest
    contents: Digest
    """Digest of all else that the run's passport encloses (`provenance.passport.PassportContents`)."""


class Recovery(SignedDocument, frozen=True, kw_only=True):
    """The broker went on from a store that was behind its anchor; what earlier epochs left open is void."""

    payload_type: ClassVar[str] = "application/vnd.ppml.recovery.v1+json"
    domain_id: Digest
    epoch: NonNegative
    """The new one, at least 1."""
    time: Instant
    anchored_size: NonNegative | None
    """Where the log had been; null if there was no anchor."""
    anchored_root: Digest | None
    found_size: NonNegative
    """Where the store's log was found; the entry of this Recovery follows."""
    found_root: Digest


# ---------------------------------------------------------------- what guest, broker and verifier compute


class JobOutput(Document, frozen=True, kw_only=True):
    """An output as the job names it."""

    dataset: Name
    recipients: tuple[Name, ...]


class Job(Document, frozen=True, kw_only=True):
    """One step of a run, spelled out. Computed by guest, broker and verifier; never sent."""

    domain_id: Digest
    approval: Digest
    run_id: HexId
    step: Name
    image: Name
    workload: Name
    code: Mapping[RelativePath, Digest]
    argv: tuple[str, ...]
    params: Mapping[Name, ParamValue]
    environment: Mapping[str, str]
    inputs: tuple[DatasetVersion, ...]
    outputs: tuple[JobOutput, ...]
    policy: Name


class SessionScope(Document, frozen=True, kw_only=True):
    """What a long-lived enclave attests that it is there for, as a job's digest stands for a job. Never sent."""

    domain_id: Digest
    approval: Digest
    step: Name
    image: Name
    policy: Name


BindingRole = Literal["preflight", "job", "member", "session"]


class Binding(Document, frozen=True, kw_only=True):
    """`B`: what a nonce commits to, and so what a quote covers."""

    v: Literal[1]
    role: BindingRole
    domain_id: Digest
    job_digest: Digest
    signing_key: PublicKey
    """K, P-256: signs manifests and the receipt."""
    sealing_key: PublicKey
    """E, X-Wing: opens the lease's keys."""
    set_id: str
    """Of a member its set, of a job within an enclave's session that session, as the broker called it; else empty."""
    index: NonNegative
    """Which member, from 0: the leader, who alone has outputs and signs the receipt; 0 for other roles."""


# ---------------------------------------------------------------- what the enclave signs


class Member(Document, frozen=True, kw_only=True):
    """One lease of a set's attempt, as its receipt lists it."""

    index: NonNegative
    binding: Digest
    lease_id: HexId
    is_replacement: bool


class Receipt(SignedDocument, frozen=True, kw_only=True):
    """What the enclave did, signed by K."""

    payload_type: ClassVar[str] = "application/vnd.ppml.receipt.v1+json"
    lease_id: HexId
    attempt: Positive
    binding: Digest
    job: Digest
    run_id: HexId
    step: Name
    inputs: tuple[DatasetVersion, ...]
    outputs: tuple[DatasetVersion, ...]
    members: tuple[Member, ...]
    """Every lease of the attempt, replaced ones too, in the order in which they were issued; empty without a set."""
    outcome: Name
    """`ok`, or a code of the closed vocabulary (`workloads.vocabulary`, and `guest_failed`)."""
    disclosed: Mapping[Name, int]
    log: Digest | None
    """Digest of the sealed log."""
