"""The broker as a triggerer's event loop asks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import httpx

from ppml_airflow import canonical
from ppml_airflow.protocol.client import raise_problem, tls_context, unanswered
from ppml_airflow.protocol.messages import Changes, StepStatus

if TYPE_CHECKING:
    from ppml_airflow.operators.hook import PpmlHook

T = TypeVar("T")
CONNECTIONS = 16
"""At once from one client: where a policy changes, ten thousand gates ask again."""


def async_broker(hook: PpmlHook) -> httpx.AsyncClient:
    """An asynchronous client of the hook's broker; close it after use."""
    headers = {"Authorization": f"Bearer {hook.token}"} if hook.token else {}
    limits = httpx.Limits(max_connections=CONNECTIONS)
    url, transport = hook.broker_url, None
    if url.startswith("unix:"):
        url, transport = (
            "http://local",
            httpx.AsyncHTTPTransport(uds=url.removeprefix("unix:"), limits=limits, verify=tls_context(url)),
        )
    # A request may wait for those before it as long as it takes; once sent, it is answered or given up.
    timeout = httpx.Timeout(30.0, pool=None)
    return httpx.AsyncClient(
        base_url=url,
        transport=transport,
        headers=headers,
        timeout=timeout,
        limits=limits,
        trust_env=False,
        verify=tls_context(url),
    )


async def ask_status(client: httpx.AsyncClient, *, run_id: str, step: str) -> StepStatus:
    """The state of one step.

    Raises:
        UnavailableError: no answer.
        PpmlError: what the broker answered with.
    """
    return await _ask(client, "GET", f"/ppml/v1/runs/{run_id}/steps/{quote(step)}", into=StepStatus)


async def ask_changes(client: httpx.AsyncClient, *, since: int) -> Changes:
    """The runs whose steps may stand elsewhere than at that number.

    Raises:
        UnavailableError: no answer.
        PpmlError: what the broker answered with.
    """
    return await _ask(client, "GET", f"/ppml/v1/changes/{since}", into=Changes)


async def cancel_step(client: httpx.AsyncClient, *, run_id: str, step: str) -> StepStatus:
    """Fence the attempt of a step.

    Raises:
        UnavailableError: no answer.
        PpmlError: what the broker answered with.
    """
    return await _ask(client, "POST", f"/ppml/v1/runs/{run_id}/steps/{quote(step)}/cancel", into=StepStatus)


async def _ask(client: httpx.AsyncClient, method: str, path: str, *, into: type[T]) -> T:
    try:
        response = await client.request(method, path)
    except httpx.RequestError as error:
        raise unanswered(str(client.base_url).rstrip("/"), error) from error
    if response.is_error:
        raise_problem(response.status_code, response.content)
    return canonical.decode(response.content, into=into)
