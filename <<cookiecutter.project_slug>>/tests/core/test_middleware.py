"""What surrounds every request."""

import re
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest

from app.core.middleware import HttpsOnly, KnownHosts

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.core.resources import Resources
    from app.core.settings import Settings
    from tests.core.conftest import SettingsWith

SECURITY = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "strict-origin-when-cross-origin",
    "cross-origin-opener-policy": "same-origin",
}
Build = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def build(
    make_app: "Callable[[Settings], FastAPI]", settings_with: "SettingsWith", resources: "Resources"
) -> AsyncIterator[Build]:
    """Makes a client of an API whose settings differ: `build(HTTP_DOCS="false")`."""
    clients: list[httpx.AsyncClient] = []

    def make(**changed: object) -> httpx.AsyncClient:
        app = make_app(settings_with(**changed))
        app.state.resources = resources
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://localhost"))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


async def every_status(web: httpx.AsyncClient) -> dict[int, httpx.Response]:
    """An answer of each kind."""
    return {
        200: await web.get("/health"),
        404: await web.get("/nothing"),
        405: await web.put("/health"),
        413: await web.post("/api/v1/probe/things", headers={"Content-Length": "999999999"}),
        421: await web.get("/health", headers={"Host": "evil.example.com"}),
        422: await web.post("/api/v1/probe/things", json={}),
        500: await web.post("/api/v1/probe/fail"),
    }


async def test_every_answer_has_security_headers_and_a_request_id(web: httpx.AsyncClient) -> None:
    """Whoever made the answer - a route, FastAPI, a middleware or the last resort."""
    for status, response in (await every_status(web)).items():
        assert response.status_code == status
        assert SECURITY.items() <= dict(response.headers).items(), status
        assert "strict-transport-security" not in response.headers
        assert "server" not in response.headers
        assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])
        assert len(response.headers.get_list("x-request-id")) == 1
        if status >= 400:
            assert response.headers["content-type"] == "application/problem+json"
            body = response.json()
            assert (body["status"], body["request_id"]) == (status, response.headers["x-request-id"])


async def test_a_good_request_id_is_kept(web: httpx.AsyncClient) -> None:
    """nginx made it, and its log and ours are about the same request."""
    for given in ("a1b2c3d4", "6f1d0c3e-7a55-4a39-9f4e-0d6b1f0c2a11", "x" * 64):
        response = await web.get("/nothing", headers={"X-Request-ID": given})
        assert response.headers["x-request-id"] == given == response.json()["request_id"]


@pytest.mark.parametrize(
    "given", ["short", "x" * 65, "has space here", "new\tline-tab", "ünïcödé-request", "", '"},{"a":"']
)
async def test_a_bad_request_id_is_replaced(web: httpx.AsyncClient, given: str) -> None:
    """It goes into logs and headers, so nothing odd may be in it."""
    response = await web.get("/health", headers=[(b"X-Request-ID", given.encode())])
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


async def test_two_requests_have_two_ids(web: httpx.AsyncClient) -> None:
    """Without one given, each gets its own."""
    ids = {(await web.get("/health")).headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20


async def test_hsts_only_in_production(build: Build) -> None:
    """Development has no TLS that a browser could be told to insist on."""
    production = build(
        ENVIRONMENT="production", AI_ALLOW_OFFLINE="true", HTTP_ALLOWED_HOSTS="localhost", BACKUP_ENCRYPTION="off"
    )
    response = await production.get("/health")
    assert response.headers["strict-transport-security"] == "max-age=63072000; includeSubDomains"
    assert (await production.get("/docs")).status_code == 404
    assert (await production.get("/openapi.json")).status_code == 404


async def test_the_page_of_docs_has_a_policy_of_its_own(web: httpx.AsyncClient) -> None:
    """One policy, not two that a browser would have to combine; everything else stays strict."""
    response = await web.get("/docs")
    assert response.status_code == 200
    assert len(response.headers.get_list("content-security-policy")) == 1
    assert "cdn.jsdelivr.net" in response.headers["content-security-policy"]
    assert response.headers["x-frame-options"] == "DENY"


class TestCors:
    """Browser applications on other origins."""

    ORIGIN = "https://app.example.com"

    async def test_the_named_origin_may(self, build: Build) -> None:
        """Preflight and the request itself, and it may read the request's id."""
        client = build(HTTP_CORS_ORIGINS=f"https://other.example.com,{self.ORIGIN}")
        asked = {"Origin": self.ORIGIN, "Access-Control-Request-Method": "POST"}
        preflight = await client.options(
            "/api/v1/probe/things", headers={**asked, "Access-Control-Request-Headers": "authorization"}
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == self.ORIGIN
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert SECURITY.items() <= dict(preflight.headers).items()
        simple = await client.post("/api/v1/probe/things", json={"name": "x"}, headers={"Origin": self.ORIGIN})
        assert simple.status_code == 200
        assert simple.headers["access-control-allow-origin"] == self.ORIGIN
        assert "X-Request-ID" in simple.headers["access-control-expose-headers"]
        assert "Origin" in simple.headers["vary"]

    async def test_errors_are_readable_too(self, build: Build) -> None:
        """An application that cannot read an error can only say that something failed."""
        client = build(HTTP_CORS_ORIGINS=self.ORIGIN)
        for path, status in (("/api/v1/probe/things", 422), ("/api/v1/probe/fail", 500), ("/api/v1/nothing", 404)):
            response = await client.post(path, json={}, headers={"Origin": self.ORIGIN})
            assert response.status_code == status
            assert response.headers.get("access-control-allow-origin") == self.ORIGIN, status

    async def test_a_foreign_origin_may_not(self, build: Build) -> None:
        """The answer lets no other origin read it."""
        client = build(HTTP_CORS_ORIGINS=self.ORIGIN)
        for origin in ("https://evil.example.com", "null", f"{self.ORIGIN}.evil.com", "http://app.example.com"):
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            preflight = await client.options("/api/v1/probe/things", headers=asked)
            assert preflight.status_code == 400
            assert "access-control-allow-origin" not in preflight.headers
            simple = await client.get("/health", headers={"Origin": origin})
            assert "access-control-allow-origin" not in simple.headers

    async def test_nobody_may_unless_named(self, web: httpx.AsyncClient) -> None:
        """No setting, no header."""
        response = await web.get("/health", headers={"Origin": self.ORIGIN})
        assert not [name for name in response.headers if name.startswith("access-control")]


class TestHosts:
    """Only names that were given are answered to."""

    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST", "localhost:8000", "127.0.0.1:80", "[::1]", "[::1]:8000"]
    )
    async def test_known(self, web: httpx.AsyncClient, host: str) -> None:
        """With or without port, in any case."""
        assert (await web.get("/health", headers={"Host": host})).status_code == 200

    @pytest.mark.parametrize(
        "host", ["evil.example.com", "localhost.evil.com", "", "localhost@evil.com", "localhost:x", "*"]
    )
    async def test_unknown(self, web: httpx.AsyncClient, host: str) -> None:
        """421, as a problem document."""
        response = await web.get("/health", headers={"Host": host})
        assert (response.status_code, response.json()["code"]) == (421, "misdirected_request")

    async def test_subdomains(self, build: Build) -> None:
        """*.example.com is every name below, not example.com itself and not one that only ends alike."""
        client = build(HTTP_ALLOWED_HOSTS="*.example.com")
        statuses = {
            host: (await client.get("/health", headers={"Host": host})).status_code
            for host in (
                "a.example.com",
                "a.b.example.com:443",
                "example.com",
                "badexample.com",
                "a.example.com.evil.com",
            )
        }
        assert statuses == {
            "a.example.com": 200,
            "a.b.example.com:443": 200,
            "example.com": 421,
            "badexample.com": 421,
            "a.example.com.evil.com": 421,
        }

    async def test_any(self, build: Build) -> None:
        """A star lets every name in, which production refuses."""
        assert (await build(HTTP_ALLOWED_HOSTS="*").get("/health", headers={"Host": "x.y"})).status_code == 200

    async def test_a_websocket_of_a_stranger_is_closed(self) -> None:
        """It has no status to answer with."""
        sent: list[Any] = []

        async def application(*_: Any) -> None:
            raise AssertionError("reached")

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        scope = {"type": "websocket", "headers": [(b"host", b"evil.example.com")]}
        await KnownHosts(application, ["localhost"])(scope, receive, send)
        assert sent == [{"type": "websocket.close", "code": 1008}]


class TestBehindSomethingElse:
    """Where no nginx stands in front."""

    async def test_the_client_is_whom_the_header_names(self, build: Build) -> None:
        """Limits count by it, however often it is written otherwise elsewhere; and nonsense names nobody."""
        client = build(HTTP_CLIENT_HEADER="X-Real-IP", LIMITS_PER_CLIENT=1, LIMITS_PER_USER=0)

        async def statuses(*names: str) -> list[int]:
            return [
                (await client.get("/nothing", headers={"X-Real-IP": name, "X-Forwarded-For": str(number)})).status_code
                for number, name in enumerate(names)
            ]

        assert await statuses("198.51.100.7", "198.51.100.7", "198.51.100.8") == [404, 429, 404]
        assert await statuses("2001:db8::1", "2001:0db8:0::1", "2001:db8:1::1") == [404, 429, 404]
        assert await statuses("nonsense", "other nonsense") == [404, 429]

    async def test_without_https_everybody_is_sent_there(self, build: Build) -> None:
        """With the same path and query; a probe names no protocol and is answered."""
        client = build(HTTP_HTTPS_ONLY="true")
        for method in ("GET", "POST"):
            plain = await client.request(method, "/health%20?a=1&b=%2F", headers={"X-Forwarded-Proto": "http"})
            assert (plain.status_code, plain.headers["location"]) == (308, "https://localhost/health%20?a=1&b=%2F")
        assert (await client.get("/health", headers={"X-Forwarded-Proto": "https"})).status_code == 200
        assert (await client.get("/health")).status_code == 200
        forged = await client.get("/health", headers={"X-Forwarded-Proto": "http", "Host": "evil.example.com"})
        assert forged.status_code == 421

    async def test_a_websocket_without_https_is_closed(self) -> None:
        """It has no status to answer with."""
        sent: list[Any] = []

        async def application(*_: Any) -> None:
            raise AssertionError("reached")

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        scope = {"type": "websocket", "headers": [(b"x-forwarded-proto", b"http")]}
        await HttpsOnly(application)(scope, receive, send)
        assert sent == [{"type": "websocket.close", "code": 1008}]


class TestBodyLimit:
    """A body may be as large as the setting says and not one byte larger."""

    async def test_announced(self, build: Build) -> None:
        """Refused before a byte is read."""
        client = build(HTTP_MAX_BODY_BYTES=100)
        exact = await client.post("/api/v1/probe/stream", content=b"x" * 100)
        assert (exact.status_code, exact.json()) == (200, {"bytes": 100})
        over = await client.post("/api/v1/probe/stream", content=b"x" * 101)
        assert (over.status_code, over.json()["code"]) == (413, "payload_too_large")

    @pytest.mark.parametrize("length", ["9" * 30, "9" * 5000])
    async def test_announced_beyond_all_numbers(self, web: httpx.AsyncClient, length: str) -> None:
        """Python refuses to read numbers of more than 4300 digits; that is no fault of ours."""
        response = await web.post("/api/v1/probe/stream", content=b"x", headers={"Content-Length": length})
        assert response.status_code == 413

    @pytest.mark.parametrize("path", ["stream", "things", "files"])
    async def test_in_pieces(self, build: Build, path: str) -> None:
        """Without an announced length the bytes are counted, and reading ends once there are too many."""
        client = build(HTTP_MAX_BODY_BYTES=1000)
        taken = 0
        kind = "multipart/form-data; boundary=x" if path == "files" else "application/json"

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal taken
            if path == "files":
                yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            for _ in range(100):
                taken += 100
                yield b"x" * 100

        response = await client.post(f"/api/v1/probe/{path}", content=pieces(), headers={"Content-Type": kind})
        assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")
        assert taken <= 1200

    async def test_a_body_below_in_pieces(self, build: Build) -> None:
        """The negative: pieces that fit are put together."""

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(10):
                yield b"x" * 10

        response = await build(HTTP_MAX_BODY_BYTES=100).post("/api/v1/probe/stream", content=pieces())
        assert response.json() == {"bytes": 100}


class TestAccessLog:
    """One line of JSON for each request."""

    @staticmethod
    def lines(written: bytes) -> list[dict[str, Any]]:
        """The access log's lines out of everything written."""
        parsed = [orjson.loads(line) for line in written.splitlines() if line.startswith(b"{")]
        return [line for line in parsed if line["event"] == "request"]

    async def test_fields(
        self, capsysbinary: pytest.CaptureFixture[bytes], build: Build, auth_headers: dict[str, str], principal: Any
    ) -> None:
        """Who, what, how long, and what became of it; never the query string."""
        client = build()
        await client.get("/api/v1/probe/things/7?at_most=5&token=hunter2", headers={"X-Request-ID": "abcdefgh"})
        await client.get("/api/v1/probe/staff", headers=auth_headers)
        written = capsysbinary.readouterr().out
        first, second = self.lines(written)
        assert first.pop("milliseconds") >= 0
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", first.pop("timestamp"))
        assert first == {
            "event": "request",
            "level": "info",
            "service": "api",
            "request_id": "abcdefgh",
            "user_id": "",
            "method": "GET",
            "path": "/api/v1/probe/things/7",
            "route": "/api/v1/probe/things/{number}",
            "status": 200,
            "client": "127.0.0.1",
        }
        assert (second["user_id"], second["status"]) == (str(principal.id), 403)
        assert not [line for line in written.splitlines() if b"hunter2" in line and b'"event":"request"' in line]

    async def test_personal_data_in_a_path_is_masked(
        self, capsysbinary: pytest.CaptureFixture[bytes], build: Build
    ) -> None:
        """Whoever puts an address there has it neither in the log nor, as a label, in the metrics."""
        client = build()
        await client.get("/api/v1/probe/things/ada@example.com")
        await client.get("/nothing/4111111111111111")
        metrics = (await client.get("/metrics")).content
        written = capsysbinary.readouterr().out
        paths = [line["path"] for line in self.lines(written)]
        assert paths == ["/api/v1/probe/things/***", "/nothing/***"]
        for secret in (b"ada@example.com", b"4111111111111111"):
            assert secret not in written + metrics

    async def test_probes_are_quiet(self, capsysbinary: pytest.CaptureFixture[bytes], build: Build) -> None:
        """They come every few seconds; but what a stranger asks for is written, even if it is not there."""
        client = build()
        for path in ("/health", "/health/ready", "/metrics", "/health/detailed", "/no%0Athing"):
            await client.get(path)
        paths = [line["path"] for line in self.lines(capsysbinary.readouterr().out)]
        assert paths == ["/health/detailed", "/no\nthing"]

    async def test_an_unhandled_error_is_logged_and_masked(
        self, capsysbinary: pytest.CaptureFixture[bytes], build: Build
    ) -> None:
        """The client learns nothing of it but the request's id, under which the log tells all - but for secrets."""
        response = await build().post("/api/v1/probe/fail")
        assert response.status_code == 500
        assert response.json()["detail"] == "Something went wrong on our side."
        written = capsysbinary.readouterr().out
        (failure,) = [line for line in map(orjson.loads, written.splitlines()) if line["event"] == "request_failed"]
        assert failure["request_id"] == response.headers["x-request-id"]
        assert failure["level"] == "error"
        assert "RuntimeError" in failure["exception"]
        assert b"hunter22" not in written
        assert b"ada@example.com" not in written
        assert [line["status"] for line in self.lines(written)] == [500]


async def counted(web: httpx.AsyncClient, **labels: object) -> float:
    """The value of a sample of http_requests_total."""
    text = (await web.get("/metrics")).text
    wanted = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    found = re.search(r"^http_requests_total\{" + re.escape(wanted) + r"\} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def test_requests_are_counted_by_route_template(web: httpx.AsyncClient) -> None:
    """Not by path: a client could otherwise make as many series as it likes. The same holds for methods."""
    known = {"method": "GET", "route": "/api/v1/probe/things/{number}", "status": 200}
    strange = {"method": "OTHER", "route": "unmatched", "status": 404}
    before = await counted(web, **known), await counted(web, **strange)
    for number in range(5):
        await web.get(f"/api/v1/probe/things/{number}")
        await web.request(f"BREW{number}", f"/pot/{number}")
    assert (await counted(web, **known), await counted(web, **strange)) == (before[0] + 5, before[1] + 5)
    text = (await web.get("/metrics")).text
    assert "BREW" not in text
    assert "/pot/" not in text
    assert 'http_request_duration_seconds_count{method="GET",route="/api/v1/probe/things/{number}"}' in text
