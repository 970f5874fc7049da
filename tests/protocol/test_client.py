"""The client against a real server that answers whatever a test gives it, over TCP and over a Unix socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

import pytest

from ppml_airflow import canonical
from ppml_airflow.errors import (
    BY_KIND,
    ConfigurationError,
    MalformedInputError,
    PolicyDeniedError,
    PpmlError,
    UnavailableError,
)
from ppml_airflow.protocol.client import BrokerClient, JsonClient
from ppml_airflow.protocol.messages import OpenRun, Published
from ppml_airflow.protocol.problems import problem_answer
from ppml_airflow.signing import SigningKey, sign_payload

PUBLISHED = Published(dataset="visits", version=3, manifest="sha256:" + "a" * 64)


class Server:
    """Answers every request with one status and body, and remembers what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b"{}"
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, str, bytes, dict[str, str]]] = []

    def handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.asked.append((self.command, self.path, body, dict(self.headers)))
                self.send_response(server.status)
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(server.body)))
                self.end_headers()
                self.wfile.write(server.body)

            do_POST = do_GET  # noqa: N815

            def address_string(self) -> str:
                return "test"

            def log_message(self, *args: object) -> None:
                pass

        return Handler


class _UnixServer(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), server.handler()) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture
def unix_url(server: Server, tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "broker.sock"
    with _UnixServer(str(path), server.handler()) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"unix:{path}"
        http.shutdown()
        thread.join()


def test_answer_is_decoded_over_http(server: Server, url: str) -> None:
    server.body = canonical.encode(PUBLISHED)
    with JsonClient(url) as client:
        assert client.call("GET", "/x", into=Published) == PUBLISHED


def test_answer_is_decoded_over_a_unix_socket(server: Server, unix_url: str) -> None:
    server.body = canonical.encode(PUBLISHED)
    with JsonClient(unix_url) as client:
        assert client.call("GET", "/x", into=Published) == PUBLISHED


def test_request_is_canonical_json_with_the_callers_token(server: Server, url: str) -> None:
    request = OpenRun(pipeline="nightly", slot=None, params={"b": 1, "a": True}, claimed={"run_id": "x", "dag_id": "d"})
    with BrokerClient(url, token="secret") as client, pytest.raises(MalformedInputError):
        client.open_run(request)
    method, path, body, headers = server.asked[0]
    assert (method, path) == ("POST", "/ppml/v1/runs")
    assert body == canonical.encode(request)
    assert headers["Authorization"] == "Bearer secret"
    assert headers["Content-Type"] == "application/json"


def test_client_without_a_token_sends_none(server: Server, url: str) -> None:
    with JsonClient(url) as client:
        client.call("GET", "/x", into=dict)
    assert "Authorization" not in server.asked[0][3]


def test_name_in_a_path_cannot_leave_it(server: Server, url: str) -> None:
    server.body = b"null"
    with BrokerClient(url) as client:
        assert client.head("a?b#c") is None
    assert server.asked[0][1] == "/ppml/v1/datasets/a%3Fb%23c/head"


def test_published_manifest_travels_as_its_envelope(server: Server, unix_url: str) -> None:
    server.body = canonical.encode(PUBLISHED)
    envelope = sign_payload(b"{}", payload_type="test", keys=(SigningKey.generate(),))
    with BrokerClient(unix_url) as client:
        assert client.publish(envelope) == PUBLISHED
    assert canonical.decode(server.asked[0][2], into=type(envelope)) == envelope


@pytest.mark.parametrize("kind", sorted(BY_KIND))
def test_error_of_the_service_is_raised_as_the_class_that_it_was(server: Server, url: str, kind: str) -> None:
    error = BY_KIND[kind]("run x is closed", code="run_closed", hint="trigger a new run")
    server.status, server.body = problem_answer(error)
    with JsonClient(url) as client, pytest.raises(BY_KIND[kind]) as raised:
        client.call("GET", "/x", into=Published)
    assert type(raised.value) is BY_KIND[kind]
    assert (raised.value.message, raised.value.code, raised.value.hint) == (error.message, error.code, error.hint)


def test_each_kind_of_error_has_its_own_status() -> None:
    statuses = {problem_answer(kind("x"))[0] for kind in (*BY_KIND.values(), PpmlError)}
    assert statuses == {400, 401, 403, 422, 500, 503}


def test_error_of_an_unknown_class_is_not_retryable(server: Server, url: str) -> None:
    server.status, server.body = problem_answer(PpmlError("x", code="odd"))
    server.body = server.body.replace(b'"PpmlError"', b'"KeyboardInterrupt"')
    with JsonClient(url) as client, pytest.raises(PpmlError) as raised:
        client.call("GET", "/x", into=Published)
    assert type(raised.value) is PpmlError
    assert raised.value.code == "odd"


def test_server_error_without_a_reason_is_unavailable(server: Server, url: str) -> None:
    server.status, server.body = 502, b"<html>Bad gateway</html>"
    with JsonClient(url) as client, pytest.raises(UnavailableError):
        client.call("GET", "/x", into=Published)


def test_client_error_without_a_reason_is_a_wrong_configuration(server: Server, url: str) -> None:
    server.status, server.body = 404, b'{"detail":"Not Found"}'
    with JsonClient(url) as client, pytest.raises(ConfigurationError) as raised:
        client.call("GET", "/x", into=Published)
    assert raised.value.code == "http_404"


def test_redirect_is_not_followed(server: Server, url: str) -> None:
    server.status, server.headers = 307, {"Location": "http://127.0.0.1:1/"}
    with JsonClient(url) as client, pytest.raises(PpmlError):
        client.call("GET", "/x", into=Published)
    assert len(server.asked) == 1


def test_service_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with JsonClient(f"http://127.0.0.1:{unused.getsockname()[1]}") as client, pytest.raises(UnavailableError):
            client.call("GET", "/x", into=Published)
    with JsonClient(f"unix:{tmp_path}/none.sock") as client, pytest.raises(UnavailableError):
        client.call("GET", "/x", into=Published)


def test_service_that_does_not_answer_in_time_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with JsonClient(url, timeout_s=0.1) as client, pytest.raises(UnavailableError):
            client.call("GET", "/x", into=Published)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b'{"dataset":"visits","manifest":"sha256:' + b"a" * 64 + b'","version":3,"more":1}',
        b'{"manifest":"sha256:' + b"a" * 64 + b'","dataset":"visits","version":3}',
        b'{"dataset":"visits","manifest":"md5:1","version":3}',
        b'{"dataset":"visits","manifest":"sha256:' + b"a" * 64 + b'","version":3.5}',
        b'{"dataset":"visits", "manifest":"sha256:' + b"a" * 64 + b'","version":3}',
        b"\xff\xfe",
    ],
    ids=["empty", "text", "list", "unknown-field", "unsorted", "bad-digest", "float", "space", "not-utf8"],
)
def test_malformed_answer_is_refused(server: Server, url: str, body: bytes) -> None:
    server.body = body
    with JsonClient(url) as client, pytest.raises(MalformedInputError):
        client.call("GET", "/x", into=Published)


def test_answer_in_a_broken_encoding_is_refused(server: Server, url: str) -> None:
    server.body, server.headers = b"not gzip", {"Content-Encoding": "gzip"}
    with JsonClient(url) as client, pytest.raises(MalformedInputError):
        client.call("GET", "/x", into=Published)


@pytest.mark.parametrize("address", ["ftp://host", "host:80", "unix:relative.sock", "", "http://", "http://host:x"])
def test_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError), JsonClient(address) as client:
        client.call("GET", "/x", into=Published)


def test_challenge_without_a_salt_is_refused(server: Server, url: str) -> None:
    server.body = canonical.encode({"nonce": "x", "extra-params": {}})
    with BrokerClient(url) as client, pytest.raises(MalformedInputError):
        client.auth(tee="sgx", binding="sha256:" + "0" * 64)


def test_denied_publish_says_why(server: Server, url: str) -> None:
    server.status, server.body = problem_answer(PolicyDeniedError("head moved", code="not_next"))
    envelope = sign_payload(b"{}", payload_type="test", keys=(SigningKey.generate(),))
    with BrokerClient(url) as client, pytest.raises(PolicyDeniedError, match="head moved"):
        client.publish(envelope)
