"""Runs in the baked project with its Python: real neighbours, real servers, the same requests to each in turn.

Writes JSON: for each route the median of requests per second of processor, of the service and of the bare application.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

PROJECT = Path.cwd()
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(PROJECT))

from devstack import Stack  # noqa: E402  # the project is only now on the path
from devstack.ports import LOOPBACK, random_free  # noqa: E402
from statement import product_statement  # noqa: E402

CONNECTIONS = 8
# Requests of one round: about half a second of processor, fifty times what the kernel counts in.
REQUESTS = {"health": 4000, "search": 500}
PRODUCTION = {
    "ENVIRONMENT": "production",
    "BACKUP_ENCRYPTION": "off",  # nothing is backed up here, and production insists on keys
    "AI_ALLOW_OFFLINE": "true",
    "HTTP_ALLOWED_HOSTS": LOOPBACK,
    "HTTP_CORS_ORIGINS": "https://app.example.com",
    "LIMITS_PER_USER": "1000000000",  # counted as ever, and never reached
    "HTTP_WORKERS": "1",  # the process that was started is then the one that serves, and counts
}
# Longer than the measuring takes.
TOKEN = {"AUTH_ACCESS_TOKEN_MINUTES": "120"}
DOCUMENTS = 20
SECTIONS = 10
LIMIT = 5
START_SECONDS = 60
TICKS = os.sysconf("SC_CLK_TCK")
SUBJECTS = ["harbour", "lighthouse", "pump", "dock", "tide", "crane", "ferry", "cargo", "beacon", "anchor"]
QUERY = "which pump is tested before the tide turns"


@dataclass(frozen=True)
class Target:
    """A server process and what it is asked.

    Attributes:
        port: where it listens.
        pid: whose processor time counts.
        request: the bytes of one request.
    """

    port: int
    pid: int
    request: bytes

    def processor_seconds(self) -> float:
        """What the process has used so far, in user and system mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


class Connection(asyncio.Protocol):
    """Sends the same request again whenever an answer is complete, until enough are sent. Cheaper than any client library."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._received = b""
        self._expected = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        """Go on when the answer is whole."""
        self._received += data
        if not self._expected:
            head, found, _ = self._received.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self._load.fail(self._received)
                return
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self._expected = len(head) + 4 + int(length)
        if len(self._received) >= self._expected:
            self._load.body = self._received[self._received.index(b"\r\n\r\n") + 4 :]
            self._received, self._expected = b"", 0
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        """The server may not hang up before we do."""
        self._load.closed(error)

    def _next(self) -> None:
        if self._load.left:
            self._load.left -= 1
            self._transport.write(self._load.target.request)
        else:
            self._transport.close()


class Load:
    """A fixed number of requests over a few connections that stay open."""

    def __init__(self, target: Target, requests: int) -> None:
        self.target = target
        self.left = requests
        self.body = b""
        self._open = CONNECTIONS
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> bytes:
        """Send them all; returns the last answer's body."""
        loop = asyncio.get_running_loop()
        for _ in range(CONNECTIONS):
            await loop.create_connection(lambda: Connection(self), LOOPBACK, self.target.port)
        async with asyncio.timeout(300):
            await self._done
        return self.body

    def fail(self, answer: bytes) -> None:
        """Give up: a figure for errors is worth nothing."""
        if not self._done.done():
            self._done.set_exception(RuntimeError(f"answered: {answer[:500]!r}"))

    def closed(self, error: Exception | None) -> None:
        """One connection is through."""
        self._open -= 1
        if self.left or error:
            self.fail(repr(error).encode())
        elif not self._open and not self._done.done():
            self._done.set_result(None)


def main() -> None:
    """Measure both routes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--share", type=float, default=1.0, help="of the requests of a round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        parts = ("postgres", "cache", "broker", "storage", "api", "worker")
        with Stack(Path(name) / "stack", parts, TOKEN) as stack:
            token = fill(stack.url)
            stack.processes["worker"].stop()
            stack.processes["api"].stop()  # the one that is measured runs as in production
            print(json.dumps(measure(stack, token, options.rounds, options.share)))


def measure(stack: Stack, token: str, rounds: int, share: float) -> list[dict[str, Any]]:
    """Both routes, one after the other."""
    body = json.dumps({"query": QUERY, "limit": LIMIT}).encode()
    requests = {
        "health": http("GET", "/health"),
        "search": http("POST", "/api/v1/documents/search", body, f"Authorization: Bearer {token}"),
    }
    beside = {"health": "", "search": " with an asyncpg pool and the same statement"}
    ports = [random_free(set(stack.ports.values())) for _ in range(2)]
    listen = ("--host", LOOPBACK, "--port")
    found = []
    for route, request in requests.items():
        command = ("app.cli", "serve", *listen, str(ports[0]))
        with server(ports[0], request, {**stack.env, **PRODUCTION}, *command) as service:
            environment = {**stack.env, "PYTHONPATH": str(PROJECT), **bare_settings(stack, route, service)}
            command = (
                "uvicorn",
                f"bare:{route}",
                "--factory",
                "--app-dir",
                str(HERE),
                *listen,
                str(ports[1]),
            )
            quiet = ("--no-access-log", "--no-server-header", "--log-level", "warning")
            with server(ports[1], request, environment, *command, *quiet) as plain:
                found.append(compare(route, service, plain, rounds, max(50, int(REQUESTS[route] * share))))
        found[-1]["with"] = beside[route]
    return found


def compare(route: str, service: Target, plain: Target, rounds: int, requests: int) -> dict[str, Any]:
    """Alternating rounds, each server first every other time; the first round only warms up."""
    rates: dict[Target, list[float]] = {service: [], plain: []}
    bodies: dict[Target, bytes] = {}
    for number in range(rounds + 1):
        for target in (service, plain) if number % 2 else (plain, service):
            before = target.processor_seconds()
            bodies[target] = asyncio.run(drive(target, requests))
            rates[target].append(requests / (target.processor_seconds() - before))
    if bodies[service] != bodies[plain]:
        raise SystemExit(f"{route}: the payloads differ:\n{bodies[service]!r}\n{bodies[plain]!r}")
    return {
        "route": route,
        "service": median(rates[service][1:]),
        "bare": median(rates[plain][1:]),
        "bytes": len(bodies[service]),
    }


async def drive(target: Target, requests: int) -> bytes:
    """One round."""
    return await Load(target, requests).run()


def http(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    """A request as nginx would pass it on."""
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {LOOPBACK}",
        "X-Request-ID: 0123456789abcdef0123456789abcdef",
        "X-Forwarded-For: 203.0.113.7",
        "X-Forwarded-Proto: https",
        "Accept: application/json",
        *headers,
    ]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def server(port: int, request: bytes, environment: dict[str, str], *command: str) -> Iterator[Target]:
    """A server as one process of this Python, ready to answer the request."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL
    )
    target = Target(port, process.pid, request)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                asyncio.run(drive(target, CONNECTIONS))
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield target
    finally:
        process.terminate()
        process.wait()


def bare_settings(stack: Stack, route: str, service: Target) -> dict[str, str]:
    """What the bare application must know to answer with the same bytes."""
    if route == "health":
        return {"BARE_VERSION": call(f"http://{LOOPBACK}:{service.port}", "/health")["version"]}
    return {"BARE_SEARCH": json.dumps(plain_search(stack), default=str)}


def plain_search(stack: Stack) -> tuple[str, list[Any]]:
    """The statement of the search in PostgreSQL's own form, and its arguments but the limit, which comes last."""
    owner = stack.sql("SELECT owner_id FROM documents LIMIT 1", database=stack.env["DATABASE_NAME"])
    os.environ.update(stack.env)
    sql, arguments = asyncio.run(product_statement(QUERY, UUID(owner.strip()), LIMIT))
    return sql, arguments[:-1]


def fill(url: str) -> str:
    """Register somebody who uploads documents, wait until all can be found, and return the access token."""
    person = {"email": "bench@example.com", "password": "correct-horse-battery-staple"}
    call(url, "/api/v1/accounts/register", json.dumps(person).encode())
    token: str = call(url, "/api/v1/accounts/sign-in", json.dumps(person).encode())["access_token"]
    waiting = {upload(url, token, number) for number in range(DOCUMENTS)}
    deadline = time.monotonic() + START_SECONDS
    while waiting:
        if time.monotonic() > deadline:
            raise SystemExit(f"{len(waiting)} documents are not ready after {START_SECONDS} s")
        time.sleep(0.2)
        for document in list(waiting):
            if call(url, f"/api/v1/documents/{document}", token=token)["status"] == "ready":
                waiting.remove(document)
    return token


def upload(url: str, token: str, number: int) -> str:
    """Upload a document of several sections, each about something else; returns its id."""
    sections = [
        f"## {SUBJECTS[(number + section) % len(SUBJECTS)].title()} {section}\n\n"
        + " ".join(
            f"Every {SUBJECTS[(number * section + word) % len(SUBJECTS)]} of dock {number} is tested on day {word}."
            for word in range(15)
        )
        for section in range(SECTIONS)
    ]
    text = f"# Handbook {number}\n\n" + "\n\n".join(sections)
    head = f'--part\r\nContent-Disposition: form-data; name="file"; filename="handbook-{number}.md"\r\n'
    body = f"{head}Content-Type: text/markdown\r\n\r\n{text}\r\n--part--\r\n".encode()
    identifier: str = call(url, "/api/v1/documents", body, token, "multipart/form-data; boundary=part")["id"]
    return identifier


def call(
    url: str, path: str, body: bytes | None = None, token: str = "", content_type: str = "application/json"
) -> Any:
    """One request before the measuring."""
    if urlsplit(url).hostname != LOOPBACK:
        raise ValueError(url)
    request = urllib.request.Request(url + path, body, {"Content-Type": content_type})
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
