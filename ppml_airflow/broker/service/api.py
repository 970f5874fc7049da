"""The broker over HTTP: canonical JSON in and out, errors as `Problem`. What there is to ask stands in `routes`.

How often a peer asks is judged before its request is read, sizes while it is read, a token before a body is parsed, and
a signature last. What fails inside is told as `internal` and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cache, partial
from importlib.metadata import version
from typing import Any

import msgspec
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from ppml_airflow import canonical
from ppml_airflow.broker.service import kbs, sessions
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
        answer = _answer(route, broker, limiter=judging if route.judges_evidence else None)
        endpoint, described = guard.endpoint(route.summary, answer), _describe(route)
        _add(app, endpoint, method=route.method, path=route.path, told=route.summary, described=described)
    _add_kbs(app, broker, guard, limiter=judging)
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
Telling = Callable[[PpmlError], tuple[int, bytes]]
"""Status and body of a refusal."""


class Guard:
    """What stands before and behind every route: admission, errors as answers, metrics and audit log."""

    def __init__(
        self, broker: Broker, *, admission: Admission, callers: Callable[[], Mapping[TokenHash, Caller]]
    ) -> None:
        self.broker = broker
        self.watch = Watch(broker)
        self._admission = admission
        self._callers = callers

    def endpoint(
        self, name: str, answer: Answer, *, tell: Telling = problem_answer
    ) -> Callable[[Request], Awaitable[Response]]:
        """A route's answer, guarded."""

        async def guarded(request: Request) -> Response:
            began, code = time.perf_counter(), ""
            peer = request.client.host if request.client and request.client.host else "unix"
            try:
                self._admission.require_room(peer)
                response = await answer(request, self)
            except PpmlError as error:
                code, response = error.code, _refusal(tell(error))
            except Exception:
                logger.exception("route %s failed", name)
                code = "internal"
                response = _refusal(tell(PpmlError("broker failed; its log says why", code=code)))
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
            session_id = request.cookies.get(kbs.COOKIE, "")
            call = Call(path=request.path_params, body=decoded, session_id=session_id, caller=caller)
            answer = route.handle(broker, call)
            return answer if isinstance(answer, bytes) else canonical.encode(answer)

        caller = await to_thread.run_sync(guard.require_caller, request) if route.needs_token else None
        body = await _read(request, max_bytes=route.max_body_bytes)
        content = await to_thread.run_sync(decide, body, caller, limiter=limiter)
        return Response(content, media_type=route.media_type)

    return answer


def _add_kbs(app: FastAPI, broker: Broker, guard: Guard, *, limiter: CapacityLimiter) -> None:
    async def auth(request: Request, _guard: Guard) -> Response:
        body = await _read(request, max_bytes=4 * KIB)
        session_id, answer = await to_thread.run_sync(partial(sessions.auth, broker, body=body))
        response = Response(canonical.encode(answer), media_type=JSON)
        secure = request.url.scheme == "https"
        response.set_cookie(kbs.COOKIE, session_id, httponly=True, samesite="strict", secure=secure)
        return response

    async def attest(request: Request, _guard: Guard) -> Response:
        body = await _read(request, max_bytes=128 * KIB)
        work = partial(kbs.attest, broker, session_id=request.cookies.get(kbs.COOKIE, ""), body=body)
        return Response(await to_thread.run_sync(work, limiter=limiter), media_type=JSON)

    async def resource(request: Request, _guard: Guard) -> Response:
        work = partial(
            kbs.read_resource, broker, session_id=request.cookies.get(kbs.COOKIE, ""), path=request.path_params
        )
        return Response(await to_thread.run_sync(work, limiter=limiter), media_type=JSON)

    told = "RCAR auth: a nonce, which commits to a guest's binding"
    _add(app, guard.endpoint(told, auth, tell=kbs.attestation_problem), method="POST", path="/kbs/v0/auth", told=told)
    told = "RCAR attest: hand in evidence; a guest's is only stored, a stock client's is judged"
    _add(
        app, guard.endpoint(told, attest, tell=kbs.attestation_problem), method="POST", path="/kbs/v0/attest", told=told
    )
    told, path = "A resource that stock clients may read, as a JWE", "/kbs/v0/resource/{repository}/{type}/{tag}"
    endpoint = guard.endpoint(told, resource, tell=kbs.resource_problem)
    names = ("repository", "type", "tag")
    _add(app, endpoint, method="GET", path=path, told=told, described={"parameters": _path_parameters(names)})


def _add(
    app: FastAPI,
    endpoint: Callable[[Request], Awaitable[Response]],
    *,
    method: str,
    path: str,
    told: str,
    described: dict[str, Any] | None = None,
) -> None:
    app.add_api_route(
        path,
        endpoint,
        methods=[method],
        summary=told,
        name=told,
        openapi_extra=described,
        response_class=Response,
    )


def _add_metrics(app: FastAPI, guard: Guard) -> None:
    async def metrics(request: Request, guard: Guard) -> Response:
        await to_thread.run_sync(guard.require_caller, request)
        return Response(await to_thread.run_sync(guard.watch.metrics), media_type=CONTENT_TYPE_LATEST)

    summary = "Prometheus metrics; needs a token, of any scope"
    _add(app, guard.endpoint(summary, metrics), method="GET", path="/metrics", told=summary)


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


def _refusal(told: tuple[int, bytes]) -> Response:
    status, content = told
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
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": _schema(route.body)}}}  # type: ignore[arg-type]  # a type has a hash
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    if names:
        described["parameters"] = _path_parameters(names)
    if route.needs_token:
        described["security"] = [{"token": []}]
    return described


def _path_parameters(names: Iterable[str]) -> list[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


@cache
def _schema(kind: object) -> dict[str, Any]:
    if kind is None:
        return {}
    (schema,), _ = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
    return schema
