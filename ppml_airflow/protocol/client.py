"""The client of the broker, over http, https or a Unix socket (`unix:/path/to/socket`).

Bodies are canonical JSON; what comes back is decoded just as strictly. Errors of the broker are raised here again as
the class that they were there. A broker that does not answer is an UnavailableError, the only one worth another try.
"""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from ppml_airflow import canonical
from ppml_airflow.domain.documents import RevocationKind, Run
from ppml_airflow.errors import (
    BY_KIND,
    ConfigurationError,
    MalformedInputError,
    PpmlError,
    UnavailableError,
    VerificationError,
)
from ppml_airflow.protocol.messages import (
    AskSession,
    AskToken,
    Attest,
    Bundle,
    Commit,
    Dependents,
    DomainView,
    LeaseAnswer,
    LeaseStatus,
    OpenedSet,
    OpenRun,
    Problem,
    Published,
    ReleaseAnswer,
    ReleaseRequest,
    RunView,
    StepStatus,
    Token,
)
from ppml_airflow.provenance.log import Consistency
from ppml_airflow.signing import Envelope
from ppml_airflow.units import Digest

T = TypeVar("T")
_ADDRESS_HINT = "write http://HOST:PORT, https://HOST:PORT or unix:/PATH"
CA_FILE = "PPML_CA_FILE"
_JSON = {"Content-Type": "application/json"}


def endpoint(url: str) -> tuple[httpx.HTTPTransport | None, str]:
    """Split a broker or agent URL into a transport and a base URL.

    Raises:
        ConfigurationError: neither http://, https:// nor unix:/path, or not a URL.
    """
    if url.startswith("unix:/"):
        return httpx.HTTPTransport(uds=url.removeprefix("unix:"), verify=tls_context(url)), "http://local"
    if url.startswith(("http://", "https://")):
        return None, _checked(url.rstrip("/"))
    raise ConfigurationError(f"address {url!r} has an unknown scheme", hint=_ADDRESS_HINT)


def tls_context(url: str) -> ssl.SSLContext:
    """Who may vouch for a server: the CAs in the file that PPML_CA_FILE names, else those that come with httpx.

    Raises:
        ConfigurationError: the file holds no certificates.
    """
    if not url.startswith("https://"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    path = os.environ.get(CA_FILE)
    if path is None:
        return httpx.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{CA_FILE}={path} holds no CA certificates: {error}") from error


def _checked(url: str) -> str:
    try:
        host = httpx.URL(url).host
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"address {url!r} is not a URL: {error}", hint=_ADDRESS_HINT) from error
    if not host:
        raise ConfigurationError(f"address {url!r} names no host", hint=_ADDRESS_HINT)
    return url


def unanswered(url: str, error: httpx.RequestError) -> PpmlError:
    """What it means that a request to a service had no answer that can be read."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return VerificationError(
            f"{url} shows a certificate that nobody vouches for",
            code="untrusted_server",
            hint=f"set {CA_FILE} to the file of the CA that issued it",
        )
    if isinstance(error, httpx.DecodingError):
        return MalformedInputError(f"{url} answered in a broken encoding")
    return UnavailableError(f"{url} does not answer: {type(error).__name__}", hint="is the service running?")


def raise_problem(status: int, body: bytes) -> None:
    """Raise the error that a broker or agent answered with.

    Raises:
        PpmlError: always, of the class named in the body.
    """
    try:
        problem = canonical.decode(body, into=Problem)
    except MalformedInputError:
        if status >= 500:
            raise UnavailableError(f"the service answered {status} without saying why") from None
        raise ConfigurationError(f"the service answered {status} without saying why", code=f"http_{status}") from None
    kind = BY_KIND.get(problem.kind, PpmlError)
    raise kind(problem.detail, code=problem.code, hint=problem.hint)


def patiently(ask: Callable[[], T], *, seconds: float) -> T:
    """Ask again while the other side does not answer, for so many seconds; 0 asks once."""
    return Retrying(
        retry=retry_if_exception_type(UnavailableError),
        stop=stop_after_delay(seconds),
        wait=wait_exponential(multiplier=0.25, max=10),
        reraise=True,
    )(ask)


class JsonClient:
    """Canonical JSON over HTTP, to a broker or an agent."""

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = 30.0) -> None:
        transport, base_url = endpoint(url)
        self.url = url
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(
            base_url=base_url,
            transport=transport,
            headers=headers,
            timeout=timeout_s,
            trust_env=False,
            verify=tls_context(base_url),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def call(self, method: str, path: str, *, body: object = None, into: type[T]) -> T:
        """Send one request and decode the answer.

        Raises:
            UnavailableError: no answer.
            PpmlError: what the service answered with.
        """
        return canonical.decode(self.call_raw(method, path, body=body), into=into)

    def call_raw(self, method: str, path: str, *, body: object = None) -> bytes:
        """Send one request and return the bytes of the answer."""
        content = None if body is None else canonical.encode(body)
        try:
            response = self._http.request(method, path, content=content, headers=_JSON if content else {})
        except httpx.RequestError as error:
            raise unanswered(self.url, error) from error
        if response.is_error:
            raise_problem(response.status_code, response.content)
        return response.content


class BrokerClient(JsonClient):
    """The broker's API, a method per message of the protocol. `token` names the caller (Airflow) and its pipelines."""

    def health(self) -> dict[str, Any]:
        """GET /ppml/v1/health: `{"status": "ok", "domain_id", "trust", "version"}`."""
        return self.call("GET", "/ppml/v1/health", into=dict[str, Any])

    def domain(self) -> DomainView:
        """The domain and its certificates, as the broker tells them."""
        return self.call("GET", "/ppml/v1/domain", into=DomainView)

    # owners
    def put_certificate(self, envelope: Envelope) -> Digest:
        """Store a certificate (idempotent)."""
        return self._put("/ppml/v1/certificates", envelope)

    def put_policy(self, envelope: Envelope) -> Digest:
        """Put a policy version in force; versions only rise."""
        return self._put("/ppml/v1/policies", envelope)

    def put_approval(self, envelope: Envelope) -> Digest:
        """Put an approval in force for its pipeline; `replaces` must name the one in force."""
        return self._put("/ppml/v1/approvals", envelope)

    def put_revocation(self, envelope: Envelope) -> Digest:
        """Revoke what the owners take back (idempotent)."""
        return self._put("/ppml/v1/revocations", envelope)

    def dependents(self, kind: RevocationKind, subject: str) -> Dependents:
        """What depends on something that is, or would be, revoked."""
        return self.call("GET", f"/ppml/v1/dependents/{kind}/{quote(subject)}", into=Dependents)

    def approval(self, pipeline: str) -> Envelope | None:
        """The approval in force of a pipeline, if any."""
        return self._find(f"/ppml/v1/approvals/{quote(pipeline)}", into=Envelope)

    def policy(self, name: str) -> Envelope | None:
        """The policy version in force, if any."""
        return self._find(f"/ppml/v1/policies/{quote(name)}", into=Envelope)

    # agents
    def publish(self, manifest: Envelope) -> Published:
        """PUBLISH: move a dataset's head (idempotent)."""
        return self.call("POST", "/ppml/v1/manifests", body=manifest, into=Published)

    def head(self, dataset: str) -> Envelope | None:
        """The committed manifest at a dataset's head, if any."""
        return self._find(f"/ppml/v1/datasets/{quote(dataset)}/head", into=Envelope)

    def manifest(self, manifest: Digest) -> Envelope:
        """A committed manifest by its digest."""
        return self.call("GET", f"/ppml/v1/manifests/{manifest}", into=Envelope)

    def sealed_for_run(self, run_id: str, dataset: str) -> Envelope | None:
        """The manifest that was published for this run, if any: an agent asked again answers with it."""
        return self._find(f"/ppml/v1/runs/{run_id}/sealed/{quote(dataset)}", into=Envelope)

    def release(self, request: ReleaseRequest) -> ReleaseAnswer:
        """RELEASE: the release key of a committed output, for its recipient only."""
        return self.call("POST", "/ppml/v1/releases", body=request, into=ReleaseAnswer)

    # Airflow
    def open_run(self, request: OpenRun) -> RunView:
        """OPEN-RUN: same key and params, same run."""
        return self.call("POST", "/ppml/v1/runs", body=request, into=RunView)

    def run(self, run_id: str) -> RunView:
        """A run with the status of its steps."""
        return self.call("GET", f"/ppml/v1/runs/{run_id}", into=RunView)

    def find_run(self, *, pipeline: str, dag_id: str, airflow_run_id: str) -> RunView | None:
        """The run that Airflow calls by these labels, if it has been opened."""
        path = "/".join(
            quote(part, safe="") for part in ("pipelines", pipeline, "dags", dag_id, "runs", airflow_run_id)
        )
        return self._find(f"/ppml/v1/{path}", into=RunView)

    def run_document(self, run_id: str) -> tuple[Envelope, Run]:
        """The signed Run and its (unverified) content."""
        envelope = self.run(run_id).run
        return envelope, canonical.decode(envelope.payload, into=Run)

    def status(self, run_id: str, step: str) -> StepStatus:
        """The state of one step."""
        return self.call("GET", f"/ppml/v1/runs/{run_id}/steps/{quote(step)}", into=StepStatus)

    def bundle(self, run_id: str, step: str) -> Bundle:
        """What a guest needs to build the job. Refused while inputs are missing (`inputs_missing`)."""
        return self.call("GET", f"/ppml/v1/runs/{run_id}/steps/{quote(step)}/bundle", into=Bundle)

    def cancel(self, run_id: str, step: str) -> StepStatus:
        """CANCEL: fence the current attempt."""
        return self.call("POST", f"/ppml/v1/runs/{run_id}/steps/{quote(step)}/cancel", into=StepStatus)

    def open_set(self, run_id: str, step: str) -> OpenedSet:
        """Open a set, as whose members guests are then started."""
        return self.call("POST", f"/ppml/v1/runs/{run_id}/steps/{quote(step)}/sets", into=OpenedSet)

    def close_run(self, run_id: str) -> Envelope:
        """CLOSE: RunClosed; no lease after it (idempotent)."""
        return self.call("POST", f"/ppml/v1/runs/{run_id}/close", into=Envelope)

    def passport(self, run_id: str) -> bytes:
        """The passport of a closed run: canonical JSON bytes, to be stored as they are."""
        return self.call_raw("GET", f"/ppml/v1/runs/{run_id}/passport")

    # guests
    def auth(self, *, tee: str, binding: Digest) -> tuple[str, bytes]:
        """RCAR auth with a binding.

        Returns:
            The nonce (base64) and its salt (32 bytes). The session cookie stays in this client.
        """
        request = {"version": "0.4.0", "tee": tee, "extra-params": {"binding": binding}}
        answer = self.call("POST", "/kbs/v0/auth", body=request, into=dict[str, Any])
        try:
            return answer["nonce"], base64.b64decode(answer["extra-params"]["salt"], validate=True)
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedInputError("the broker's challenge has no nonce or no salt") from error

    def attest(self, *, nonce: str, tee_pubkey: Mapping[str, str], quote_bytes: bytes) -> None:
        """RCAR attest: hand in the evidence; the broker only stores it."""
        evidence = {"quote": base64.b64encode(quote_bytes).decode()}
        request = {
            "init-data": None,
            "runtime-data": {"nonce": nonce, "tee-pubkey": tee_pubkey},
            "tee-evidence": {"primary_evidence": evidence, "additional_evidence": ""},
        }
        self.call("POST", "/kbs/v0/attest", body=request, into=dict[str, Any])

    def lease(self, request: Attest) -> LeaseAnswer:
        """Ask for the decision: a grant, a lease, or the receipt of a committed step."""
        return self.call("POST", "/ppml/v1/lease", body=request, into=LeaseAnswer)

    def enclave_session(self, request: AskSession) -> Envelope:
        """Open or renew the session of this enclave: a signed `EnclaveSession`, and no key."""
        return self.call("POST", "/ppml/v1/enclave-sessions", body=request, into=Envelope)

    def token(self, audience: str) -> str:
        """A signed attestation result (EAR) about this session's accepted evidence, for a service of that name."""
        return self.call("POST", "/ppml/v1/token", body=AskToken(audience=audience), into=Token).token

    def jwks(self) -> dict[str, Any]:
        """The keys that sign tokens (RFC 7517)."""
        return self.call("GET", "/ppml/v1/jwks", into=dict[str, Any])

    def commit(self, request: Commit) -> StepStatus:
        """Hand in the receipt (idempotent)."""
        return self.call("POST", "/ppml/v1/receipts", body=request, into=StepStatus)

    def lease_status(self, lease_id: str) -> LeaseStatus:
        """Whether to go on."""
        return self.call("GET", f"/ppml/v1/leases/{lease_id}", into=LeaseStatus)

    # the log
    def checkpoint(self) -> str:
        """The log's head, a signed C2SP checkpoint: `provenance.notes.verify_head` judges it."""
        return self.call_raw("GET", "/ppml/v1/log/checkpoint").decode()

    def log_consistency(self, first: int, second: int) -> Consistency:
        """The proof that the log of `second` entries begins with the log of `first`."""
        return self.call("GET", f"/ppml/v1/log/consistency/{first}/{second}", into=Consistency)

    def log_proof(self, digest: Digest) -> str:
        """The proof that a document stands in the log: `provenance.notes.verify_entry_proof` judges it."""
        return self.call_raw("GET", f"/ppml/v1/log/proofs/{digest}").decode()

    def _find(self, path: str, *, into: type[T]) -> T | None:
        return self.call("GET", path, into=into | None)  # type: ignore[arg-type]  # a union is no type to mypy

    def _put(self, path: str, envelope: Envelope) -> Digest:
        return self.call("POST", path, body=envelope, into=dict[str, Digest])["digest"]
