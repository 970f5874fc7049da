"""The broker over HTTP: canonical JSON in and out, errors as `Problem`. What there is to ask stands in `routes`.

How often a peer asks is judged before its request is read, sizes while it is read, a token before a body is parsed, and
a signature last. What fails inside is told as `internal` and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from ppml_airflow import canonical
from ppml_airflow.broker.service import sessions
from ppml_airflow.broker.service.admission import Admission
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.callers import Caller, TokenHash, find_caller
from ppml_airflow.broker.service.routes import ROUTES, Call, Route
from ppml_airflow.broker.service.watch import Watch
from ppml_airflow.errors import MalformedInputError, PpmlError
from ppml_airflow.protocol.messages import Problem
from ppml_airflow.protocol.problems import problem_answer
from ppml_airflow.units import KIB, format_instant

logger = logging.getLogger("ppml.broker")
JUDGING_THREADS = 32
"""For what waits for verified quotes or fetched collateral; all else has threads of its own and waits for neither."""

COOKIE = "kbs-session-id"
REQUESTS_PER_SECOND = 500
MAX_BODY_SECONDS = 30
JSON = "application/json"


def create_app(
    broker: Broker,
    *,
    callers: Callable[[], Mapping[TokenHash, Caller]],
    requests_per_second: int = REQUESTS_PER_SECOND,
) -> FastAPI:
    """The broker as an ASGI application.

    Args:
        callers: reads the tokens anew for each request, so that a token can be withdrawn.
        requests_per_second: how often one peer may ask.
    """
    guard = Guard(broker, admission=Admission(requests_per_second=requests_per_second), callers=callers)
    app = FastAPI(
        title="ppml broker",
        version=version("ppml-airflow"),
        description="Judges evidence by the owners' policy and releases keys to attested jobs only.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    judging = CapacityLimiter(JUDGING_THREADS)
    for route in ROUTES:
        app.add_api_route(
            route.path,
            guard.endpoint(route.summary, _answer(route, broker, limiter=judging if route.judges_evidence else None)),
            methods=[route.method],
            summary=route.summary,
            name=route.summary,
            openapi_extra=_describe(route),
            response_class=Response,
        )
    _add_rcar(app, broker, guard, limiter=judging)
    _add_metrics(app, guard)
    return app


def openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the application, with every message as a schema."""
    document = app.openapi()
    types = [kind for route in ROUTES for kind in (route.body, route.answer) if kind is not None]
    _, components = msgspec.json.schema_components([*types, Problem], ref_template="#/components/schemas/{name}")
    document.setdefault("components", {}).setdefault("schemas", {}).update(components)
    return document


Answer = Callable[[Request, "Guard"], Awaitable[Response]]


class Guard:
    """What stands before and behind every route: admission, errors as answers, metrics and audit log."""

    def __init__(
        self, broker: Broker, *, admission: Admission, callers: Callable[[], Mapping[TokenHash, Caller]]
    ) -> None:
        self.broker = broker
        self.watch = Watch(broker)
        self._admission = admission
        self._callers = callers

    def endpoint(self, name: str, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
        """A route's answer, guarded."""

        async def guarded(request: Request) -> Response:
            began, code = time.perf_counter(), ""
            peer = request.client.host if request.client and request.client.host else "unix"
            try:
                self._admission.require_room(peer)
                response = await answer(request, self)
            except PpmlError as error:
                code, response = error.code, _problem(error)
            except Exception:
                logger.exception("route %s failed", name)
                code, response = "internal", _problem(PpmlError("broker failed; its log says why", code="internal"))
            self.watch.answered(
                time=format_instant(self.broker.clock()),
                route=name,
                method=request.method,
                status=response.status_code,
                code=code,
                seconds=time.perf_counter() - began,
                caller=getattr(request.state, "caller", ""),
                peer=peer,
                parameters=request.path_params,
            )
            return response

        return guarded

    def require_caller(self, request: Request) -> Caller:
        """The caller that a request's token names.

        Raises:
            PolicyDeniedError: no token, or an unknown one.
        """
        caller = find_caller(self._callers(), authorization=request.headers.get("authorization"))
        request.state.caller = caller.name
        return caller


def _answer(route: Route, broker: Broker, *, limiter: CapacityLimiter | None) -> Answer:
    async def answer(request: Request, guard: Guard) -> Response:
        def decide(body: bytes, caller: Caller | None) -> bytes:
            decoded = canonical.decode(body, into=route.body) if route.body is not None else None
            session_id = request.cookies.get(COOKIE, "")
            call = Call(path=request.path_params, body=decoded, session_id=session_id, caller=caller)
            answer = route.handle(broker, call)
            return answer if isinstance(answer, bytes) else canonical.encode(answer)

        caller = await to_thread.run_sync(guard.require_caller, request) if route.needs_token else None
        body = await _read(request, max_bytes=route.max_body_bytes)
        content = await to_thread.run_sync(decide, body, caller, limiter=limiter)
        return Response(content, media_type=route.media_type)

    return answer


def _add_rcar(app: FastAPI, broker: Broker, guard: Guard, *, limiter: CapacityLimiter) -> None:
    async def auth(request: Request, _guard: Guard) -> Response:
        body = await _read(request, max_bytes=4 * KIB)
        session_id, answer = await to_thread.run_sync(partial(sessions.auth, broker, body=body))
        response = Response(canonical.encode(answer), media_type=JSON)
        response.set_cookie(COOKIE, session_id, httponly=True, samesite="strict", secure=request.url.scheme == "https")
        return response

    async def attest(request: Request, _guard: Guard) -> Response:
        body = await _read(request, max_bytes=128 * KIB)
        session_id = request.cookies.get(COOKIE, "")
        work = partial(sessions.attest, broker, session_id=session_id, body=body)
        await to_thread.run_sync(work, limiter=limiter)
        return Response(canonical.encode({}), media_type=JSON)

    for path, answer, summary in (
        ("/kbs/v0/auth", auth, "RCAR auth: a nonce that commits to a binding"),
        ("/kbs/v0/attest", attest, "RCAR attest: hand in evidence, which is only stored"),
    ):
        endpoint = guard.endpoint(summary, answer)
        app.add_api_route(path, endpoint, methods=["POST"], summary=summary, name=summary, response_class=Response)


def _add_metrics(app: FastAPI, guard: Guard) -> None:
    async def metrics(request: Request, guard: Guard) -> Response:
        await to_thread.run_sync(guard.require_caller, request)
        return Response(await to_thread.run_sync(guard.watch.metrics), media_type=CONTENT_TYPE_LATEST)

    summary = "Prometheus metrics; needs a token, of any scope"
    app.add_api_route("/metrics", guard.endpoint(summary, metrics), methods=["GET"], summary=summary, name=summary)


async def _read(request: Request, *, max_bytes: int) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(MAX_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise MalformedInputError(f"body is longer than {max_bytes} bytes", code="too_long")
    except TimeoutError:
        raise MalformedInputError(f"body takes longer than {MAX_BODY_SECONDS} s to come", code="too_slow") from None
    return bytes(body)


def _problem(error: PpmlError) -> Response:
    status, content = problem_answer(error)
    return Response(content, status_code=status, media_type=JSON)


def _describe(route: Route) -> dict[str, Any]:
    described: dict[str, Any] = {
        "responses": {
            "200": {"description": "OK", "content": {route.media_type: {"schema": _schema(route.answer)}}},
            "4XX": {"description": "Refused", "content": {JSON: {"schema": _schema(Problem)}}},
            "503": {"description": "Not now", "content": {JSON: {"schema": _schema(Problem)}}},
        }
    }
    if route.body is not None:
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": _schema(route.body)}}}
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    if names:
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if route.needs_token:
        described["security"] = [{"token": []}]
    return described


def _schema(kind: object) -> dict[str, Any]:
    if kind is None:
        return {}
    (schema,), _ = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
    return schema
