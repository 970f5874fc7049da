"""A small broker over real HTTP that keeps heads, runs and releases in memory, and can be told to misbehave."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Run
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, PpmlError
from ppml_airflow.protocol.messages import DomainView, Published, ReleaseAnswer, ReleaseRequest, RunView
from ppml_airflow.protocol.problems import problem_answer
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.signing import Envelope, verify_envelope
from tests.support.owners import Owners


class FakeBroker:
    """Serves on a free port of 127.0.0.1 while entered.

    `before_publish` runs before a manifest is judged: another producer may win the race there, or an error be raised.
    `answer_sealed` answers what was published for a run.
    `lose_replies` counts publishes that are committed, whose answers are never sent.
    """

    def __init__(self, owners: Owners) -> None:
        self.owners = owners
        self.certificates = owners.certificates
        self.domain = owners.domain
        self.runs: dict[str, Envelope] = {}
        self.manifests: dict[str, Envelope] = {}
        self.heads: dict[str, Manifest] = {}
        self.releases: dict[tuple[str, str], Callable[[ReleaseRequest], ReleaseAnswer]] = {}
        self.before_publish: Callable[[Manifest], None] = lambda manifest: None
        self.answer_sealed = self.sealed
        self.lose_replies = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def open_run(self, run: Run | None = None) -> str:
        """Sign a run and serve it."""
        run = run or self.owners.run()
        self.runs[run.run_id] = self.owners.broker.sign(run)
        return run.run_id

    def commit(self, envelope: Envelope) -> Published:
        """Move the head to a manifest, whoever signed it."""
        manifest = canonical.decode(envelope.payload, into=Manifest)
        head = self.heads.get(manifest.dataset)
        wanted = (head.version + 1, canonical.digest(head)) if head else (1, None)
        if envelope.digest not in self.manifests:
            if (manifest.version, manifest.prev) != wanted:
                raise PolicyDeniedError(f"manifest is version {manifest.version}, wanted {wanted[0]}", code="not_next")
            self.manifests[envelope.digest] = envelope
            self.heads[manifest.dataset] = manifest
        return Published(dataset=manifest.dataset, version=manifest.version, manifest=envelope.digest)

    def sealed(self, run_id: str, dataset: str) -> Envelope | None:
        """The manifest that was published for a run."""
        for envelope in self.manifests.values():
            manifest = canonical.decode(envelope.payload, into=Manifest)
            if (manifest.run_id, manifest.dataset) == (run_id, dataset):
                return envelope
        return None

    # ---------------------------------------------------------------- routes

    def get(self, parts: list[str]) -> object:
        match parts:
            case ["domain"]:
                return self._domain_view()
            case ["runs", run_id]:
                return self._run_view(run_id)
            case ["runs", run_id, "sealed", dataset]:
                return self.answer_sealed(run_id, dataset)
            case ["datasets", dataset, "head"]:
                head = self.heads.get(dataset)
                return self.manifests[canonical.digest(head)] if head else None
            case ["manifests", digest]:
                return self.manifests[digest]
        raise ConfigurationError("no such route", code="not_found")

    def post(self, parts: list[str], body: bytes) -> object:
        if parts == ["manifests"]:
            return self._publish(canonical.decode(body, into=Envelope))
        if parts == ["releases"]:
            request = canonical.decode(body, into=ReleaseRequest)
            if (request.run_id, request.dataset) not in self.releases:
                raise PolicyDeniedError("output is not committed", code="not_committed")
            return self.releases[request.run_id, request.dataset](request)
        raise ConfigurationError("no such route", code="not_found")

    def _publish(self, envelope: Envelope) -> Published | None:
        manifest = verify_envelope(envelope, into=Manifest, keys=(self.owners.producer.public,))
        self.before_publish(manifest)
        published = self.commit(envelope)
        if self.lose_replies:
            self.lose_replies -= 1
            raise ConnectionAbortedError
        return published

    def _domain_view(self) -> DomainView:
        return DomainView(
            domain_id=self.domain.domain_id,
            name=self.domain.name,
            trust=self.domain.trust,
            roots=self.domain.roots,
            threshold=self.domain.threshold,
            certificates=tuple(self.certificates),
        )

    def _run_view(self, run_id: str) -> RunView:
        if run_id not in self.runs:
            raise ConfigurationError(f"run {run_id} is not known here", code="run_unknown")
        run = canonical.decode(self.runs[run_id].payload, into=Run)
        return RunView(
            run=self.runs[run_id],
            run_id=run_id,
            pipeline=run.pipeline,
            slot=run.slot,
            state="open",
            trust="simulated",
            steps=(),
        )


def _handler(broker: FakeBroker) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(lambda: broker.get(self._parts()))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(lambda: broker.post(self._parts(), body))

        def _parts(self) -> list[str]:
            return [unquote(part) for part in self.path.removeprefix("/ppml/v1/").split("/")]

        def _answer(self, work: Callable[[], object]) -> None:
            try:
                status, body = 200, canonical.encode(work())
            except PpmlError as error:
                status, body = problem_answer(error)
            except ConnectionAbortedError:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    return Handler
