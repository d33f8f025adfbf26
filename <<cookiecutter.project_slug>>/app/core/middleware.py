"""What surrounds every request, as plain ASGI: one wrapper costs 3,000 instructions, a `BaseHTTPMiddleware` 571,000.

From the outside in: `NamedClient` (where set), `Edge` (request id, security headers, access log, metrics), `KnownHosts`,
`HttpsOnly`, `Cors`, `PerClient` (each where set), `LastResort`, and then the application. A request passes at its fullest: see
docs/architecture.md.
"""

import re
import sys
import time
from asyncio import CancelledError
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from uuid import uuid4

import structlog
from fastapi import FastAPI
from prometheus_client import Counter, Histogram
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core import metrics
from app.core.deadline import Deadline, DeadlineExceeded, Deadlines
from app.core.errors import MEDIA_TYPE, AppError, PayloadTooLarge, problem
from app.core.logging import client_address, json_line, request_id, trace_id, user_id
from app.core.masking import masked_text
from app.core.rate_limit import PerClient
from app.core.settings import Settings
from app.core.sse import STREAMED
from app.core.telemetry import capture

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
# Probes and scrapes come every few seconds and would be most of the log.
_QUIET_PATHS = frozenset({"/health", "/health/ready", "/metrics"})
_UNMATCHED = "unmatched"
_VARY_ORIGIN = (b"vary", b"Origin")
# Where in a request's scope its deadline is, its headers by name, and what `Cors` has to say in the answer.
DEADLINE = "app.deadline"
_HEADERS = "app.headers"
_OF_CORS = "app.cors"
RETRY_AFTER = [(b"retry-after", b"5")]
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})


def middleware(settings: Settings) -> list[Middleware]:
    """The stack for these settings, outermost first."""
    stack = [
        Middleware(Edge, hsts=settings.production, access_log=settings.log.format == "json"),
        Middleware(KnownHosts, hosts=settings.allowed_hosts),
    ]
    if settings.http.client_header:
        stack.insert(0, Middleware(NamedClient, header=settings.http.client_header))
    if settings.http.https_only:
        stack.append(Middleware(HttpsOnly))
    if settings.http.cors_origins:
        stack.append(Middleware(Cors, origins=settings.http.cors_origins))
    if settings.limits.per_client:
        stack.append(Middleware(PerClient, amount=settings.limits.per_client))
    http = settings.http
    return [
        *stack,
        Middleware(
            LastResort,
            deadlines=Deadlines(http.request_seconds),
            bodies=BodyLimit(http.max_body_bytes, http.request_seconds, http.upload_seconds),
        ),
    ]


def security_headers(hsts: bool) -> list[tuple[bytes, bytes]]:
    """Headers of every answer. An API renders nothing, so its policy allows nothing."""
    headers = [
        (
            b"content-security-policy",
            b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"strict-origin-when-cross-origin"),
        (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=()"),
        (b"cross-origin-opener-policy", b"same-origin"),
    ]
    if hsts:
        headers.append((b"strict-transport-security", b"max-age=63072000; includeSubDomains"))
    return headers


class NamedClient:
    """Takes the client's address from the header in which what stands in front always names it; nonsense is left aside."""

    def __init__(self, app: ASGIApp, header: str) -> None:
        self.app = app
        self._header = header.lower().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and (named := _header(scope, self._header)):
            with suppress(ValueError):
                scope["client"] = (str(ip_address(named.decode("latin-1").strip())), 0)
        await self.app(scope, receive, send)


class Edge:
    """Request id, security headers, access log and metrics in one pass."""

    def __init__(self, app: ASGIApp, hsts: bool, access_log: bool) -> None:
        self.app = app
        self._headers = security_headers(hsts)
        self._header_names = frozenset(dict(self._headers))
        self._write = sys.stdout.buffer.write if access_log else None
        self._flush = sys.stdout.buffer.flush
        # A labelled child is looked up under a lock; each is looked up once.
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._timers: dict[tuple[str, str], Histogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # its lines are written where it ends; see realtime
                request_id.set(_request_id(scope))
                user_id.set("")
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        current = _request_id(scope)
        request_id.set(current)
        user_id.set("")
        client_address.set(scope["client"][0] if scope["client"] else "")
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._complete(message, scope.get(_OF_CORS, ()), current)
                if DEADLINE in scope:
                    scope[DEADLINE].answered()
            await send(message)

        metrics.in_progress.value += 1
        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            metrics.in_progress.value -= 1
            self._record(scope, current, status or 500, time.perf_counter() - started)

    def _complete(self, message: Message, further: Sequence[tuple[bytes, bytes]], current: str) -> None:
        """Add what the answer does not say itself: /docs has a policy of its own."""
        present, added = dict(message["headers"]), self._headers
        if not self._header_names.isdisjoint(present):
            added = [header for header in added if header[0] not in present]
        message["headers"] = [*message["headers"], *added, *further, (b"x-request-id", current.encode())]

    def _record(self, scope: Scope, current: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", _UNMATCHED)
        # Methods are free text for a client; as labels they may not be.
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        counter = self._counters.get((method, route, status))
        if counter is None:
            counter = self._counters[method, route, status] = metrics.REQUESTS.labels(method, route, str(status))
        timer = self._timers.get((method, route))
        if timer is None:
            timer = self._timers[method, route] = metrics.REQUEST_SECONDS.labels(method, route)
        counter.inc()
        if STREAMED not in scope:
            timer.observe(seconds)
        if self._write and scope["path"] not in _QUIET_PATHS:
            # Straight to bytes: structlog's chain costs eight times this, for a line whose fields are known. The query
            # string stays out, because people put addresses and tokens there.
            client = scope["client"]
            self._write(
                json_line(
                    {
                        "event": "request",
                        "level": "info",
                        "service": "api",
                        "timestamp": datetime.now(UTC),
                        "request_id": current,
                        "user_id": user_id.get(),
                        "method": method,
                        # An address without parameters is the route itself, and holds nothing of anybody.
                        "path": scope["path"] if scope["path"] == route else masked_text(scope["path"]),
                        "route": route,
                        "status": status,
                        "milliseconds": int(seconds * 100_000) / 100,  # a tenth of what `round` costs
                        "client": client[0] if client else "",
                        **({"trace_id": trace} if (trace := trace_id.get()) else {}),
                    }
                )
                + b"\n"
            )
            self._flush()


class HostNames:
    """The names that a service has: exact ones, and with *. those of all subdomains."""

    def __init__(self, names: Sequence[str]) -> None:
        self.any = "*" in names
        self._exact = frozenset(name.encode().lower() for name in names)
        self._suffixes = tuple(name[1:].encode().lower() for name in names if name.startswith("*."))

    def __contains__(self, host: bytes) -> bool:
        """Whether `host`, which may have a port, is one of them."""
        if self.any or host in self._exact:
            return True
        name = re.sub(rb":\d+$", b"", host.lower())
        return name in self._exact or bool(self._suffixes and name.endswith(self._suffixes))


class KnownHosts:
    """Answers only to names it was given, so that a forged Host header cannot end up in a link or a cache."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app = app
        self._hosts = HostNames(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or _header(scope, b"host") in self._hosts:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _answer(send, 421, "misdirected_request", "This server does not answer to that name.")


class HttpsOnly:
    """Sends a client to HTTPS who came without it. Whoever names no protocol is a probe from within the platform."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or _header(scope, b"x-forwarded-proto") != b"http":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            query = b"?" + scope["query_string"] if scope["query_string"] else b""
            place = b"https://" + _header(scope, b"host") + scope["raw_path"] + query
            await _answer(send, 308, "https_only", "Come by HTTPS.", [(b"location", place)])


class Cors(CORSMiddleware):
    """Starlette's, which answers the preflights; what an ordinary answer says is made once and not at every request.

    Passed by when the request names no origin, as those of servers and of our own pages do not.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key"],
            expose_headers=[
                "X-Request-ID",
                "Location",
                "Retry-After",
                "Link",
                "Idempotency-Replayed",
                "RateLimit",
                "RateLimit-Policy",
            ],
            max_age=600,
        )
        exposed = [(name.lower().encode(), value.encode()) for name, value in self.simple_headers.items()]
        if self.allow_all_origins:
            origins, self._others = (), exposed
        else:
            self._others = [_VARY_ORIGIN]
        self._allowed = {
            origin.encode(): [(b"access-control-allow-origin", origin.encode()), _VARY_ORIGIN, *exposed]
            for origin in origins
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = _header(scope, b"origin") if scope["type"] == "http" else b""
        if not origin:
            await self.app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await super().__call__(scope, receive, send)
            return
        # `Edge` adds them: it looks at the beginning of every answer anyway.
        scope[_OF_CORS] = self._allowed.get(origin, self._others)
        await self.app(scope, receive, send)


class LastResort:
    """Logs and answers what nobody handled, took too long or is too large. Within `Cors`, so that a browser may read that too."""

    def __init__(self, app: ASGIApp, deadlines: Deadlines, bodies: "BodyLimit") -> None:
        self.app = app
        self._deadlines = deadlines
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # `Edge` sees the answer begin, and notes it there.
        deadline = scope[DEADLINE] = self._deadlines.begin()
        try:
            if scope["method"] not in _WITHOUT_BODY:
                if self._bodies.announced_too_large(scope):
                    detail = f"The request is larger than {self._bodies.max_bytes} bytes."
                    await _answer(send, 413, PayloadTooLarge.code(), detail)
                    return
                receive = self._bodies.counted(receive, deadline)
            await self.app(scope, receive, send)
        except (Exception, CancelledError) as error:  # whatever it is
            if deadline.over and not deadline.begun:
                log.warning("request_too_slow", path=scope["path"])
                await _answer(send, 503, DeadlineExceeded.code(), DeadlineExceeded.detail, RETRY_AFTER)
                return
            if isinstance(error, CancelledError):
                raise
            log.exception("request_failed", path=scope["path"])
            capture(error)
            if deadline.begun:
                raise
            await _answer(send, 500, "internal_error", AppError.detail)
        finally:
            self._deadlines.end(deadline)


class BodyLimit:
    """Refuses a body that is announced or turns out to be too large, before it is all in memory.

    And lets one come in slowly: while it does, it has a deadline of its own.
    """

    def __init__(self, max_bytes: int, seconds: float, upload_seconds: float) -> None:
        self.max_bytes = max_bytes
        self._seconds = seconds
        self._upload_seconds = upload_seconds

    def announced_too_large(self, scope: Scope) -> bool:
        """Whether the request says so itself."""
        announced = _header(scope, b"content-length")
        # Its first 20 digits are more than enough; Python refuses to read thousands of them.
        return announced.isdigit() and int(announced[:20]) > self.max_bytes

    def counted(self, receive: Receive, deadline: Deadline) -> Receive:
        """`receive`, which raises a 413 once too much has come, and moves the deadline while something comes."""
        received = 0
        coming_in_until = time.monotonic() + self._upload_seconds

        async def receive_counted() -> Message:
            nonlocal received, coming_in_until
            if coming_in_until:
                deadline.move(coming_in_until)
            message = await receive()
            if message["type"] == "http.request":
                if coming_in_until and not message.get("more_body"):
                    coming_in_until = 0.0
                    deadline.move(time.monotonic() + self._seconds)
                received += len(message.get("body", b""))
                if received > self.max_bytes:
                    # The one exception that FastAPI lets through from reading a form.
                    raise HTTPException(413)
            return message

        return receive_counted


def install_middleware(app: FastAPI, settings: Settings, within_edge: Sequence[Middleware] = ()) -> None:
    """Put the stack around `app`, with what comes right after the outermost, if anything."""
    edge, *others = middleware(settings)
    app.user_middleware[:0] = [edge, *within_edge, *others]


async def _answer(send: Send, status: int, code: str, detail: str, further: Sequence[tuple[bytes, bytes]] = ()) -> None:
    body = problem(status, code, detail)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode()), *further]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _header(scope: Scope, name: bytes) -> bytes:
    headers: dict[bytes, bytes] | None = scope.get(_HEADERS)
    if headers is None:  # half of what looking through the list costs each wrapper anew
        # Backwards, so that of several the first one counts, as for Starlette.
        headers = scope[_HEADERS] = dict(reversed(scope["headers"]))
    return headers.get(name, b"")


def _request_id(scope: Scope) -> str:
    """The id that nginx made, if it looks like one; else a new one."""
    given = _header(scope, b"x-request-id")
    return given.decode() if _REQUEST_ID.fullmatch(given) else uuid4().hex
