"""What operators talk to, each over its real protocol: a broker whose steps stand where a test puts them, an agent, and
a quoting service. None of them judges anything."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import msgspec

from ppml_airflow import canonical
from ppml_airflow.canonical import digest_bytes
from ppml_airflow.domain.documents import Approval, Run, RunClosed
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, PpmlError, UnavailableError
from ppml_airflow.protocol.launches import (
    GuestEvent,
    GuestProblem,
    GuestResult,
    LineSocket,
    ToService,
    WatchAnswer,
    WatchRequest,
    WatchStarted,
)
from ppml_airflow.protocol.messages import (
    AgentTask,
    AgentTaskView,
    Bundle,
    Changes,
    LaunchRequest,
    OpenedSet,
    OpenRun,
    Published,
    RunView,
    StepStatus,
)
from ppml_airflow.protocol.problems import problem_answer
from ppml_airflow.signing import Envelope, SignedDocument, SigningKey

KEY = SigningKey.generate()
TOKEN = "the-token"
PASSPORT = b'{"passport":1}'
WATCH = "e" * 32
ZERO = digest_bytes(b"")


class HttpFake:
    """Serves `answer(method, path parts, body, headers)` on a free port of 127.0.0.1 while entered."""

    def __init__(self) -> None:
        self.is_down = False
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply("GET", b"")

            def do_POST(self) -> None:
                self._reply("POST", self.rfile.read(int(self.headers.get("Content-Length") or 0)))

            def _reply(self, method: str, body: bytes) -> None:
                parts = [unquote(part) for part in self.path.strip("/").split("/")]
                try:
                    if fake.is_down:
                        raise UnavailableError("service is down")
                    answer = fake.answer(method, parts, body, dict(self.headers))
                    status, content = 200, answer if isinstance(answer, bytes) else canonical.encode(answer)
                except PpmlError as error:
                    status, content = problem_answer(error)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def answer(self, method: str, parts: list[str], body: bytes, headers: dict[str, str]) -> object:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class FakePipelineBroker(HttpFake):
    """Runs of one approved pipeline. Tests set `steps[name]` by `put`; `refusals[route]` are raised."""

    def __init__(self, approval: Approval | None) -> None:
        super().__init__()
        self.approval = approval
        self.opened: list[OpenRun] = []
        self.runs: dict[tuple[str, str], str] = {}
        self.steps: dict[str, StepStatus] = {}
        self.refusals: dict[str, PpmlError] = {}
        self.cancelled: list[str] = []
        self.closed: list[str] = []
        self.asked = 0
        """How often the state of a step was asked for."""
        self.questions = 0
        """How often it was asked what changed."""
        self.changes = 0
        """How often a step was put somewhere else."""
        for step in approval.steps if approval else ():
            self.put(step.name)

    def put(self, step: str, **changes: Any) -> None:
        """Let a step stand somewhere else; without changes it waits for its inputs."""
        inputs = ", ".join(item.dataset for item in self._step(step).inputs)
        waiting = StepStatus(
            run_id="a" * 32,
            step=step,
            state="waiting",
            waiting_for=f"inputs: {inputs}",
            code="",
            reason="",
            hint="",
            attempt=0,
            granted=False,
            outputs=(),
            disclosed={},
            trust="simulated",
        )
        self.steps[step] = msgspec.structs.replace(waiting, **changes)
        self.changes += 1

    def commit(self, step: str, *, attempt: int = 1) -> None:
        """Let a step be committed with all its outputs."""
        outputs = tuple(
            Published(dataset=output.dataset, version=1, manifest=digest_bytes(output.dataset.encode()))
            for output in self._step(step).outputs
        )
        self.put(step, state="committed", waiting_for="", attempt=attempt, granted=True, outputs=outputs)

    def answer(self, method: str, parts: list[str], body: bytes, headers: dict[str, str]) -> object:
        route = parts[2:]
        if route[0] in ("runs", "changes") and headers.get("Authorization") != f"Bearer {TOKEN}":
            raise PolicyDeniedError("caller has no valid token", code="token_unknown")
        match method, route:
            case "GET", ["health"]:
                return {"status": "ok", "domain_id": ZERO, "trust": "simulated", "version": "0"}
            case "GET", ["approvals", _]:
                return self._signed(self.approval) if self.approval else None
            case "POST", ["runs"]:
                return self._open(canonical.decode(body, into=OpenRun))
            case "GET", ["changes", since]:
                self.questions += 1
                runs = tuple(self.runs.values()) if self.changes > int(since) else ()
                return Changes(number=self.changes, runs=runs, everything=False)
            case "GET", ["runs", run_id]:
                return self._view(run_id)
            case "GET", ["runs", run_id, "steps", step]:
                return self._status(run_id, step)
            case "GET", ["runs", run_id, "steps", step, "bundle"]:
                return self._bundle(run_id, step)
            case "POST", ["runs", run_id, "steps", step, "cancel"]:
                self.cancelled.append(step)
                return self._status(run_id, step)
            case "POST", ["runs", _, "steps", step, "sets"]:
                found = self._approved().step(step)
                return OpenedSet(set_id="5" * 32, members=found.members if found else 1)
            case "POST", ["runs", run_id, "close"]:
                self.closed.append(run_id)
                return self._signed(self._closed(run_id))
            case "GET", ["runs", _, "passport"]:
                return PASSPORT
        raise ConfigurationError("no such route", code="not_found")

    def _refuse(self, route: str) -> None:
        if route in self.refusals:
            raise self.refusals[route]

    def _open(self, request: OpenRun) -> RunView:
        self.opened.append(request)
        self._refuse("open")
        if self.approval is None:
            raise PolicyDeniedError(
                f"pipeline {request.pipeline} is not approved", code="not_approved", hint="ppml compile DAG"
            )
        key = (request.pipeline, request.claimed["run_id"])
        return self._view(self.runs.setdefault(key, f"{len(self.runs):032x}"))

    def _status(self, run_id: str, step: str) -> StepStatus:
        self.asked += 1
        self._refuse("status")
        if run_id not in self.runs.values():
            raise ConfigurationError(f"run {run_id} is not known here", code="run_unknown")
        if step not in self.steps:
            raise PolicyDeniedError(f"step {step} is not approved", code="step_not_approved")
        return msgspec.structs.replace(self.steps[step], run_id=run_id)

    def _bundle(self, run_id: str, step: str) -> Bundle:
        run = self._signed(self._run(run_id))
        approval = self._signed(self.approval)
        return Bundle(approval=approval, certificates=(), run=run, pins=run, manifests=())

    def _view(self, run_id: str) -> RunView:
        return RunView(
            run=self._signed(self._run(run_id)),
            run_id=run_id,
            pipeline=self._approved().pipeline,
            slot="2026-01-01T00:00:00Z",
            state="open",
            trust="simulated",
            steps=tuple(msgspec.structs.replace(status, run_id=run_id) for status in self.steps.values()),
        )

    def _run(self, run_id: str) -> Run:
        return Run(
            run_id=run_id,
            domain_id=ZERO,
            approval=canonical.digest(self._approved()),
            pipeline=self._approved().pipeline,
            slot="2026-01-01T00:00:00Z",
            params={},
            epoch=0,
            opened="2026-01-01T00:00:00Z",
            claimed={},
        )

    def _closed(self, run_id: str) -> RunClosed:
        return RunClosed(
            run=canonical.digest(self._run(run_id)),
            run_id=run_id,
            closed="2026-01-01T00:00:00Z",
            attempts=(),
            denials=(),
            releases=(),
            contents=ZERO,
            log_size=0,
            log_root=ZERO,
        )

    def _approved(self) -> Approval:
        if self.approval is None:
            raise PolicyDeniedError("nothing is approved", code="not_approved")
        return self.approval

    def _step(self, name: str) -> Any:
        return self._approved().step(name)

    def _signed(self, document: SignedDocument | None) -> Envelope:
        assert document is not None
        return KEY.sign(document)


class FakeAgent(HttpFake):
    """Says `running` so many times, then `done` or the failure that a test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[AgentTask] = []
        self.failure: PpmlError | None = None
        self.running = 1
        self.seals_as: dict[str, str] = {}
        self.on_done: Callable[[AgentTask], None] = lambda task: None
        self._polls: dict[str, int] = {}

    def answer(self, method: str, parts: list[str], body: bytes, headers: dict[str, str]) -> object:
        match method, parts:
            case "GET", ["v1", "health"]:
                return {"status": "ok"}
            case "POST", ["v1", "tasks"]:
                self.tasks.append(canonical.decode(body, into=AgentTask))
                return self._view(self.tasks[-1])
            case "GET", ["v1", "tasks", task_id]:
                return self._view(next(task for task in self.tasks if canonical.digest(task) == task_id))
        raise ConfigurationError("no such route", code="not_found")

    def _view(self, task: AgentTask) -> AgentTaskView:
        task_id = canonical.digest(task)
        polls = self._polls[task_id] = self._polls.get(task_id, 0) + 1
        view = AgentTaskView(
            task_id=task_id,
            state="running",
            percent=min(99, polls * 40),
            kind="",
            code="",
            reason="",
            hint="",
            published=None,
            location="",
        )
        if polls <= self.running:
            return view
        if self.failure:
            problem = self.failure
            return msgspec.structs.replace(
                view,
                state="failed",
                kind=type(problem).__name__,
                code=problem.code,
                reason=problem.message,
                hint=problem.hint,
            )
        self.on_done(task)
        dataset = self.seals_as.get(task.name, task.name)
        published = Published(dataset=dataset, version=1, manifest=digest_bytes(dataset.encode()))
        location = "opened/report.csv" if task.verb == "deliver" else ""
        return msgspec.structs.replace(view, state="done", percent=100, published=published, location=location)


Answer = GuestEvent | GuestResult | GuestProblem


class FakeQuotingService:
    """Answers each launch with what `guest` yields; a test's guest may change the broker meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.launched: list[LaunchRequest] = []
        self.guest: Callable[[LaunchRequest], Iterator[Answer]] = lambda request: iter(())
        self.ended = threading.Event()
        self._listening = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._listening.bind(str(self.path))
        self._listening.listen()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                self._launch(LineSocket(connection))

    def _launch(self, client: LineSocket) -> None:
        request = client.receive(ToService)
        if isinstance(request, WatchRequest):
            client.send(self._renewed(request))
            return
        self.launched.append(request)
        if request.is_watched:
            self._watched = WatchAnswer(events=(), last=None)
            client.send(WatchStarted(watch_id=WATCH))
            for message in self.guest(request):
                self._keep(message)
            return
        for message in self.guest(request):
            client.send(message)
            if isinstance(message, GuestResult | GuestProblem):
                return
        while client.receive_line() is not None:
            pass
        self.ended.set()

    def _keep(self, message: Answer) -> None:
        kept = {"events": (*self._watched.events, message)} if isinstance(message, GuestEvent) else {"last": message}
        self._watched = msgspec.structs.replace(self._watched, **kept)

    def _renewed(self, request: WatchRequest) -> WatchAnswer | GuestProblem:
        if request.watch_id != WATCH:
            return GuestProblem.of(UnavailableError("the enclave is gone", code="watch_lapsed"))
        if request.end:
            self.ended.set()
        return msgspec.structs.replace(self._watched, events=self._watched.events[request.seen :])


def committed(*, state: str = "committed") -> GuestResult:
    """How a guest ends well."""
    return msgspec.convert(
        {"type": "result", "state": state, "code": "", "attempt": 1, "lease_id": None, "receipt": None, "outputs": ()},
        type=GuestResult,
    )


def connect(
    environment: Any, *, broker: str, agent: str, folder: Path, patience_s: float = 0.3, runtime: str = "process"
) -> None:
    """The connection `ppml_default` by environment (a pytest monkeypatch)."""
    extra = {
        "storage": str(folder / "storage"),
        "quoting": str(folder / "quoting.sock"),
        "owner_agent": agent,
        "recipient_agent": agent,
        "passports": str(folder / "passports"),
        "patience_s": patience_s,
        "runtime": runtime,
    }
    document = {"conn_type": "ppml", "host": broker, "password": TOKEN, "extra": extra}
    environment.setenv("AIRFLOW_CONN_PPML_DEFAULT", json.dumps(document))
