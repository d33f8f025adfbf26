"""One WebSocket: what waits to be sent, what the peer may say, how it ends."""

import asyncio
import time
from collections import deque
from contextlib import suppress
from uuid import UUID, uuid4

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.core import metrics
from app.core.events import Backlog, Event, Position
from app.core.realtime import closing
from app.core.realtime.closing import Close
from app.core.settings import Ws

# Of one message that a client sends. uvicorn refuses larger ones before they are in memory.
MAX_MESSAGE_BYTES = 4096
# A client has little to say: a ping now and then.
MESSAGES_AT_ONCE = 20
MESSAGES_PER_SECOND = 1.0
# Beside a whole backlog, so many messages may wait for a reader.
WAITING = 64
CLOSE_SECONDS = 1.0
_PONG = '{"type":"pong"}'


class Socket:
    """A connection, from its acceptance to its close frame."""

    def __init__(self, websocket: WebSocket, settings: Ws) -> None:
        self.id = uuid4().hex
        self.user_id: UUID | None = None
        self.gate = ""
        # The newest event that was put into the queue; None until the backlog was.
        self.position: Position | None = None
        self.end: Close | None = None
        self.sent = 0
        self._websocket = websocket
        self._settings = settings
        self._limit = settings.resume_events + WAITING
        self._frames: deque[str] = deque()
        self._early: list[Event] = []
        self._wake = asyncio.Event()
        self._allowance = float(MESSAGES_AT_ONCE)
        self._allowance_at = time.monotonic()

    # What the hub does

    def offer(self, event: Event) -> None:
        """Have an event sent, unless it was. Never waits: whoever does not read loses the connection."""
        if self.position is None:
            self._early.append(event)
        elif event.position > self.position:
            self.position = event.position
            self._push(event.frame())
            metrics.EVENTS_DELIVERED.inc()

    def begin(self, backlog: Backlog, asked: Position | None) -> None:
        """Say that it is ready, what it missed, and what came meanwhile."""
        begins_at = asked if asked and backlog.complete else backlog.position
        self._say({"type": "ready", "id": str(begins_at), "ping_seconds": self._settings.ping_seconds})
        self.position = begins_at
        self.catch_up(backlog)
        early, self._early = self._early, []
        for event in early:
            self.offer(event)

    def catch_up(self, backlog: Backlog) -> None:
        """Send what was missed; what is gone is told, so that the client asks for the whole state."""
        if not backlog.complete:
            self.position = backlog.position
            self._say({"type": "reset", "id": str(backlog.position)})
        for event in backlog.events:
            self.offer(event)

    def finish(self, end: Close) -> None:
        """End it for this reason, unless it has ended for another."""
        if self.end is None:
            self.end = end
            self._wake.set()

    # What the connection does

    async def hello(self) -> tuple[str, Position | None]:
        """The ticket that the client shows first, and where it wants to go on. It may have ended instead: see `end`."""
        try:
            async with asyncio.timeout(self._settings.hello_seconds):
                message = await self._receive()
        except TimeoutError:
            self.finish(closing.NO_HELLO)
            return "", None
        ticket, last = (message or {}).get("ticket"), (message or {}).get("last_event_id")
        if not message or message.get("type") != "hello" or not isinstance(ticket, str):
            self.finish(closing.UNEXPECTED)
            return "", None
        # A place that never was ours is a gap like any other.
        return ticket, (Position.parse(str(last)) or Position(0, 0)) if last else None

    async def run(self, expires_at: float) -> None:
        """Send and receive until it ends."""
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(max(0.0, expires_at - time.time()), self.finish, closing.EXPIRED)
        reading = asyncio.create_task(self._read())
        try:
            await self._write()
        finally:
            expiry.cancel()
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading

    async def close(self) -> None:
        """Send the close frame; a peer that takes nothing does not get it."""
        end = self.end or closing.GONE
        with suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._websocket.close(end.code, end.text())

    async def _write(self) -> None:
        while self.end is None:
            if not self._frames:
                self._wake.clear()
                await self._wake.wait()
                continue
            try:
                async with asyncio.timeout(self._settings.send_seconds):
                    await self._websocket.send_text(self._frames.popleft())
                self.sent += 1
            except TimeoutError:
                self.finish(closing.SLOW)
            except WebSocketDisconnect:
                self.finish(closing.GONE)

    async def _read(self) -> None:
        while (message := await self._receive()) is not None:
            if message.get("type") == "ping":
                self._push(_PONG)
            else:
                self.finish(closing.UNEXPECTED)

    async def _receive(self) -> dict[str, object] | None:
        """The next message, or None at the end."""
        received = await self._websocket.receive()
        if received["type"] == "websocket.disconnect":
            # uvicorn says 1012 when it stops; it has sent the close frame then.
            self.finish(closing.RESTARTING if received.get("code") == closing.RESTARTING.code else closing.GONE)
            return None
        text = received.get("text")
        if text is None:
            self.finish(closing.UNREADABLE)
        elif len(text) > MAX_MESSAGE_BYTES:
            self.finish(closing.TOO_LARGE)
        elif not self._allowed():
            self.finish(closing.TOO_FAST)
        else:
            try:
                message = orjson.loads(text)
            except orjson.JSONDecodeError:
                message = None
            if isinstance(message, dict):
                return message
            self.finish(closing.UNREADABLE)
        return None

    def _allowed(self) -> bool:
        now = time.monotonic()
        gained = (now - self._allowance_at) * MESSAGES_PER_SECOND
        self._allowance = min(float(MESSAGES_AT_ONCE), self._allowance + gained) - 1
        self._allowance_at = now
        return self._allowance >= 0

    def _say(self, message: dict[str, object]) -> None:
        self._push(orjson.dumps(message).decode())

    def _push(self, frame: str) -> None:
        if len(self._frames) >= self._limit:
            self._frames.clear()
            self.finish(closing.SLOW)
        elif self.end is None:
            self._frames.append(frame)
            self._wake.set()
