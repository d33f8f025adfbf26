"""Error reports: none without an address; with one, each error once, and masked."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from app.core.tasks import celery_app, enqueue
from tests.core.asking import answers

if TYPE_CHECKING:
    from app.core.resources import Resources
    from tests.core.conftest import RunService


class Receiver(ThreadingHTTPServer):
    """Takes what an SDK sends to Sentry."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.items: list[tuple[str, dict[str, Any]]] = []

    @property
    def dsn(self) -> str:
        """The address that goes into SENTRY_DSN."""
        return f"http://public@127.0.0.1:{self.server_port}/1"

    def events(self) -> list[dict[str, Any]]:
        """The errors so far."""
        return [body for kind, body in self.items if kind == "event"]

    def check_ins(self) -> dict[str, str]:
        """What became of the periodic tasks that Sentry watches."""
        return {body["monitor_slug"]: body["status"] for kind, body in self.items if kind == "check_in"}


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        lines = body.split(b"\n")[1:]
        for header, payload in zip(lines[::2], lines[1::2], strict=False):
            if header:
                self.server.items.append((json.loads(header)["type"], json.loads(payload)))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A Sentry of our own."""
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_errors_of_the_api_arrive_once_and_masked(
    run_service: "RunService", receiver: Receiver, free_port: int, until: Callable[..., Any]
) -> None:
    """An unforeseen error is one report with release and environment; transactions carry no secret either."""
    run_service("serve", "--port", str(free_port), SENTRY_DSN=receiver.dsn)
    base = f"http://127.0.0.1:{free_port}"

    until(lambda: answers(f"{base}/health"))
    secrets = {"Authorization": "Bearer hunter33hunter33", "Cookie": "session=hunter44"}
    assert httpx.post(f"{base}/api/v1/probe/fail?email=bob@example.com", headers=secrets).status_code == 500
    assert httpx.get(f"{base}/nothing").status_code == 404
    assert httpx.post(f"{base}/api/v1/probe/things", json={}).status_code == 422
    until(receiver.events)
    until(lambda: sum(kind == "transaction" for kind, _ in receiver.items) >= 3)
    (event,) = receiver.events()
    assert event["exception"]["values"][-1]["type"] == "RuntimeError"
    assert event["environment"] == "development"
    assert "@" in event["release"]
    assert event["tags"]["service"] == "api"
    everything = json.dumps(receiver.items)
    for secret in ("hunter22", "hunter33", "hunter44", "ada@example.com", "bob@example.com"):
        assert secret not in everything, everything[
            max(0, everything.find(secret) - 300) : everything.find(secret) + 50
        ]


async def test_errors_of_tasks_arrive_masked(
    run_service: "RunService",
    receiver: Receiver,
    resources: "Resources",
    probe: ModuleType,
    eventually: Callable[..., Any],
) -> None:
    """A task that fails is reported from the worker's own process, though Celery never sees the exception.

    Neither the report nor the log holds what the task was asked with, not even of a message that nobody understands,
    which Celery quotes whole.
    """
    service = run_service("worker", "--concurrency", "1", SENTRY_DSN=receiver.dsn, LOG_LEVEL="DEBUG")
    async with resources.db.transaction() as session:
        enqueue(session, probe.fail, "bob@example.com")
    with celery_app(resources.settings) as sender:
        sender.send_task("probe.unknown", args=[{"password": "hunter33"}, "eve@example.com"], queue="high")
    await eventually(receiver.events)
    await eventually(
        lambda: b"probe.unknown" in service.log.read_bytes() and b"task_retried" in service.log.read_bytes()
    )
    event = next(event for event in receiver.events() if event["exception"]["values"][-1]["type"] == "RuntimeError")
    assert event["tags"]["service"] == "worker"
    everything = json.dumps(receiver.items) + service.log.read_text()
    for secret in ("ada@example.com", "bob@example.com", "eve@example.com", "hunter22", "hunter33"):
        assert secret not in everything, everything[
            max(0, everything.find(secret) - 300) : everything.find(secret) + 50
        ]
