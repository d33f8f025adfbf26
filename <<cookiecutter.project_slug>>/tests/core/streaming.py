"""Streams of events as a client sees them, and a client that can go away."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

Events = list[tuple[str, Any]]


def events_of(body: str) -> Events:
    """What a browser would make of the stream."""
    found: Events = []
    for block in body.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


Message = MutableMapping[str, Any]


@dataclass
class Wire:
    """A client of an ASGI application that can go away.

    Attributes:
        sent: what the application sent.
        gone: set it, and the application is told that nobody listens any more.
    """

    sent: list[Message] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self) -> Message:
        """Nothing, until the client goes."""
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take it."""
        self.sent.append(message)

    @property
    def body(self) -> str:
        """All that came."""
        return b"".join(message.get("body", b"") for message in self.sent).decode()


async def streamed(work: Callable[..., Awaitable[None]], wire: Wire, heartbeat: float = 10.0) -> None:
    """Answer `wire` with the stream of `work`."""
    from app.core.sse import EventStream

    async with asyncio.timeout(20):
        await EventStream(work, heartbeat)({"type": "http"}, wire.receive, wire.send)
