"""A front door of a test's own: real nginx with TLS on the real templates, before an upstream that remembers what it was sent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from devstack import programs
from devstack.ports import choose
from ops.certificates import pair
from ops.nginx.render import render
from tests.system.helpers import eventually

HOST = "service.example.com"
SECONDS = 10
# High enough to be in nobody's way; the test of the limit sets its own.
GENEROUS = {"RATE_LIMIT": "60000r/m", "RATE_LIMIT_BURST": "5000", "CONNECTION_LIMIT": "1000"}


@dataclass
class Seen:
    """One request as the upstream read it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Upstream:
    """Stands where the API is: answers 200 with what it was sent, and remembers it."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.begun: list[str] = []
        seen, begun = self.seen, self.begun

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            timeout = 60  # more patient than nginx, whose patience is what is looked at

            def answer(self) -> None:
                begun.append(self.path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self._chunks() if "chunked" in headers.get("transfer-encoding", "") else self._counted()
                seen.append(Seen(self.command, self.path, headers, body))
                text = json.dumps({"path": self.path, "headers": headers, "bytes": len(body)}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer  # noqa: N815  # names of the base class

            def _counted(self) -> bytes:
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def _chunks(self) -> bytes:
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_: Any) -> None:
                """Connections that end in the middle are what some of these tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass
class Door:
    """A running nginx.

    Attributes:
        http: its port without TLS.
        tls: its port with TLS.
        folder: its prefix; `certs` in it is what it serves, `log` what it said.
    """

    folder: Path
    http: int
    tls: int
    process: subprocess.Popen[bytes]
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def certificates(self) -> Path:
        """Where certificate and key are read."""
        return self.folder / "certs"

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / "log").read_text("utf-8")

    def connect(
        self, *, tls: bool = True, name: str = HOST, source: str = "127.0.0.1", **options: Any
    ) -> socket.socket:
        """A connection of a client that trusts anybody."""
        plain = socket.create_connection(
            ("127.0.0.1", self.tls if tls else self.http), timeout=SECONDS, source_address=(source, 0)
        )
        try:
            return context(**options).wrap_socket(plain, server_hostname=name) if tls else plain
        except BaseException:
            plain.close()
            raise

    def send(self, *parts: bytes, **options: Any) -> bytes:
        """The answer to what is sent."""
        with self.connect(**options) as connection:
            with contextlib.suppress(OSError):  # refused in the middle: the answer is still there to be read
                for part in parts:
                    connection.sendall(part)
            return read_one(connection)

    def get(self, path: str = "/api/v1/echo", *, host: str = HOST, headers: str = "", **options: Any) -> bytes:
        """A plain GET, byte for byte as given."""
        return self.send(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n".encode(), **options
        )

    def reload(self) -> None:
        """Take over a changed configuration; returns when old workers are being sent home."""
        before = self.workers()
        self.process.send_signal(signal.SIGHUP)
        eventually(self.workers, lambda now: bool(now - before), "new workers", SECONDS)

    def workers(self) -> set[int]:
        """The process numbers of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(number) for number in children.read_text().split()}


def context(
    *,
    lowest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ciphers: str = "",
    protocols: tuple[str, ...] = (),
) -> ssl.SSLContext:
    """A client's settings; by default those of a present-day one that trusts anybody."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.minimum_version, made.maximum_version = lowest, highest
    if ciphers:
        made.set_ciphers(ciphers)
    if protocols:
        made.set_alpn_protocols(list(protocols))
    return made


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    answer = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
        while piece := connection.recv(65536):
            answer += piece
    return answer


def read_one(connection: socket.socket) -> bytes:
    """One answer; nginx may well leave the connection open for more."""
    answer = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
        while not complete(answer) and (piece := connection.recv(65536)):
            answer += piece
    return answer


def complete(answer: bytes) -> bool:
    """Whether the whole body is there that the head announces."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = headers(head).get("content-length", ["0" if status(head) in (204, 304) else "unknown"])[0]
    return bool(end) and length.isdigit() and len(body) >= int(length)


def status(answer: bytes) -> int:
    """The status in the first line; 0 when there is no answer at all."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1") else 0


def headers(answer: bytes) -> dict[str, list[str]]:
    """The fields of an answer, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in answer.split(b"\r\n\r\n", 1)[0].decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        found.setdefault(name.lower(), []).append(value.strip())
    return found


def document(answer: bytes) -> dict[str, Any]:
    """The JSON of an answer."""
    parsed: dict[str, Any] = json.loads(answer.split(b"\r\n\r\n", 1)[1])
    return parsed


Change = Callable[[Path], None]


@contextlib.contextmanager
def opened(
    folder: Path,
    api: int,
    variables: Mapping[str, str] | None = None,
    *,
    change: Change | None = None,
    bare: bool = False,
) -> Iterator[Door]:
    """A door that serves while the block runs.

    Args:
        folder: its prefix.
        api: port of the upstream.
        variables: of the templates, over what suits a test.
        change: made to the rendered files before nginx starts: how a test shows that it can fail.
        bare: there is no certificate yet.
    """
    ports = choose(["http", "tls"], None)
    values = {
        "NGINX_ENTRY": "tls",
        "NGINX_LISTEN": f"127.0.0.1:{ports['http']}",
        "NGINX_LISTEN_TLS": f"127.0.0.1:{ports['tls']}",
        "NGINX_SERVER_NAMES": HOST,
        "NGINX_API_SERVER": f"127.0.0.1:{api}",
        "NGINX_TLS_DIR": str(folder / "certs"),
        "NGINX_CHALLENGE_DIR": str(folder / "certs/challenge"),
        **GENEROUS,
        **(variables or {}),
    }
    main = render(folder, values)
    if not bare:
        pair.install(folder / "certs", pair.placeholder([HOST]))
    if change:
        change(folder)
    # As root its workers would become `nobody`, who cannot look into a test's folder.
    directives = "daemon off; user root;" if os.geteuid() == 0 else "daemon off;"
    command = [str(programs.nginx()), "-p", str(folder), "-c", str(main), "-e", "stderr", "-g", directives]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    door = Door(folder, ports["http"], ports["tls"], process, values)
    try:
        eventually(lambda: _alive(door), bool, "nginx serves", SECONDS)
        yield door
    finally:
        process.terminate()
        process.wait(SECONDS)


def _alive(door: Door) -> bool:
    assert door.process.poll() is None, door.log
    try:
        return status(door.get("/nginx-alive", host="alive.invalid", tls=False)) == 200
    except OSError:
        return False


def replaced(name: str, old: str, new: str) -> Change:
    """The change of one text in one rendered file."""

    def change(folder: Path) -> None:
        path = folder / name
        text = path.read_text("utf-8")
        assert old in text, f"{old} is not in {name}"
        path.write_text(text.replace(old, new), "utf-8")

    return change


@dataclass
class Load:
    """Clients that ask without a pause, each time by a new connection, and what went wrong for them."""

    ask: Callable[[], None]
    clients: int = 4
    answered: int = 0
    errors: list[str] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        eventually(lambda: self.answered, lambda count: count >= self.clients or bool(self.errors), "load", SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int) -> None:
        """Wait until this many further requests are answered."""
        goal = self.answered + count
        eventually(lambda: self.answered, lambda now: now >= goal or bool(self.errors), "more requests", 30)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.ask()
            except Exception as error:  # noqa: BLE001  # whatever goes wrong is the finding
                self.errors.append(f"{time.monotonic():.3f} {error!r}")
            else:
                self.answered += 1
