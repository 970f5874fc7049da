"""The broker over HTTP: canonical JSON in and out, errors as `Problem`. What there is to ask stands in `routes`.

Sizes are limited before anything is read, and a token is judged before a body is parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request, Response

from ppml_airflow import canonical
from ppml_airflow.broker.service import sessions
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.callers import Caller, TokenHash, find_caller
from ppml_airflow.broker.service.routes import ROUTES, Call, Route
from ppml_airflow.errors import MalformedInputError, PpmlError
from ppml_airflow.protocol.messages import Problem
from ppml_airflow.protocol.problems import problem_answer
from ppml_airflow.units import KIB

JUDGING_THREADS = 32
"""For what waits for verified quotes or fetched collateral; all else has threads of its own and waits for neither."""

COOKIE = "kbs-session-id"
JSON = "application/json"


def create_app(broker: Broker, *, callers: Callable[[], Mapping[TokenHash, Caller]]) -> FastAPI:
    """The broker as an ASGI application.

    Args:
        callers: reads the tokens anew for each request, so that a token can be withdrawn.
    """
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
            _endpoint(route, broker, callers, limiter=judging if route.judges_evidence else None),
            methods=[route.method],
            summary=route.summary,
            name=route.summary,
            openapi_extra=_describe(route),
            response_class=Response,
        )
    _add_rcar(app, broker, limiter=judging)
    return app


def openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the application, with every message as a schema."""
    document = app.openapi()
    types = [kind for route in ROUTES for kind in (route.body, route.answer) if kind is not None]
    _, components = msgspec.json.schema_components([*types, Problem], ref_template="#/components/schemas/{name}")
    document.setdefault("components", {}).setdefault("schemas", {}).update(components)
    return document


def _endpoint(
    route: Route,
    broker: Broker,
    callers: Callable[[], Mapping[TokenHash, Caller]],
    *,
    limiter: CapacityLimiter | None,
) -> Callable[[Request], Any]:
    def decide(path: Mapping[str, str], body: bytes, session_id: str, authorization: str | None) -> bytes:
        caller = find_caller(callers(), authorization=authorization) if route.needs_token else None
        decoded = canonical.decode(body, into=route.body) if route.body is not None else None
        answer = route.handle(broker, Call(path=path, body=decoded, session_id=session_id, caller=caller))
        return answer if isinstance(answer, bytes) else canonical.encode(answer)

    async def endpoint(request: Request) -> Response:
        try:
            body = await _read(request, max_bytes=route.max_body_bytes)
            session_id = request.cookies.get(COOKIE, "")
            authorization = request.headers.get("authorization")
            decision = partial(decide, request.path_params, body, session_id, authorization)
            content = await to_thread.run_sync(decision, limiter=limiter)
        except PpmlError as error:
            return _problem(error)
        return Response(content, media_type=route.media_type)

    return endpoint


def _add_rcar(app: FastAPI, broker: Broker, *, limiter: CapacityLimiter) -> None:
    @app.post("/kbs/v0/auth", summary="RCAR auth: a nonce that commits to a binding", response_class=Response)
    async def auth(request: Request) -> Response:
        try:
            body = await _read(request, max_bytes=4 * KIB)
            session_id, answer = await to_thread.run_sync(partial(sessions.auth, broker, body=body))
        except PpmlError as error:
            return _problem(error)
        response = Response(canonical.encode(answer), media_type=JSON)
        response.set_cookie(COOKIE, session_id, httponly=True, samesite="strict")
        return response

    @app.post("/kbs/v0/attest", summary="RCAR attest: hand in evidence, which is only stored", response_class=Response)
    async def attest(request: Request) -> Response:
        try:
            body = await _read(request, max_bytes=128 * KIB)
            session_id = request.cookies.get(COOKIE, "")
            work = partial(sessions.attest, broker, session_id=session_id, body=body)
            await to_thread.run_sync(work, limiter=limiter)
        except PpmlError as error:
            return _problem(error)
        return Response(canonical.encode({}), media_type=JSON)


async def _read(request: Request, *, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise MalformedInputError(f"body is longer than {max_bytes} bytes", code="too_long")
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
