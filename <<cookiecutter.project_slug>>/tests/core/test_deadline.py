"""No request hangs, whatever it waits for; what takes its time for a good reason may."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client import REGISTRY

from app.core.deadline import Deadlines

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.core.resources import Resources
    from app.core.settings import Settings
    from tests.core.conftest import SettingsWith

WebWith = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def web_with(
    make_app: "Callable[[Settings], FastAPI]", settings_with: "SettingsWith", resources: "Resources"
) -> WebWith:
    """A client of an API with the probe's routes and some settings changed."""

    @asynccontextmanager
    async def opened(**changed: object) -> AsyncIterator[httpx.AsyncClient]:
        app = make_app(settings_with(**changed))
        app.state.resources = resources
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client

    return opened


async def test_what_never_answers_is_answered(web_with: WebWith) -> None:
    """503 at the deadline, each for itself; the task that served it goes on with its life."""
    async with web_with(HTTP_REQUEST_SECONDS=0.3) as web:
        began = time.monotonic()
        answers = await asyncio.gather(*(web.get("/api/v1/probe/slow") for _ in range(3)))
        assert time.monotonic() - began < 3
        assert [answer.status_code for answer in answers] == [503] * 3
        assert answers[0].json()["code"] == "deadline_exceeded"
        assert answers[0].headers["retry-after"] == "5"
        this = asyncio.current_task()
        assert this
        assert not this.cancelling()
        await web.get("/api/v1/probe/slow")
        assert not this.cancelling()
        assert (await web.get("/health")).status_code == 200


async def pieces(count: int, pause: float) -> AsyncIterator[bytes]:
    """A body that comes in slowly."""
    for _ in range(count):
        await asyncio.sleep(pause)
        yield b"x"


async def test_an_upload_may_be_slow(web_with: WebWith) -> None:
    """Its deadline is another one, and the request's own begins when the body is in."""
    async with web_with(HTTP_REQUEST_SECONDS=0.5) as web:
        answer = await web.post("/api/v1/probe/stream", content=pieces(6, 0.2))
        assert (answer.status_code, answer.text) == (200, '{"bytes":6}')
    async with web_with(HTTP_REQUEST_SECONDS=30, HTTP_UPLOAD_SECONDS=0.5) as web:
        answer = await web.post("/api/v1/probe/stream", content=pieces(10_000, 0.1))
        assert (answer.status_code, answer.json()["code"]) == (503, "deadline_exceeded")


async def test_a_stream_may_be_long(web_with: WebWith) -> None:
    """Once an answer has begun it takes as long as it takes."""
    async with web_with(HTTP_REQUEST_SECONDS=0.3) as web:
        answer = await web.get("/api/v1/probe/drip")
        assert (answer.status_code, answer.text) == (200, "....")
        # The same while a body comes in that nobody asked for.
        answer = await web.post("/api/v1/probe/drip", content=pieces(2, 0.1))
        assert (answer.status_code, answer.text) == (200, "....")


async def test_a_client_that_goes_is_no_deadline(web_with: WebWith) -> None:
    """A cancellation from elsewhere stays one."""
    async with web_with(HTTP_REQUEST_SECONDS=30) as web:
        asking = asyncio.create_task(web.get("/api/v1/probe/slow"))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_a_loop_that_is_held_up_is_noticed(eventually: Callable[..., Any]) -> None:
    """Code that blocks instead of awaiting shows in the metric, and in nothing else."""

    def late() -> float:
        return REGISTRY.get_sample_value("event_loop_lag_seconds_sum", {"service": "api"}) or 0.0

    before = late()
    deadlines = Deadlines(30)
    deadline = deadlines.begin()
    time.sleep(1.4)  # noqa: ASYNC251  # that is the point
    await eventually(lambda: late() - before > 1)
    deadlines.end(deadline)
    await eventually(lambda: deadlines._timer is None)
