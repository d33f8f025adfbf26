"""The front door with TLS: each promise of docs/front-door.md, asked of a real nginx.

A promise is a function that asks a door. `test_a_promise_holds` runs it against the templates, `test_its_test_can_fail`
against the same with one fault in them.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ops.certificates import pair
from ops.certificates.pair import Pair
from tests.system.door import (
    HOST,
    Change,
    Door,
    Upstream,
    context,
    document,
    headers,
    opened,
    read_all,
    replaced,
    status,
)
from tests.system.helpers import eventually

# Old protocols are offered here to see them refused.
pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")

MEGABYTE = 2**20
# Mozilla's guideline 6.0, "intermediate".
CIPHERS = {
    f"ECDHE-{key}-{cipher}"
    for key in ("ECDSA", "RSA")
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
}
# Some hundred others would take long to try; these are the families that were once in use.
FORBIDDEN = "ALL:COMPLEMENTOFALL:eNULL:@SECLEVEL=0"
SECURITY_HEADERS = {
    "content-security-policy",
    "permissions-policy",
    "referrer-policy",
    "server",
    "strict-transport-security",
    "x-content-type-options",
    "x-frame-options",
    "x-request-id",
}
COMMON, ROUTES, MAIN = "conf.d/common.conf", "conf.d/site/routes.conf", "nginx.conf"
TLS, PROBLEMS = "conf.d/entry/tls.conf", "conf.d/site/problems.conf"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """One for all doors."""
    made = Upstream()
    yield made
    made.close()


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Door]:
    """One with everything as it is shipped, but for generous limits."""
    with opened(tmp_path_factory.mktemp("door"), upstream.port) as made:
        yield made


def protocols(door: Door, _: Upstream) -> None:
    """TLS 1.2 and 1.3, nothing older; HTTP/2 for who speaks it."""
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            door.connect(lowest=ssl.TLSVersion.TLSv1, highest=version, ciphers="ALL:@SECLEVEL=0")
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with door.connect(lowest=version, highest=version, protocols=("h2", "http/1.1")) as connection:
            assert isinstance(connection, ssl.SSLSocket)
            assert connection.selected_alpn_protocol() == "h2"


def ciphers(door: Door, _: Upstream) -> None:
    """Of all that OpenSSL knows, those of the guideline and no other; this door's certificate is of the one kind."""
    assert accepted(door) == {name for name in CIPHERS if "ECDSA" in name}


def accepted(door: Door) -> set[str]:
    """The cipher suites of TLS 1.2 that it takes, each offered alone."""
    found = set()
    known = {str(cipher["name"]) for cipher in context(ciphers=FORBIDDEN).get_ciphers()}
    for cipher in sorted(known - {name for name in known if name.startswith("TLS_")}):
        with contextlib.suppress(OSError):
            two = ssl.TLSVersion.TLSv1_2
            door.connect(highest=two, ciphers=f"{cipher}:@SECLEVEL=0").close()
            found.add(cipher)
    return found


def forward_secrecy(door: Door, _: Upstream) -> None:
    """No session tickets, whose key would open what was recorded; a session is resumed from the server's memory."""
    made = context(highest=ssl.TLSVersion.TLSv1_2)
    with made.wrap_socket(socket.create_connection(("127.0.0.1", door.tls)), server_hostname=HOST) as first:
        session = first.session
    assert session
    assert not session.has_ticket
    again = socket.create_connection(("127.0.0.1", door.tls))
    with made.wrap_socket(again, server_hostname=HOST, session=session) as second:
        assert second.session_reused


def http_two(door: Door, _: Upstream) -> None:
    """A request by HTTP/2, by hand: preface, settings, one HEADERS frame with literal fields."""
    block = b"\x82\x87" + b"\x04" + bytes([12]) + b"/api/v1/echo" + b"\x01" + bytes([len(HOST)]) + HOST.encode()
    frame = len(block).to_bytes(3) + b"\x01\x05" + (1).to_bytes(4) + block
    with door.connect(protocols=("h2",)) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00" + bytes(4) + frame)
        with connection.makefile("rb") as frames:
            while True:
                head = frames.read(9)
                body = frames.read(int.from_bytes(head[:3]))
                if head[3] == 1:  # HEADERS; its first byte is the status, 200 is entry 8 of the fixed table
                    assert body[0] == 0x88
                    return


def same_headers(door: Door, upstream: Upstream) -> None:
    """Each security header once, whoever answers and whatever the answer is."""
    answers = {
        "200 of the API": (200, door.get()),
        "200 of a file": (200, door.get("/static/favicon.svg")),
        "304 of a file": (304, door.get("/static/favicon.svg", headers=_etag(door))),
        "404": (404, door.get("/nothing")),
        "405": (
            405,
            door.send(
                b"POST /static/favicon.svg HTTP/1.1\r\nHost: %b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                % HOST.encode()
            ),
        ),
        "400": (400, door.get("/api/../x")),
        "413": (413, door.send(b"POST /api/ HTTP/1.1\r\nHost: %b\r\nContent-Length: 99999999\r\n\r\n" % HOST.encode())),
        "421": (421, door.get(host="other.example.com")),
        "431": (431, door.get(headers=f"X-Large: {'x' * 9000}\r\n")),
    }
    for what, (expected, answer) in answers.items():
        assert status(answer) == expected, what
        found = headers(answer)
        assert {name: len(found.get(name, ())) for name in SECURITY_HEADERS} == dict.fromkeys(SECURITY_HEADERS, 1), what
        assert found["server"] == ["nginx"], what
        assert found["strict-transport-security"] == ["max-age=63072000; includeSubDomains"], what
        if expected >= 400:
            assert found["content-type"] == ["application/problem+json"], what
            assert found["cache-control"] == ["no-store"], what
            assert document(answer)["status"] == expected, what


def _etag(door: Door) -> str:
    return f"If-None-Match: {headers(door.get('/static/favicon.svg'))['etag'][0]}\r\n"


def too_large(door: Door, upstream: Upstream) -> None:
    """Refused: a head over 8 KB a field or 32 KB in all, an address over 8 KB, a body over 11 MB, counted or in chunks."""
    upstream.seen.clear()
    assert status(door.get(headers=f"X-Large: {'x' * 9000}\r\n")) == 431
    assert status(door.get(headers="".join(f"X-{n}: {'x' * 7000}\r\n" for n in range(6)))) == 431
    assert status(door.get(f"/api/{'x' * 9000}")) == 414
    assert upstream.seen == []
    head = f"POST /api/ HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n".encode()
    chunk = b"%x\r\n%b\r\n" % (MEGABYTE, bytes(MEGABYTE))
    assert status(door.send(head + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 12, b"0\r\n\r\n")) == 413
    assert status(door.send(head + b"Content-Length: 11534337\r\n\r\n")) == 413
    assert upstream.seen == []


def slow_clients(door: Door, upstream: Upstream) -> None:
    """Who sends a head byte by byte, or stalls in a handshake or a body, is given up; others do not notice."""
    head = f"POST /api/ HTTP/1.1\r\nHost: {HOST}\r\n".encode()
    # What begins each, and the seconds after which it has to be over: those of the templates and two more.
    slow = {
        "a head that never ends": (True, head, 12),
        "a body that never comes": (True, head + b"Content-Length: 10\r\n\r\n1", 17),
        "a request that never begins": (False, b"", 12),
        "a handshake that never ends": (None, b"\x16\x03\x01", 12),
    }
    with contextlib.ExitStack() as stack:
        waiting = {}
        for what, (tls, beginning, _) in slow.items():
            raw = socket.create_connection(("127.0.0.1", door.tls)) if tls is None else door.connect(tls=tls)
            waiting[what] = stack.enter_context(raw)
            raw.sendall(beginning)
            raw.settimeout(0.5)
        started = time.monotonic()
        while waiting:
            assert status(door.get()) == 200, "others are served"
            waiting = {what: connection for what, connection in waiting.items() if _open(connection, what)}
            late = [what for what in waiting if time.monotonic() - started > slow[what][2]]
            assert not late, f"still open: {', '.join(late)}"


def _open(connection: socket.socket, what: str) -> bool:
    """Whether nginx still waits for more."""
    try:
        if what == "a head that never ends":
            connection.sendall(b"X-More: 1\r\n")  # always something new, never the end
        return bool(connection.recv(4096)) and _open(connection, what)
    except TimeoutError:
        return True
    except OSError:
        return False


SMUGGLED = b"GET /api/v1/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
# Each tries to have nginx and the application disagree about where a request ends.
SMUGGLING = {
    "an honest body": b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "CL.TE": b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(SMUGGLED)) + SMUGGLED,
    "TE.CL": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(SMUGGLED)
    + SMUGGLED
    + b"\r\n0\r\n\r\n",
    "TE.TE": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE in disguise": b"Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE with a tab": b"Content-Length: 5\r\nTransfer-Encoding:\tchunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE before a space": b"Content-Length: 5\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "a list of lengths": b"Content-Length: 0, %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "a negative length": b"Content-Length: -1\r\n\r\n" + SMUGGLED,
    "a signed length": b"Content-Length: +0\r\n\r\n" + SMUGGLED,
    "a folded field": b"X-Folded: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a bare CR": b"X-Bare: a\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a NUL": b"X-Nul: a\0b\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk that is too long": b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk of no length": b"Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk longer than numbers go": b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\na\r\n0\r\n\r\n"
    + SMUGGLED,
    "a bare LF in a chunk": b"Transfer-Encoding: chunked\r\n\r\n1;\nX\r\n0\r\n\r\n" + SMUGGLED,
    "HTTP/1.0 with chunks": b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "no colon": b"Content-Length 5\r\n\r\n" + SMUGGLED,
}


# Read in one way only: the body is a body.
HARMLESS = {"an honest body"}


def no_smuggling(door: Door, upstream: Upstream) -> None:
    """Nothing of a body is ever taken for a request, and what both sides could read differently is refused."""
    refused = set()
    for number, (what, attempt) in enumerate(SMUGGLING.items()):
        path = f"/api/v1/smuggling/{number}"  # what another test has sent may still be on its way
        version = b"1.0" if "1.0" in what else b"1.1"
        with door.connect() as connection:
            connection.sendall(b"POST %b HTTP/%b\r\nHost: %b\r\n" % (path.encode(), version, HOST.encode()))
            connection.sendall(b"Connection: close\r\n" + attempt)
            answer = read_all(connection)
        assert not any("smuggled" in seen.path for seen in upstream.seen), what
        ours = [seen for seen in upstream.seen if seen.path == path]
        assert len(re.findall(rb"(?m)^HTTP/1\.1 ", answer)) <= 1, what
        assert len(ours) <= 1, what
        for seen in ours:  # whatever is passed on has one length, and is nginx' own writing
            assert ("content-length" in seen.headers) + ("transfer-encoding" in seen.headers) <= 1, what
        if status(answer) in (0, 400, 501):
            refused.add(what)
    assert refused == SMUGGLING.keys() - HARMLESS


def no_tunnel(door: Door, upstream: Upstream) -> None:
    """Upgrade reaches the application for a WebSocket at /ws and for nothing else."""
    for path, protocol, passed in [
        ("/api/v1/echo", "h2c", None),
        ("/api/v1/echo", "websocket", None),
        ("/ws", "h2c", None),
        ("/ws", "WebSocket", "websocket"),
    ]:
        upstream.seen.clear()
        door.get(path, headers=f"Upgrade: {protocol}\r\n")
        assert [seen.headers.get("upgrade") for seen in upstream.seen] == [passed], (path, protocol)


def one_host(door: Door, upstream: Upstream) -> None:
    """Another name gets no certificate, and no answer but 421; two names at once are no request."""
    upstream.seen.clear()
    for name in ("other.example.com", "localhost", ""):
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            door.connect(name=name) if name else _without_name(door)
    assert status(door.get(host="other.example.com")) == 421, "another name than in the handshake"
    assert status(door.get(host="other.example.com", tls=False)) == 421
    assert status(door.get("https://other.example.com/api/v1/echo")) == 421, "the whole address in the first line"
    assert status(door.get(headers="Host: other.example.com\r\n")) == 400, "two"
    assert status(door.get(host=f"{HOST}, other.example.com")) in (400, 421)
    assert status(door.get(host=f"{HOST}@other.example.com")) in (400, 421)
    assert status(door.send(b"GET /api/v1/echo HTTP/1.1\r\nConnection: close\r\n\r\n")) == 400, "none"
    assert status(door.send(b"GET /api/v1/echo HTTP/1.0\r\n\r\n")) == 421, "none, as it was allowed once"
    assert upstream.seen == []
    assert document(door.get(headers="X-Forwarded-Host: other.example.com\r\n"))["headers"]["x-forwarded-host"] == HOST


def _without_name(door: Door) -> None:
    with socket.create_connection(("127.0.0.1", door.tls)) as plain:
        context().wrap_socket(plain)


def true_address(door: Door, upstream: Upstream) -> None:
    """Whatever a client claims, the application is told where it really comes from."""
    claims = "".join(
        f"{name}: 6.6.6.6\r\n"
        for name in (
            "X-Forwarded-For",
            "X-Real-IP",
            "CF-Connecting-IP",
            "True-Client-IP",
            "X-Client-IP",
            "X_Forwarded_For",
        )
    )
    answer = document(
        door.get(headers=claims + "Forwarded: for=6.6.6.6\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: 1\r\n")
    )
    seen = answer["headers"]
    assert (seen["x-forwarded-for"], seen["x-real-ip"], seen["x-forwarded-proto"]) == (
        "127.0.0.1",
        "127.0.0.1",
        "https",
    )
    assert not {"forwarded", "x-forwarded-port", "x_forwarded_for"} & seen.keys()


INSIDE = [
    "/metrics", "/metrics/", "//metrics", "/./metrics", "/api/../metrics", "/api/v1/../../metrics", "/api/%2e%2e/metrics",
    "/api/..%2fmetrics", "/api/%2e%2e%2fmetrics", "/api/..%5cmetrics", "/api/..\\metrics", "/api/.%00./metrics",
    "/%6detrics", "/METRICS", "/api/..;/metrics", "/health/../metrics", "/static/../../nginx.conf", "/static/..%2f..%2fnginx.conf",
    "/static/%2e%2e/maintenance.html", "/maintenance.html", "/.env", "/.git/config", "/static/.env", "/api/.env", "/admin", "/nginx-alive",
    "/health/detailed/x", "https://service.example.com/metrics", "/api/v1/echo/../../../metrics", "/metrics?x=/api/", "/metrics;/api/",
]  # fmt: skip


# nginx would find the API behind these; the application would be sent the address as it is here.
CROOKED = [
    "/metrics/../api/v1/echo", "/api//v1/echo", "/api/v1/x/../echo", "/api/./v1/echo", "/api/v1/%2e/echo", "/api/v1%2fecho",
    "/api/v1/x%5c..%5cecho", "/api/v1/x\\echo",
]  # fmt: skip


def one_spelling(door: Door, upstream: Upstream) -> None:
    """No address that is inside is reached, however it is written; and one that could be read in two ways is refused."""
    for path in INSIDE:
        upstream.seen.clear()
        assert status(door.get(path)) in (400, 404), path
        assert upstream.seen == [], path
    for path in CROOKED:
        assert status(door.get(path)) == 400, path
    for path in ("/api/v1/%65cho", "/api/v1/a%20b", "/api/v1/echo?next=/../%2e%2e//x", "/api/v1/a.b"):
        upstream.seen.clear()
        assert status(door.get(path)) == 200, path
        assert [seen.path for seen in upstream.seen] == [path]


def to_https(door: Door, _: Upstream) -> None:
    """Without TLS there is the way to HTTPS, to the same place under the same name."""
    answer = door.get("/api/v1/echo?a=b", tls=False)
    assert (status(answer), headers(answer)["location"]) == (308, [f"https://{HOST}/api/v1/echo?a=b"])
    assert "strict-transport-security" not in headers(answer), "it means nothing without TLS"


def bodies_pass_through(door: Door, upstream: Upstream) -> None:
    """An upload is at the application before its last byte is at nginx: nothing is collected on disk."""
    upstream.seen.clear()
    upstream.begun.clear()
    head = f"POST /api/ HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {2 * MEGABYTE}\r\nConnection: close\r\n\r\n"
    with door.connect() as connection:
        connection.sendall(head.encode() + bytes(2 * MEGABYTE - 1))
        eventually(lambda: upstream.begun, bool, "the application sees the upload begin", 3)
        connection.sendall(b"x")
        assert status(read_all(connection)) == 200
    assert [len(seen.body) for seen in upstream.seen] == [2 * MEGABYTE]


class Promise(NamedTuple):
    """What is asked, and a fault with which the answer has to be another one."""

    ask: Callable[[Door, Upstream], None]
    fault: Change


PROMISES = {
    promise.ask.__name__: promise
    for promise in (
        Promise(
            protocols,
            replaced(
                TLS,
                "ssl_protocols TLSv1.2",
                "ssl_conf_command CipherString ALL:@SECLEVEL=0; ssl_protocols TLSv1.1 TLSv1.2",
            ),
        ),
        Promise(ciphers, replaced(TLS, "ssl_ciphers ", "ssl_ciphers ECDHE-ECDSA-AES256-SHA:")),
        Promise(forward_secrecy, replaced(TLS, "ssl_session_tickets off", "ssl_session_tickets on")),
        Promise(http_two, replaced(TLS, "http2 on", "http2 off")),
        Promise(same_headers, replaced(ROUTES, "    autoindex off;", "    add_header X-Own 1;")),
        Promise(too_large, replaced(MAIN, "client_max_body_size 11m", "client_max_body_size 0")),
        Promise(slow_clients, replaced(MAIN, "client_header_timeout 10s", "client_header_timeout 60s")),
        Promise(
            no_smuggling,
            replaced(ROUTES, 'proxy_set_header Forwarded "";', "proxy_set_header Content-Length 0;"),
        ),
        Promise(no_tunnel, replaced(ROUTES, "Upgrade $upgrade", "Upgrade $http_upgrade")),
        Promise(one_host, replaced(TLS, f"server_name {HOST}", 'server_name ""')),
        Promise(true_address, replaced(COMMON, "set_real_ip_from 255.255.255.255", "set_real_ip_from 127.0.0.1")),
        Promise(one_spelling, replaced(ROUTES, "if ($crooked)", 'if ($crooked = "never")')),
        Promise(to_https, replaced("conf.d/site/to-https.conf", "https://$host$request_uri", "https://$host$uri")),
        Promise(bodies_pass_through, replaced(ROUTES, "proxy_request_buffering off", "proxy_request_buffering on")),
    )
}


@pytest.mark.parametrize("name", PROMISES)
def test_a_promise_holds(door: Door, upstream: Upstream, name: str) -> None:
    """With the templates as they are."""
    PROMISES[name].ask(door, upstream)


@pytest.mark.parametrize("name", PROMISES)
def test_its_test_can_fail(tmp_path: Path, upstream: Upstream, name: str) -> None:
    """With one fault in them."""
    with (
        opened(tmp_path, upstream.port, change=PROMISES[name].fault) as broken,
        pytest.raises((AssertionError, OSError, pytest.fail.Exception)),
    ):
        PROMISES[name].ask(broken, upstream)


def rsa(folder: Path) -> None:
    """A certificate of the other kind, as some authorities still give."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={HOST}"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    pair.install(folder / "certs", Pair(certificate.read_bytes(), key.read_bytes()))


def test_a_certificate_of_the_other_kind_gets_the_other_half_of_the_ciphers(tmp_path: Path, upstream: Upstream) -> None:
    """RSA: the same guideline, no suite with a static key among them; and the test of it can fail."""
    expected = {name for name in CIPHERS if "RSA" in name and "ECDSA" not in name}
    with opened(tmp_path / "good", upstream.port, change=rsa) as door:
        protocols(door, upstream)
        assert accepted(door) == expected
    static = replaced(TLS, "ssl_ciphers ", "ssl_ciphers AES256-GCM-SHA384:")

    def both(folder: Path) -> None:
        rsa(folder)
        static(folder)

    with opened(tmp_path / "static", upstream.port, change=both) as door:
        assert accepted(door) == expected | {"AES256-GCM-SHA384"}
