"""The agent's HTTP API: ask for a task, watch it. It knows no other verbs, and takes names only.

Who may connect is a matter of the socket's folder and mode; what a caller can reach is bounded by the agent's map.
Bodies are canonical JSON in both directions.
"""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from ppml_airflow import canonical
from ppml_airflow.agent.settings import Settings
from ppml_airflow.agent.tasks import Tasks
from ppml_airflow.canonical import Document
from ppml_airflow.errors import MalformedInputError, PpmlError
from ppml_airflow.protocol.messages import AgentTask
from ppml_airflow.protocol.problems import problem_answer
from ppml_airflow.units import KIB, Digest, Name

MAX_BODY_BYTES = 4 * KIB


class AgentHealth(Document, frozen=True, kw_only=True):
    """Who answers here, and which names it knows."""

    status: str
    agent: Name
    domain_id: Digest
    seals: tuple[Name, ...]
    delivers: tuple[Name, ...]


def build_app(tasks: Tasks, *, settings: Settings) -> FastAPI:
    """The application; whoever serves it closes `tasks`."""
    app = FastAPI(title="ppml agent", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(PpmlError)
    async def _problem(_request: Request, error: PpmlError) -> Response:
        status, body = problem_answer(error)
        return Response(body, status, media_type="application/json")

    @app.post("/v1/tasks")
    async def _submit(request: Request) -> Response:
        task = canonical.decode(await _body(request), into=AgentTask, max_bytes=MAX_BODY_BYTES)
        return _answer(tasks.submit(task))

    @app.get("/v1/tasks/{task_id}")
    async def _view(task_id: str) -> Response:
        return _answer(tasks.view(task_id))

    @app.get("/v1/health")
    async def _health() -> Response:
        return _answer(
            AgentHealth(
                status="ok",
                agent=settings.agent,
                domain_id=settings.domain.domain_id,
                seals=tuple(sorted(settings.seals)),
                delivers=tuple(sorted(settings.delivers)),
            )
        )

    return app


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise MalformedInputError(f"request has more than {MAX_BODY_BYTES} bytes", code="too_large")
    return body


def _answer(document: Document) -> Response:
    return Response(canonical.encode(document), media_type="application/json")
