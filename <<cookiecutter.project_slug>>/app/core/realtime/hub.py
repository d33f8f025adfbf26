"""The sockets of this process: how many there may be, whose they are, and the events that they get."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from starlette.websockets import WebSocket

from app.core import metrics
from app.core.cache import AWAY
from app.core.circuit import CircuitOpen
from app.core.events import Events, channel, read_message
from app.core.logging import user_id as logged_user
from app.core.middleware import HostNames
from app.core.realtime import closing, tickets
from app.core.realtime.listener import Listener, ListenerAway
from app.core.realtime.socket import Socket
from app.core.settings import Settings

log = structlog.get_logger(__name__)

# Greetings that ask Redis at the same time: after a deploy everybody comes back at once.
GREETINGS_AT_ONCE = 20
# How often the sockets here are counted as alive, and after how long those of a process that died count no longer.
REFRESH_SECONDS = 30
FORGET_SECONDS = 90
NOBODY = UUID(int=0)


class Hub:
    """Every socket of this process. Opens nothing before the first one comes."""

    def __init__(self, settings: Settings, events: Events) -> None:
        self._settings = settings.ws
        self._origins = frozenset(settings.http.cors_origins)
        self._hosts = HostNames(settings.allowed_hosts)
        self._https_only = settings.production
        self._events = events
        self._listener = Listener(settings.cache, self._hear, self._catch_up, self._lost, self._settings.away_seconds)
        self._sockets: set[Socket] = set()
        self._people: dict[UUID, set[Socket]] = {}
        self._greetings = asyncio.Semaphore(GREETINGS_AT_ONCE)
        self._left: list[Socket] = []
        self._someone_left = asyncio.Event()
        self._chores: list[asyncio.Task[None]] = []
        self._open = metrics.WEBSOCKETS
        metrics.WEBSOCKETS_LIMIT.set(self._settings.max_connections)

    async def serve(self, websocket: WebSocket) -> None:
        """A connection, from its request to its end."""
        if not self._origin_fits(websocket.headers.get("origin")):
            metrics.WEBSOCKETS_CLOSED.labels("origin").inc()
            await websocket.close()  # before it is accepted, so an answer of 403
            return
        began = time.monotonic()
        await websocket.accept()
        socket = Socket(websocket, self._settings)
        if len(self._sockets) >= self._settings.max_connections:
            socket.finish(closing.FULL)
        else:
            self._sockets.add(socket)
            self._open.inc()
            try:
                await self._serve(socket)
            finally:
                self._sockets.discard(socket)
                self._open.dec()
        end = socket.end or closing.GONE
        metrics.WEBSOCKETS_CLOSED.labels(end.cause).inc()
        await socket.close()
        seconds = round(time.monotonic() - began, 2)
        log.info("websocket", code=end.code, cause=end.cause, seconds=seconds, sent=socket.sent)

    async def close(self) -> None:
        """End what is left, when the server stops without telling the sockets."""
        for socket in self._sockets:
            socket.finish(closing.RESTARTING)
        for chore in self._chores:
            chore.cancel()
            with suppress(asyncio.CancelledError):
                await chore
        await self._tell(self._leave)
        await self._listener.close()

    # One socket

    async def _serve(self, socket: Socket) -> None:
        word, asked = await socket.hello()
        if socket.end:
            return
        async with AsyncExitStack() as stack:
            try:
                async with self._greetings, self._events.circuit.guard():
                    ticket = await tickets.redeem(self._events, word)
                    if ticket is None:
                        socket.finish(closing.NO_TICKET)
                        return
                    logged_user.set(str(ticket.user_id))
                    socket.user_id, socket.gate = ticket.user_id, ticket.gate
                    await stack.enter_async_context(self._counted(socket, ticket.user_id))
                    if socket.end:
                        return
                    await stack.enter_async_context(self._hearing(socket, ticket.user_id))
                    backlog = await self._events.since(ticket.user_id, asked)
            except (*AWAY, CircuitOpen, ListenerAway) as error:
                log.warning("websocket_refused", error=repr(error))
                socket.finish(closing.AWAY)
                return
            if backlog.gate != ticket.gate:
                socket.finish(closing.STALE)
                return
            socket.begin(backlog, asked)
            await socket.run(ticket.expires_at)

    @asynccontextmanager
    async def _counted(self, socket: Socket, user_id: UUID) -> AsyncIterator[None]:
        """Count it among the person's sockets on all processes, unless there are too many."""
        self._begin_chores()
        async with self._events.redis.pipeline(transaction=True) as pipeline:
            pipeline.zremrangebyscore(_key(user_id), 0, time.time() - FORGET_SECONDS)
            pipeline.zadd(_key(user_id), {socket.id: time.time()})
            pipeline.zcard(_key(user_id))
            pipeline.expire(_key(user_id), FORGET_SECONDS)
            _, _, count, _ = await pipeline.execute()
        try:
            if count > self._settings.max_per_user:
                socket.finish(closing.TOO_MANY)
            yield
        finally:
            self._left.append(socket)
            self._someone_left.set()

    @asynccontextmanager
    async def _hearing(self, socket: Socket, user_id: UUID) -> AsyncIterator[None]:
        """Hand it the person's events. The first socket of a person subscribes to them and the last one ends that."""
        sockets = self._people.setdefault(user_id, set())
        sockets.add(socket)
        try:
            await self._listener.subscribe(channel(user_id))
            yield
        finally:
            sockets.discard(socket)
            if not sockets and self._people.get(user_id) is sockets:
                del self._people[user_id]
                await self._listener.unsubscribe(channel(user_id))

    def _origin_fits(self, origin: str | None) -> bool:
        """A browser says which page opens the socket; other programs say nothing and have no cookies to be abused."""
        if origin is None or origin in self._origins or "*" in self._origins:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        if parts.scheme != "https" and (self._https_only or parts.scheme != "http"):
            return False
        return parts.netloc.encode() in self._hosts

    # All of them

    def _hear(self, where: str, message: bytes) -> None:
        event = read_message(message)
        for socket in self._people.get(_person(where) or NOBODY, ()):
            if event:
                socket.offer(event)
            else:
                socket.finish(closing.SIGNED_OUT)

    async def _catch_up(self) -> None:
        """After the connection to Redis was lost: what everybody here missed."""
        for user_id, sockets in list(self._people.items()):
            begun = {socket: socket.position for socket in sockets if socket.position}
            if not begun:
                continue
            backlog = await self._events.since(user_id, min(begun.values()))
            for socket in begun:
                if socket.gate == backlog.gate:
                    socket.catch_up(backlog)
                else:
                    socket.finish(closing.STALE)

    def _lost(self) -> None:
        for sockets in self._people.values():
            for socket in sockets:
                socket.finish(closing.AWAY)

    def _begin_chores(self) -> None:
        if not self._chores:
            self._chores = [asyncio.create_task(self._refresh()), asyncio.create_task(self._forget())]

    async def _refresh(self) -> None:
        """Say from time to time that the sockets here live, and keep the streams of those who hear nothing."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await self._tell(self._alive)

    async def _alive(self) -> None:
        for user_id, sockets in list(self._people.items()):
            async with self._events.redis.pipeline(transaction=False) as pipeline:
                pipeline.zadd(_key(user_id), {socket.id: time.time() for socket in sockets})
                pipeline.expire(_key(user_id), FORGET_SECONDS)
                self._events.keep(pipeline, user_id)
                await pipeline.execute()

    async def _forget(self) -> None:
        """Take the sockets that ended out of the count, all that have ended meanwhile at once."""
        while True:
            await self._someone_left.wait()
            self._someone_left.clear()
            await self._tell(self._leave)

    async def _leave(self) -> None:
        left, self._left = self._left, []
        if left:
            async with self._events.redis.pipeline(transaction=False) as pipeline:
                for socket in left:
                    assert socket.user_id
                    pipeline.zrem(_key(socket.user_id), socket.id)
                await pipeline.execute()

    async def _tell(self, do: Callable[[], Awaitable[None]]) -> None:
        """A chore that Redis may miss: a socket that was not taken out of the count is forgotten a little later."""
        try:
            async with self._events.circuit.guard():
                await do()
        except (*AWAY, CircuitOpen) as error:
            log.debug("sockets_not_counted", error=repr(error))


@asynccontextmanager
async def open_hub(settings: Settings, events: Events) -> AsyncIterator[Hub]:
    """A hub for the life of a process that serves sockets."""
    hub = Hub(settings, events)
    try:
        yield hub
    finally:
        await hub.close()


def _key(user_id: UUID) -> str:
    return f"sockets:{user_id}"


def _person(where: str) -> UUID | None:
    with suppress(ValueError):
        return UUID(where.rpartition(":")[2])
    return None
