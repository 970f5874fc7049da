"""Who this guest is: its keys K and E, its binding B, and the evidence for them. Messages 5 and 6 of the protocol."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from ppml_airflow import canonical
from ppml_airflow.attestation.report_data import nonce_for, public_jwk, report_data
from ppml_airflow.domain.documents import Binding, BindingRole, Job, SessionScope
from ppml_airflow.domain.jobs import signed_request, signed_within_session
from ppml_airflow.errors import UnavailableError, VerificationError
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.protocol.messages import Attest, LeaseAnswer
from ppml_airflow.sealing.wrapping import SealingKey
from ppml_airflow.signing import SigningKey
from ppml_airflow.units import Digest, HexId

_BUSY_S = 100.0
"""How long is waited for an output that another run writes, or for a set; a session lives 120 s."""
_BUSY_PAUSE_S = 1.0

Quoter = Callable[[bytes], bytes]
"""Report data, 64 bytes, to a quote of this very guest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Keys that live as long as this process, and what binds them to the job."""

    signing_key: SigningKey = field(repr=False)
    sealing_key: SealingKey = field(repr=False)
    binding: Binding

    @property
    def digest(self) -> Digest:
        """H(B)."""
        return canonical.digest(self.binding)


@dataclass(frozen=True, slots=True, kw_only=True)
class Within:
    """The open session of a guest that lives longer than one job."""

    identity: Identity
    session_id: HexId


_WORTH_WAITING_FOR = ("output_busy", "set_incomplete", "member_lives")
"""Why a broker says not yet, and leaves the nonce unspent."""


def make_identity(
    job: Job, *, role: Literal["preflight", "job", "member"], set_id: str = "", index: int = 0
) -> Identity:
    """Make K and E, and bind them to J; of a member to its place in a set, of a job to its enclave's session, too."""
    return _bound(role=role, domain_id=job.domain_id, covers=canonical.digest(job), set_id=set_id, index=index)


def make_session_identity(scope: SessionScope) -> Identity:
    """Make the K and E of an enclave that is to live longer than one job. No job ever has them."""
    return _bound(role="session", domain_id=scope.domain_id, covers=canonical.digest(scope), set_id="", index=0)


def _bound(*, role: BindingRole, domain_id: Digest, covers: Digest, set_id: str, index: int) -> Identity:
    signing_key, sealing_key = SigningKey.generate(scheme="p256"), SealingKey.generate()
    binding = Binding(
        v=1,
        role=role,
        domain_id=domain_id,
        job_digest=covers,
        signing_key=signing_key.public,
        sealing_key=sealing_key.public,
        set_id=set_id,
        index=index,
    )
    return Identity(signing_key=signing_key, sealing_key=sealing_key, binding=binding)


def attest(identity: Identity, *, broker: BrokerClient, quoter: Quoter, within: Within | None = None) -> LeaseAnswer:
    """Prove who this guest is and ask for the broker's decision.

    Args:
        identity: of the job; within a session its binding names that.
        broker: where to ask.
        quoter: of this guest.
        within: the guest's session, if it has one; its K vouches for the job.

    Raises:
        VerificationError: the broker's nonce does not commit to this binding; no quote was made.
        PpmlError: what the broker answered with.
    """
    nonce, signature = show_evidence(identity, broker=broker, quoter=quoter)
    vouched = None
    if within is not None:
        said = signed_within_session(nonce=nonce, binding=identity.digest, session_id=within.session_id)
        vouched = within.identity.signing_key.sign_bytes(said)
    request = Attest(binding=identity.binding, signature=signature, session_signature=vouched)
    return _ask(request, broker=broker)


def show_evidence(identity: Identity, *, broker: BrokerClient, quoter: Quoter) -> tuple[str, bytes]:
    """Messages 5 and 6: a nonce for this binding, and a quote that covers it.

    Returns:
        The nonce, and K's signature with which the decision is asked for.

    Raises:
        VerificationError: the broker's nonce does not commit to this binding; no quote was made.
    """
    nonce, salt = broker.auth(tee="sgx", binding=identity.digest)
    if not hmac.compare_digest(nonce, nonce_for(salt=salt, binding_digest=identity.digest)):
        # A nonce for another binding would let this quote speak for another job (attack: relay).
        raise VerificationError("the broker's nonce does not commit to this binding", code="nonce_mismatch")
    public = public_jwk(identity.signing_key.public)
    quote = quoter(report_data(nonce=nonce, tee_pubkey=public))
    broker.attest(nonce=nonce, tee_pubkey=public, quote_bytes=quote)
    return nonce, identity.signing_key.sign_bytes(signed_request(nonce=nonce, binding=identity.digest))


def _ask(request: Attest, *, broker: BrokerClient) -> LeaseAnswer:
    """Ask for the decision. What others have to end or begin first is waited for in the session."""
    until = time.monotonic() + _BUSY_S
    while True:
        try:
            return broker.lease(request)
        except UnavailableError as error:
            if error.code not in _WORTH_WAITING_FOR or time.monotonic() >= until:
                raise
            time.sleep(_BUSY_PAUSE_S)
