"""Server-sent events: what is sent, what fills a silence, and what ends with the client."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.core.streaming import Wire, events_of, streamed

Emit = Callable[[str, Any], Awaitable[None]]


async def test_silence_is_filled_with_comments() -> None:
    """A proxy that closes silent connections sees bytes; the client sees no event in them."""
    wire = Wire()

    async def work(emit: Emit) -> None:
        await emit("first", 1)
        while wire.body.count(": ping") < 2:
            await asyncio.sleep(0.01)
        await emit("last", 2)

    await streamed(work, wire, heartbeat=0.05)
    assert events_of(wire.body) == [("first", 1), ("last", 2)]
    assert wire.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_work_ends_with_its_client() -> None:
    """The client goes while the work waits for something else: it is cancelled, and may clean up."""
    wire = Wire()
    waiting, cleaned = asyncio.Event(), asyncio.Event()

    async def work(emit: Emit) -> None:
        await emit("first", 1)
        try:
            waiting.set()
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    stream = asyncio.create_task(streamed(work, wire))
    async with asyncio.timeout(20):
        await waiting.wait()
    assert not stream.done()
    wire.gone.set()
    await stream
    assert cleaned.is_set()
    assert events_of(wire.body) == [("first", 1)]


async def test_a_stream_is_neither_kept_nor_held_back() -> None:
    """No cache keeps it, no proxy collects it, and its length is not known."""
    wire = Wire()

    async def work(emit: Emit) -> None:
        await emit("line", {"text": "two\nlines"})

    await streamed(work, wire)
    headers = dict(wire.sent[0]["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"x-accel-buffering"] == b"no"
    assert b"content-length" not in headers
    assert events_of(wire.body) == [("line", {"text": "two\nlines"})]
