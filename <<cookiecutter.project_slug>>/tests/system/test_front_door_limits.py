"""What the front door does under load: limits that are right, a reload that nobody notices, a thousand quiet sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.door import HOST, Door, Load, Upstream, context, document, headers, opened, read_one, replaced, status
from tests.system.helpers import eventually

SOCKETS = 1000
# Of the container in compose.yaml.
MEMORY_LIMIT = 128 * 2**20


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """One for all doors."""
    made = Upstream()
    yield made
    made.close()


def assert_refused(answer: bytes, expected: int, code: str, least: int = 1) -> None:
    """A problem document with every header, and a time to come back."""
    found = headers(answer)
    assert status(answer) == expected
    assert found["content-type"] == ["application/problem+json"]
    assert found["cache-control"] == ["no-store"]
    assert int(found["retry-after"][0]) >= least
    assert len(found["strict-transport-security"]) == len(found["x-request-id"]) == 1
    body = document(answer)
    assert (body["status"], body["code"]) == (expected, code)
    assert body["request_id"] == found["x-request-id"][0]


@pytest.mark.parametrize(("rate", "right"), [("1200r/m", True), ("1800r/m", False)])
def test_the_limit_is_right_to_a_tenth(tmp_path: Path, upstream: Upstream, rate: str, right: bool) -> None:
    """The burst at once, then the rate; another address has its own. A rate that is half as much again is found out."""
    burst, meant = 20, 20.0
    with opened(tmp_path, upstream.port, {"RATE_LIMIT": rate, "RATE_LIMIT_BURST": str(burst)}) as door:
        answers: list[bytes] = []
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < 3:
            with door.connect() as connection:  # nginx closes one after a thousand requests
                answers += [_ask(connection) for _ in range(50)]
        passed = sum(status(answer) == 200 for answer in answers)
        expected = 1 + burst + meant * elapsed
        assert (abs(passed - expected) <= expected / 10) == right, f"{passed} passed, {expected:.0f} should have"
        refused = [answer for answer in answers if status(answer) != 200]
        assert_refused(refused[-1], 429, "too_many_requests")
        assert status(door.get(source="127.0.0.2")) == 200


def _ask(connection: socket.socket) -> bytes:
    connection.sendall(f"GET /api/v1/echo HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    return read_one(connection)


def test_connections_of_one_client_are_counted(tmp_path: Path, upstream: Upstream) -> None:
    """One too many is refused like one too often; another client is served."""
    begin = f"POST /api/ HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1\r\n\r\n".encode()
    with opened(tmp_path, upstream.port, {"CONNECTION_LIMIT": "5"}) as door, contextlib.ExitStack() as stack:
        upstream.begun.clear()
        held = [stack.enter_context(door.connect()) for _ in range(5)]
        for connection in held:
            connection.sendall(begin)
        eventually(lambda: len(upstream.begun), lambda count: count == 5, "five requests in progress", 5)
        assert_refused(door.get(), 429, "too_many_requests")
        assert status(door.get(source="127.0.0.2")) == 200
        for connection in held:
            connection.sendall(b"x")
        eventually(lambda: status(door.get()), lambda now: now == 200, "a free place", 5)


def test_a_dead_application_and_maintenance_say_when_to_come_back(tmp_path: Path, upstream: Upstream) -> None:
    """502 becomes 503 with all headers. Maintenance begins and ends with a file; who watches is told the truth."""
    with opened(tmp_path / "dead", 1) as door:
        assert_refused(door.get(), 503, "unavailable")
    web = tmp_path / "www"
    web.mkdir()
    with opened(tmp_path / "door", upstream.port, {"NGINX_WEB_ROOT": str(web)}) as door:
        assert status(door.get()) == 200
        (web / "maintenance.on").touch()
        assert_refused(door.get(), 503, "maintenance", least=60)
        assert status(door.get("/health")) == 200
        (web / "maintenance.on").unlink()
        assert status(door.get()) == 200


def test_a_reload_under_load_is_noticed_by_nobody(tmp_path: Path, upstream: Upstream) -> None:
    """New workers take over while four clients ask without a pause; what is in progress is finished by the old ones."""
    with opened(tmp_path, upstream.port) as door:

        def ask() -> None:
            answer = door.get()
            assert status(answer) == 200, answer[:200]

        body = f"POST /api/ HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1\r\nConnection: close\r\n\r\n".encode()
        with Load(ask) as load, door.connect() as slow:
            slow.sendall(body)
            for _ in range(3):
                load.more(50)
                door.reload()
            load.more(50)
            slow.sendall(b"x")
            assert slow.recv(12) == b"HTTP/1.1 200"
        assert load.errors == []
        # The negative: a restart instead is noticed at once.
        with Load(ask) as load:
            door.process.terminate()
            door.process.wait(10)
            eventually(lambda: load.errors, bool, "an error", 10)


def test_a_broken_configuration_is_not_taken_over(tmp_path: Path, upstream: Upstream) -> None:
    """A reload with a fault in a file changes nothing for clients."""
    with opened(tmp_path, upstream.port) as door:
        before = door.workers()
        replaced("nginx.conf", "gzip on;", "gzip perhaps;")(tmp_path)
        door.process.send_signal(1)
        eventually(lambda: door.log, lambda text: "gzip" in text, "nginx says what is wrong", 5)
        assert status(door.get()) == 200
        assert door.workers() == before


class Sockets:
    """An application that accepts WebSockets, says nothing, and sends back each byte it gets."""

    def __init__(self) -> None:
        self.open = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=SOCKETS), self._loop
        ).result()
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"upgrade: websocket" not in head.lower():
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            writer.close()
            return
        self.open += 1
        with contextlib.suppress(ConnectionError):
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            while data := await reader.read(16):
                writer.write(data)
        self.open -= 1
        writer.close()

    def close(self) -> None:
        """Stop listening, and forget who is connected."""

        async def end() -> None:
            self._server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def memory(door: Door) -> int:
    """Bytes that nginx holds for itself, all processes."""
    pages = 0
    for number in {door.process.pid, *door.workers()}:
        smaps = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
        pages += sum(int(line.split()[1]) for line in smaps if line.startswith("Pss:"))
    return pages * 1024


def test_a_thousand_quiet_sockets_are_held(tmp_path: Path) -> None:
    """All with TLS and all alive, in the memory of the container, while requests are served; one client has its limit."""
    application = Sockets()
    limit = 200

    async def run(door: Door) -> None:
        gate = asyncio.Semaphore(50)

        async def knock(source: str) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
            async with gate:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", door.tls, ssl=context(), server_hostname=HOST, local_addr=(source, 0)
                )
                writer.write(
                    f"GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode()
                )
                return status(await reader.readuntil(b"\r\n\r\n")), reader, writer

        # Each from one of five addresses, as many as the limit lets in from each.
        made = await asyncio.gather(*(knock(f"127.0.0.{1 + n // limit}") for n in range(SOCKETS)))
        assert Counter(code for code, *_ in made) == {101: SOCKETS}
        assert application.open == SOCKETS
        assert (await knock("127.0.0.1"))[0] == 429, "one more from the same address"
        assert status(await asyncio.to_thread(door.get, source="127.0.0.9")) == 200
        assert memory(door) < MEMORY_LIMIT
        for number, (_, _, writer) in enumerate(made):
            writer.write(bytes([number % 256]))
        for number, (_, reader, writer) in enumerate(made):
            assert await asyncio.wait_for(reader.readexactly(1), 30) == bytes([number % 256])
            writer.transport.abort()

    try:
        with opened(tmp_path, application.port, {"CONNECTION_LIMIT": str(limit)}) as door:
            asyncio.run(run(door))
            eventually(lambda: application.open, lambda count: count == 0, "nginx lets go", 20)
    finally:
        application.close()
