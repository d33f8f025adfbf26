"""Traces: one for a request and all that it sets off, and none that holds anybody up."""

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import orjson
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.core.asking import answers

if TYPE_CHECKING:
    from app.core.resources import Resources
    from tests.core.conftest import RunService

CALLER = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{CALLER}-b7ad6b7169203331-01"


class Span(NamedTuple):
    """A span as it arrived."""

    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    component: str
    failed: bool


class Collector(ThreadingHTTPServer):
    """Takes what an OpenTelemetry SDK sends by OTLP over HTTP."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Span] = []
        self.raw = b""

    @property
    def endpoint(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def named(self, name: str) -> list[Span]:
        """The spans of a name."""
        return [span for span in self.spans if span.name == name]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        assert self.headers["x-key"] == "open sesame"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.raw += body
        for part in ExportTraceServiceRequest.FromString(body).resource_spans:
            of_resource = _attributes(part.resource.attributes)
            for scope in part.scope_spans:
                self.server.spans += [
                    Span(
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        _attributes(span.attributes),
                        of_resource["service.component"],
                        span.status.code == 2,
                    )
                    for span in scope.spans
                ]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector of our own."""
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_one_trace_from_the_door_to_the_last_task(
    run_service: "RunService",
    resources: "Resources",
    collector: Collector,
    free_port: int,
    until: Callable[..., Any],
) -> None:
    """The API's span under the caller's, its SQL, the task in the worker with its SQL, and the task which that asked for.

    Every log line on the way names the trace; no span holds what people send; what is left is sent when a process ends.
    """
    otel = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=open sesame",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    worker = run_service("worker", "--concurrency", "1", **otel)
    api = run_service("serve", "--port", str(free_port), **{**otel, "OTEL_BSP_SCHEDULE_DELAY": "600000"})
    base = f"http://127.0.0.1:{free_port}"
    until(lambda: answers(f"{base}/health"))
    asked = {"traceparent": TRACEPARENT, "X-Request-ID": "request-of-nginx"}
    assert httpx.post(f"{base}/api/v1/probe/tasks?token=hunter2", headers=asked, timeout=10).status_code == 200
    assert httpx.post(f"{base}/api/v1/probe/fail", timeout=10).status_code == 500
    assert httpx.get(f"{base}/nothing/ada@example.com", timeout=10).status_code == 404
    until(lambda: collector.named("task probe.note"))
    assert not collector.named("POST /api/v1/probe/tasks")
    api.process.terminate()
    until(lambda: collector.named("POST /api/v1/probe/tasks"))

    (request,) = collector.named("POST /api/v1/probe/tasks")
    assert (request.trace, request.parent) == (CALLER, "b7ad6b7169203331")
    assert request.attributes["request.id"] == "request-of-nginx"
    assert request.attributes["http.response.status_code"] == 200
    below = [span for span in collector.spans if span.parent == request.id]
    assert any("INSERT INTO task_outbox" in span.attributes.get("db.statement", "") for span in below)
    (looked,) = [span for span in below if span.name == "task probe.look"]
    assert (looked.component, looked.trace) == ("worker", CALLER)
    assert looked.attributes["request.id"] == "request-of-nginx"
    within = [span for span in collector.spans if span.parent == looked.id]
    assert any(span.attributes.get("db.statement") == "SELECT 42 AS answer" for span in within)
    assert [span.name for span in within if span.name.startswith("task")] == ["task probe.note"]

    (failed,) = collector.named("POST /api/v1/probe/fail")
    assert failed.failed
    assert failed.trace != CALLER
    assert not request.failed
    assert not [span for span in collector.spans if "health" in span.name]
    for secret in (b"hunter2", b"ada@example.com"):
        assert secret not in collector.raw

    lines = [
        orjson.loads(line)
        for log in (api.log, worker.log)
        for line in log.read_bytes().splitlines()
        if line[:1] == b"{"
    ]
    ours = [(line["event"], line.get("trace_id")) for line in lines if line.get("request_id") == "request-of-nginx"]
    assert ("request", CALLER) in ours
    assert ("probe_looks", CALLER) in ours


@pytest.mark.parametrize("how", ["dead_port", "silent_port"])
def test_a_collector_that_is_away_holds_up_nobody(
    run_service: "RunService", request: pytest.FixtureRequest, free_port: int, until: Callable[..., Any], how: str
) -> None:
    """Refusing, or accepting and never answering: requests take as long as ever, and the process ends in time."""
    endpoint = f"http://127.0.0.1:{request.getfixturevalue(how)}"
    service = run_service(
        "serve",
        "--port",
        str(free_port),
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        OTEL_BSP_SCHEDULE_DELAY="50",
        OTEL_BSP_MAX_QUEUE_SIZE="16",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="8",
    )
    until(lambda: answers(f"http://127.0.0.1:{free_port}/health"))
    with httpx.Client(base_url=f"http://127.0.0.1:{free_port}", timeout=10) as client:
        slowest = 0.0
        for number in range(60):
            began = time.monotonic()
            assert client.get(f"/api/v1/probe/things/{number}").status_code == 200
            slowest = max(slowest, time.monotonic() - began)
    assert slowest < 4  # one that waits for the collector takes five (tracing.EXPORT_SECONDS)
    began = time.monotonic()
    service.process.terminate()
    assert service.process.wait(15) == 0
    assert time.monotonic() - began < 10
