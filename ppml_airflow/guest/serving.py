"""A guest that lives for several jobs: opens a session, keeps it by fresh evidence, runs one launch after another.

The session brings no key. Each launch is verified from its first byte, in a private directory of its own, and attests
with keys of its own, as if the guest had been started for it; what was said in full or in closed words before does not
matter to it. The session ends with the channel, or with a renewal that was refused or missed, and the guest with it.

Protocol: rule 12.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace

from ppml_airflow.domain.documents import EnclaveSession
from ppml_airflow.domain.jobs import session_scope
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.guest.bundle import verify_bundle
from ppml_airflow.guest.enclave_sessions import Renewal, attest_session
from ppml_airflow.guest.identity import Within, make_session_identity
from ppml_airflow.guest.session import Surroundings, require_role, run_guest
from ppml_airflow.guest.speech import Speech
from ppml_airflow.protocol.launches import GuestEvent, GuestProblem, GuestResult
from ppml_airflow.protocol.messages import LaunchRequest

_EXIT_NOT_RENEWED = 4


def end_process() -> None:
    """End this guest now; the service ends what it has started."""
    os._exit(_EXIT_NOT_RENEWED)


def serve_session(
    request: LaunchRequest,
    *,
    around: Surroundings,
    next_launch: Callable[[], LaunchRequest | None],
    send: Callable[[GuestEvent | GuestResult | GuestProblem], None],
    end: Callable[[], None] = end_process,
) -> None:
    """Open the session of the step that a launch names, say so, and run what comes until nothing comes any more.

    Args:
        request: untrusted; its job is not run.
        around: what the guest stands on.
        next_launch: waits for the next launch; None ends the session.
        send: takes events, and one result or problem for the session and for each launch.
        end: ends the guest when its session was not renewed.

    Raises:
        PpmlError: the session was refused. What a launch ends with is sent, and never raised.
    """
    Speech(send).tell("verifying")
    bundle = verify_bundle(request, domain=around.domain, image=around.image, now=around.now())
    require_role(request, step=bundle.step)
    scope = session_scope(
        approval=bundle.approval, approval_digest=request.bundle.approval.digest, step_name=bundle.step.name
    )
    identity = make_session_identity(scope)

    def renew() -> EnclaveSession:
        with around.connect(request.broker) as broker:
            return attest_session(
                identity,
                scope=scope,
                pipeline=bundle.approval.pipeline,
                broker=broker,
                quoter=around.quoter,
                certificates=bundle.certificates,
            )

    Speech(send).tell("attesting")
    with Renewal(renew, end=end) as renewal:
        within = Within(identity=identity, session_id=renewal.session.session_id)
        send(GuestResult(state="serving", code="", attempt=0, lease_id=None, receipt=None, outputs=()))
        number = 0
        while (launch := next_launch()) is not None:
            number += 1
            private = around.private / f"launch-{number}"
            private.mkdir(mode=0o700)
            try:
                send(_run(launch, around=replace(around, private=private, within=within), speech=Speech(send)))
            finally:
                shutil.rmtree(private, ignore_errors=True)


def _run(request: LaunchRequest, *, around: Surroundings, speech: Speech) -> GuestResult | GuestProblem:
    try:
        if request.role == "session":
            raise ConfigurationError(
                "this guest serves a session already", code="session_open", hint="start another guest for another one"
            )
        return run_guest(request, around=around, speech=speech)
    except Exception as error:  # the launch is over, and not the session; what may be said of it `speech` knows
        return speech.problem(error)
