"""WebSockets: events reach whom they are for, once and in order, and a socket that cannot be served ends with a reason.

Two servers run in this process, each with a hub of its own: to Redis and to clients they are two processes.
"""

import asyncio
import contextlib
import json
import logging
import re
import socket as sockets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import orjson
import pytest
import uvicorn
from prometheus_client import REGISTRY
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.core.events import MAX_BYTES
from app.core.realtime import tickets
from app.core.realtime.listener import Listener, ListenerAway
from app.core.realtime.server import MAX_MESSAGE_BYTES, WebSocketProtocol

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import FastAPI

    from app.core.resources import Resources
    from app.core.security import Principal
    from app.core.settings import Settings
    from tests.core.conftest import RunService, Without

ORIGIN = "https://app.example.com"
HURRY = {
    "WS_MAX_CONNECTIONS": "6",
    "WS_MAX_PER_USER": "3",
    "WS_HELLO_SECONDS": "2",
    "WS_SEND_SECONDS": "1",
    "WS_PING_SECONDS": "1",
    "WS_RESUME_EVENTS": "20",
    "WS_AWAY_SECONDS": "0.5",
    "HTTP_CORS_ORIGINS": ORIGIN,
    "HTTP_ALLOWED_HOSTS": "127.0.0.1,*.example.com",
}
SECONDS = 30


@dataclass(frozen=True)
class Server:
    """A running API."""

    port: int
    settings: "Settings"

    def connect(self, **options: Any) -> connect:
        """A socket that has not said anything yet."""
        return connect(
            f"ws://127.0.0.1:{self.port}/ws", compression=None, open_timeout=SECONDS, ping_interval=None, **options
        )


class _Quiet(uvicorn.Server):
    """Leaves the signals of the test process alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: "FastAPI", settings: "Settings") -> AsyncIterator[Server]:
    """Serve `app` as `cli serve` does, with buffers so small that a slow reader shows soon."""
    listening = sockets.socket()
    listening.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 4096)
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        ws=WebSocketProtocol,
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_ping_interval=settings.ws.ping_seconds,
        ws_ping_timeout=settings.ws.ping_seconds,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=SECONDS,
    )
    server = _Quiet(config)
    task = asyncio.create_task(server.serve([listening]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield Server(listening.getsockname()[1], settings)
    finally:
        server.should_exit = True
        await task


@pytest.fixture(scope="module")
async def servers(environment: dict[str, str]) -> AsyncIterator[tuple[Server, Server]]:
    """Two of them, for all tests here."""
    from app.core.settings import load_settings
    from app.features import settings_of_features
    from app.main import create_app

    root = logging.getLogger()
    before = root.handlers[:], root.level
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in HURRY.items():
            patch.setenv(variable, value)
        settings = load_settings(settings_of_features())
    async with serving(create_app(settings), settings) as one, serving(create_app(settings), settings) as other:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        yield one, other


@pytest.fixture
def server(servers: tuple[Server, Server]) -> Server:
    """One of them."""
    return servers[0]


Enter = Callable[..., AbstractAsyncContextManager[ClientConnection]]


async def receive(client: ClientConnection) -> dict[str, Any]:
    """The next message."""
    async with asyncio.timeout(SECONDS):
        message: dict[str, Any] = orjson.loads(await client.recv())
        return message


async def end_of(client: ClientConnection) -> tuple[int, str]:
    """How the server ended it, whatever it said before."""
    async with asyncio.timeout(SECONDS):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await client.recv()
        assert client.close_code is not None
        return client.close_code, client.close_reason or ""


def closed(cause: str) -> float:
    """How many sockets ended so."""
    return REGISTRY.get_sample_value("websocket_closed_total", {"cause": cause}) or 0


def open_now() -> float:
    """How many are open."""
    return REGISTRY.get_sample_value("websocket_connections") or 0


@pytest.fixture
def enter(resources: "Resources", principal: "Principal") -> Enter:
    """Opens a socket of `principal`, or of another person, which is ready."""

    @contextlib.asynccontextmanager
    async def entered(
        server: Server, user_id: Any = None, last: str | None = None, seconds: float = 60, **options: Any
    ) -> AsyncIterator[ClientConnection]:
        ticket = await tickets.issue(resources.events, user_id or principal.id, int(time.time()) + int(seconds))
        async with server.connect(**options) as client:
            with contextlib.suppress(ConnectionClosed):  # where there is no room nobody listens
                await client.send(json.dumps({"type": "hello", "ticket": ticket, "last_event_id": last}))
            yield client

    return entered


async def test_an_event_reaches_every_socket_of_its_person_and_nobody_else(
    servers: tuple[Server, Server], resources: "Resources", principal: "Principal", enter: Enter
) -> None:
    """Whatever process holds the socket, and in the order of publishing."""
    one, other = servers
    delivered = REGISTRY.get_sample_value("events_delivered_total") or 0
    async with enter(one) as first, enter(other) as second, enter(one, uuid4()) as stranger:
        for client in (first, second, stranger):
            assert (await receive(client))["type"] == "ready"
        for number in range(3):
            await resources.events.publish(principal.id, "thing.made", {"n": number})
        for client in (first, second):
            got = [await receive(client) for _ in range(3)]
            assert [event["data"]["n"] for event in got] == [0, 1, 2]
            assert {event["kind"] for event in got} == {"thing.made"}
        # What comes next is the answer to this, so that nothing came before.
        await stranger.send('{"type":"ping"}')
        assert await receive(stranger) == {"type": "pong"}
    assert (REGISTRY.get_sample_value("events_delivered_total") or 0) - delivered == 6


async def test_a_ticket_comes_by_the_api_and_opens_one_socket(
    server: Server, client: httpx.AsyncClient, auth_headers: dict[str, str], resources: "Resources"
) -> None:
    """For whoever is signed in; the second use, a made-up one and none at all end with 4401."""
    assert (await client.post("/api/v1/realtime/tickets")).status_code == 401
    response = await client.post("/api/v1/realtime/tickets", headers=auth_headers)
    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    assert response.json()["expires_in"] == 30
    ticket = response.json()["ticket"]
    keys = [key.decode() async for key in resources.cache.redis.scan_iter(match="tickets:*")]
    assert len(keys) == 1
    assert ticket not in keys[0]
    assert 0 < await resources.cache.redis.ttl(keys[0]) <= 30
    hello = json.dumps({"type": "hello", "ticket": ticket})
    async with server.connect() as first:
        await first.send(hello)
        assert (await receive(first))["type"] == "ready"
        async with server.connect() as second:
            await second.send(hello)
            assert (await end_of(second))[0] == 4401
    for word in ("", "x" * 43):
        async with server.connect() as third:
            await third.send(json.dumps({"type": "hello", "ticket": word}))
            assert (await end_of(third))[0] == 4401


async def test_who_comes_back_gets_what_was_missed(
    servers: tuple[Server, Server], resources: "Resources", principal: "Principal", enter: Enter
) -> None:
    """From the last event it knows, on another process too, and each event once."""
    one, other = servers
    async with enter(one) as client:
        ready = await receive(client)
        await resources.events.publish(principal.id, "thing.made", {"n": 0})
        last = (await receive(client))["id"]
    for number in (1, 2):
        await resources.events.publish(principal.id, "thing.made", {"n": number})
    async with enter(other, last=last) as client:
        assert await receive(client) == {"type": "ready", "id": last, "ping_seconds": 1.0}
        assert [(await receive(client))["data"]["n"] for _ in range(2)] == [1, 2]
        await resources.events.publish(principal.id, "thing.made", {"n": 3})
        assert (await receive(client))["data"]["n"] == 3
    async with enter(one, last=ready["id"]) as client:
        assert (await receive(client))["id"] == ready["id"]
        assert [(await receive(client))["data"]["n"] for _ in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize("last", ["1-0", "9999999999999-0", "nonsense"])
async def test_a_gap_is_told(server: Server, enter: Enter, last: str) -> None:
    """Who knows a place that is gone, or never was, is told to ask for the whole."""
    async with enter(server, last=last) as client:
        ready = await receive(client)
        assert await receive(client) == {"type": "reset", "id": ready["id"]}


async def test_events_during_the_greeting_are_not_lost(
    server: Server, resources: "Resources", principal: "Principal", enter: Enter
) -> None:
    """Between the backlog and the channel there is no gap: whatever is published after `ready`'s place arrives once."""
    async with enter(server) as client:
        start = (await receive(client))["id"]
    stop = asyncio.Event()

    async def publish() -> int:
        count = 0
        while not stop.is_set():
            await resources.events.publish(principal.id, "thing.made", {"n": count})
            count += 1
            await asyncio.sleep(0.005)
        return count

    publishing = asyncio.create_task(publish())
    last, seen = start, []
    for _ in range(5):
        async with enter(server, last=last, max_queue=None) as client:
            assert (await receive(client))["id"] == last
            for _ in range(4):
                event = await receive(client)
                assert event["type"] == "event"
                last = event["id"]
                seen.append(event["data"]["n"])
    stop.set()
    await publishing
    assert seen == list(range(20))


async def test_signing_out_everywhere_ends_every_socket(
    servers: tuple[Server, Server], resources: "Resources", principal: "Principal", enter: Enter
) -> None:
    """On every process, and the tickets that were not used yet; other people stay."""
    one, other = servers
    ticket = await tickets.issue(resources.events, principal.id, int(time.time()) + 60)
    async with enter(one) as first, enter(other) as second, enter(one, uuid4()) as stranger:
        for client in (first, second, stranger):
            await receive(client)
        await resources.events.disconnect(principal.id)
        assert (await end_of(first))[0] == 4403
        assert (await end_of(second))[0] == 4403
        async with one.connect() as late:
            await late.send(json.dumps({"type": "hello", "ticket": ticket}))
            assert (await end_of(late))[0] == 4401
        async with enter(one) as again:
            assert (await receive(again))["type"] == "ready"
        await stranger.send('{"type":"ping"}')
        assert await receive(stranger) == {"type": "pong"}


async def test_an_access_token_from_before_gives_no_ticket(
    client: httpx.AsyncClient, settings: "Settings", resources: "Resources", principal: "Principal"
) -> None:
    """It lives on until it expires, but opens no socket after signing out everywhere; one from after it does."""
    from app.core.security import issue_token

    await resources.events.disconnect(principal.id)
    gate = float(await resources.events.gate(principal.id))
    with pytest.raises(tickets.SignedOut):
        await tickets.issue(resources.events, principal.id, int(gate) + 60, int(gate) - 1)
    assert await tickets.issue(resources.events, principal.id, int(gate) + 60, int(gate))
    later, _ = issue_token(settings.auth, principal)
    response = await client.post("/api/v1/realtime/tickets", headers={"Authorization": f"Bearer {later}"})
    assert response.status_code == 201


async def test_a_socket_ends_with_the_access_token(server: Server, enter: Enter) -> None:
    """Nobody stays signed in by staying connected."""
    async with enter(server, seconds=1) as client:
        assert (await receive(client))["type"] == "ready"
        assert await end_of(client) == (4401, "the access token has expired")


async def test_who_says_nothing_is_sent_away(server: Server) -> None:
    """A socket without a ticket costs a place only for a moment."""
    async with server.connect() as client:
        assert (await end_of(client))[0] == 4408


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ("not json", 1003),
        ("[]", 1003),
        (b"\x00", 1003),
        ('{"type":"ping"}', 1008),
        ('{"type":"hello"}', 1008),
        ('{"type":"hello","ticket":5}', 1008),
        ('{"type":"hello","ticket":"' + "x" * MAX_MESSAGE_BYTES + '"}', 1009),
    ],
)
async def test_what_a_client_may_not_say_first(server: Server, first: str | bytes, code: int) -> None:
    """Each has its code."""
    async with server.connect() as client:
        await client.send(first)
        assert (await end_of(client))[0] == code


async def test_what_a_client_may_say_later(server: Server, enter: Enter) -> None:
    """A ping, and not too often."""
    async with enter(server) as client:
        await receive(client)
        await client.send('{"type":"shout"}')
        assert (await end_of(client))[0] == 1008
    async with enter(server) as client:
        await receive(client)
        for _ in range(30):
            with contextlib.suppress(ConnectionClosed):
                await client.send('{"type":"ping"}')
        assert await end_of(client) == (4429, "too many messages")


@pytest.mark.parametrize(
    ("origin", "fits"),
    [
        (None, True),
        (ORIGIN, True),
        ("http://127.0.0.1:3000", True),
        ("https://x.example.com", True),
        ("https://evil.example.net", False),
        ("https://example.com.evil.net", False),
        ("file://127.0.0.1", False),
        ("null", False),
        ("http://[", False),
    ],
)
async def test_only_pages_of_ours_open_sockets(server: Server, origin: Any, fits: bool) -> None:
    """A page of somebody else is refused before there is a socket."""
    if fits:
        async with server.connect(origin=origin) as client:
            await client.send("not json")
            assert (await end_of(client))[0] == 1003
    else:
        with pytest.raises(InvalidStatus) as refused:
            await server.connect(origin=origin)
        assert refused.value.response.status_code == 403


async def test_limits(servers: tuple[Server, Server], enter: Enter, eventually: Callable[..., Any]) -> None:
    """Of a person over all processes, of a process over all people; who leaves makes room."""
    one, other = servers
    await eventually(lambda: open_now() == 0)
    async with contextlib.AsyncExitStack() as stack:
        mine = [await stack.enter_async_context(enter(server)) for server in (one, other, one)]
        for client in mine:
            assert (await receive(client))["type"] == "ready"
        assert open_now() == 3
        async with enter(other) as fourth:
            assert await end_of(fourth) == (4429, "too many sockets of this person")
        await mine[0].close()

        async def room_again() -> bool:
            async with enter(other) as client:
                try:
                    return bool((await receive(client))["type"] == "ready")
                except ConnectionClosed:
                    return False

        await eventually(room_again)
        others = [await stack.enter_async_context(enter(one, uuid4())) for _ in range(5)]
        for client in others:
            assert (await receive(client))["type"] == "ready"
        async with enter(one, uuid4()) as seventh:
            code, reason = await end_of(seventh)
        assert code == 1013
        assert re.fullmatch(r"no room for another socket; retry_ms=\d+", reason)
    await eventually(lambda: open_now() == 0)


async def test_a_slow_reader_is_dropped_and_nobody_waits(
    server: Server, resources: "Resources", principal: "Principal", enter: Enter, eventually: Callable[..., Any]
) -> None:
    """One that takes nothing does not fill the memory, and does not hold up the other socket of the same person."""
    before = closed("slow")
    narrow = sockets.socket()
    narrow.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 2048)
    narrow.setblocking(False)
    await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", server.port))
    async with enter(server, sock=narrow, max_queue=1) as slow, enter(server) as quick:
        await receive(quick)

        async def flood() -> bool:
            for _ in range(5):
                await resources.events.publish(principal.id, "thing.made", {"text": "x" * (MAX_BYTES - 100)})
                assert (await receive(quick))["type"] == "event"
            return closed("slow") > before

        await eventually(flood)
        await eventually(lambda: open_now() == 1)
        slow.transport.abort()


async def test_a_dead_peer_is_dropped(server: Server, enter: Enter, eventually: Callable[..., Any]) -> None:
    """One that leaves a ping unanswered, as when its network is gone."""
    async with enter(server) as client:
        await receive(client)
        assert open_now() == 1
        client.transport.pause_reading()
        await eventually(lambda: open_now() == 0)
        client.transport.abort()


async def test_a_restart_of_redis_is_survived(
    server: Server, resources: "Resources", principal: "Principal", enter: Enter, without: "Without"
) -> None:
    """The socket stays, is told that it may have missed something, and hears what comes next."""
    async with enter(server) as client:
        ready = await receive(client)
        await asyncio.to_thread(_restart, without)
        reset = await receive(client)
        assert reset["type"] == "reset"
        assert reset["id"] != ready["id"]
        await resources.events.publish(principal.id, "thing.made", {"n": 1})
        assert (await receive(client))["data"] == {"n": 1}


async def test_a_lost_connection_to_redis_loses_no_event(
    server: Server,
    resources: "Resources",
    principal: "Principal",
    enter: Enter,
    eventually: Callable[..., Any],
) -> None:
    """What was published meanwhile comes from the stream, once."""
    async with enter(server) as client:
        await receive(client)
        for number in range(3):
            await resources.events.publish(principal.id, "thing.made", {"n": number})
            await eventually(lambda: resources.cache.redis.client_kill_filter(_type="pubsub"))
        await resources.events.publish(principal.id, "thing.made", {"n": 3})
        assert [(await receive(client)).get("data", {}).get("n") for _ in range(4)] == [0, 1, 2, 3]


async def test_without_redis_sockets_are_sent_away_until_it_is_back(
    server: Server,
    resources: "Resources",
    client: httpx.AsyncClient,
    auth_headers: dict[str, str],
    enter: Enter,
    without: "Without",
    eventually: Callable[..., Any],
) -> None:
    """Those there are, after a while; new ones and tickets at once. Then all is as before, without a restart of ours."""
    ticket = await tickets.issue(resources.events, uuid4(), int(time.time()) + 60)
    async with enter(server) as there:
        await receive(there)

        async def meanwhile() -> None:
            code, reason = await end_of(there)
            assert code == 1013
            assert "retry_ms=" in reason
            async with server.connect() as late:
                await late.send(json.dumps({"type": "hello", "ticket": ticket}))
                assert (await end_of(late))[0] == 1013
            assert (await client.post("/api/v1/realtime/tickets", headers=auth_headers)).status_code == 503

        loop = asyncio.get_running_loop()

        def away() -> None:
            with without("cache"):
                asyncio.run_coroutine_threadsafe(meanwhile(), loop).result(30)

        await asyncio.to_thread(away)

    async def back() -> bool:
        response = await client.post("/api/v1/realtime/tickets", headers=auth_headers)
        if response.status_code != 201:
            return False
        async with server.connect() as again:
            await again.send(json.dumps({"type": "hello", "ticket": response.json()["ticket"]}))
            try:
                return bool((await receive(again))["type"] == "ready")
            except ConnectionClosed:
                return False

    await eventually(back, 10)


async def test_a_silent_redis_is_given_up(
    resources: "Resources", hung: "Without", eventually: Callable[..., Any]
) -> None:
    """One that keeps its connections open and says nothing: waited for, then told to who waits, then found again."""
    told: list[str] = []
    heard: list[tuple[str, bytes]] = []

    async def regained() -> None:
        told.append("regained")

    listener = Listener(
        resources.settings.cache,
        lambda channel, message: heard.append((channel, message)),
        regained,
        lambda: told.append("lost"),
        patience=0.2,
        silence=0.1,
    )
    await listener.subscribe("one")
    with hung("cache"):
        await eventually(lambda: "lost" in told)
        with pytest.raises(ListenerAway):
            await listener.subscribe("other")
    await listener.subscribe("other")
    assert told.count("regained") == 2
    for channel in ("one", "other"):
        await resources.cache.redis.publish(channel, b"1-1 {}")
    await eventually(lambda: heard == [("one", b"1-1 {}"), ("other", b"1-1 {}")])
    await listener.unsubscribe("one")
    await eventually(lambda: _nobody_hears(resources, "one"))
    await listener.close()


async def _nobody_hears(resources: "Resources", channel: str) -> bool:
    return await resources.cache.redis.publish(channel, b"1-2 {}") == 0


def _restart(without: "Without") -> None:
    with without("cache"):
        pass


def metric(text: str, name: str) -> float:
    """The sum of a metric in a scrape."""
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"{name}[ {{]", line))


async def test_two_processes(
    run_service: "RunService",
    resources: "Resources",
    principal: "Principal",
    free_port: int,
    tmp_path: "Path",
    enter: Enter,
    eventually: Callable[..., Any],
) -> None:
    """The command of production: they count together, an event reaches all, and a stop tells everybody when to return."""
    service = run_service("serve", "--port", str(free_port), "--workers", "2", LOG_LEVEL="INFO")
    server = Server(free_port, resources.settings)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{free_port}", timeout=5) as client:

        async def up() -> bool:
            with contextlib.suppress(httpx.TransportError):
                found = (await client.get("/metrics", headers={"Connection": "close"})).text
                return metric(found, "websocket_connections_limit") == 2000
            return False

        await eventually(up, 90)
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(enter(server)) for _ in range(10)]
            for one in clients:
                assert (await receive(one))["type"] == "ready"
            assert metric((await client.get("/metrics")).text, "websocket_connections") == 10
            await resources.events.publish(principal.id, "thing.made", {})
            for one in clients:
                assert (await receive(one))["type"] == "event"
            began = time.monotonic()
            service.process.terminate()
            ends = await asyncio.gather(*(end_of(one) for one in clients))
            assert {code for code, _ in ends} == {1012}
            times = {int(reason.removeprefix("restarting; retry_ms=")) for _, reason in ends}
            assert len(times) > 5
            await asyncio.to_thread(service.process.wait, 20)
            assert time.monotonic() - began < 15
