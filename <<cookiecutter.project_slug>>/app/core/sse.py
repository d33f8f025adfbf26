"""Server-sent events: an answer that comes in pieces, over plain HTTP.

    async def work(emit: Emit) -> None:
        await emit("progress", {"done": 1})

    return EventStream(work)

FastAPI's own stream (`fastapi.sse`) starts a generator after the status is sent and notices a client that has gone when it
next writes; here the handler does what can fail before it returns the stream, and the work is cancelled at once when the
client goes, whatever it waits for.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import orjson
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Emit = Callable[[str, Any], Awaitable[None]]
# Below the 30 s that nginx and most load balancers wait for a byte.
HEARTBEAT_SECONDS = 10.0
# In the scope of a request: its answer takes as long as it takes, which says nothing about the service.
STREAMED = "app.streamed"


class EventStream(Response):
    """Events as they come, each a name and a value of JSON; a comment where there was none for a while.

    Args:
        work: sends the events; the stream ends when it returns, and it is cancelled when the client goes.
        heartbeat_seconds: of silence before a comment.
    """

    media_type = "text/event-stream"

    def __init__(self, work: Callable[[Emit], Awaitable[None]], heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        # nginx passes each piece on as it comes when the answer says so itself; other proxies know `no-store`.
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._work = work
        self._heartbeat_seconds = heartbeat_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        scope[STREAMED] = True
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        spoke = anyio.current_time()
        turn = anyio.Lock()

        async def write(data: bytes) -> None:
            nonlocal spoke
            async with turn:
                await send({"type": "http.response.body", "body": data, "more_body": True})
                spoke = anyio.current_time()

        async def emit(event: str, value: Any) -> None:
            await write(format_sse_event(event=event, data_str=orjson.dumps(value, default=str).decode()))

        async def beat() -> None:
            while True:
                await anyio.sleep_until(spoke + self._heartbeat_seconds)
                if anyio.current_time() >= spoke + self._heartbeat_seconds:
                    await write(KEEPALIVE_COMMENT)

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            everything.cancel_scope.cancel()

        async with anyio.create_task_group() as everything:
            everything.start_soon(beat)
            everything.start_soon(watch)
            await self._work(emit)
            everything.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
