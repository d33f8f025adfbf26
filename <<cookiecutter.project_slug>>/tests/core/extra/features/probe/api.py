"""Routes that do what real ones do at their worst."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, cast

from app.features.probe.tasks import (  # type: ignore[import-not-found]  # a feature of the tests alone
    BEGUN,
    GATE,
    look,
    note,
)
from fastapi import File, Query, Request, Response, UploadFile
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from starlette.responses import StreamingResponse

from app.core.access import Access
from app.core.api import feature_router
from app.core.errors import Conflict
from app.core.idempotency import IDEMPOTENT
from app.core.outbox import OutboxTask
from app.core.resources import AppResources
from app.core.security import CurrentUser
from app.core.tasks import enqueue

router = feature_router("probe")
ACCESS = {
    "POST /api/v1/probe/things": Access.ANYONE,
    "GET /api/v1/probe/things/{number}": Access.ANYONE,
    "POST /api/v1/probe/files": Access.ANYONE,
    "POST /api/v1/probe/stream": Access.ANYONE,
    "POST /api/v1/probe/fail": Access.ANYONE,
    "GET /api/v1/probe/slow": Access.ANYONE,
    "GET /api/v1/probe/drip": Access.ANYONE,
    "POST /api/v1/probe/drip": Access.ANYONE,
    "GET /api/v1/probe/staff": Access.STAFF,
    "GET /api/v1/probe/cached": Access.ANYONE,
    "POST /api/v1/probe/tasks": Access.ANYONE,
    "POST /api/v1/probe/orders": Access.ANYONE,
    "POST /api/v1/probe/orders/mine": Access.SIGNED_IN,
}


class Thing(BaseModel):
    """Something with one field of each kind."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=100, examples=["a thing"])
    count: int = Field(default=0, examples=[1])
    share: float = Field(default=0.0, examples=[0.5])
    anything: Any = Field(default=None, examples=[None])


@router.post("/things", summary="Give a part of it back")
async def things(thing: Thing) -> dict[str, str]:
    """A body of JSON."""
    return {"name": thing.name}


@router.get("/things/{number}", summary="A number")
async def thing(number: int, at_most: Annotated[int, Query(le=100)] = 10) -> dict[str, int]:
    """Path and query."""
    return {"number": number, "at_most": at_most}


@router.post("/files", summary="Count the bytes of a file")
async def files(file: Annotated[UploadFile, File()]) -> dict[str, int]:
    """A form."""
    return {"bytes": len(await file.read())}


@router.post("/stream", summary="Count the bytes of a body")
async def stream(request: Request) -> dict[str, int]:
    """A body read piece by piece."""
    return {"bytes": sum([len(piece) async for piece in request.stream()])}


@router.post("/fail", summary="Fail in a way that nobody foresaw")
async def fail() -> None:
    """With personal data in the error."""
    raise RuntimeError("no luck with ada@example.com at postgresql://app:hunter22hunter22@db/app")


@router.get("/slow", summary="Never answer")
async def slow() -> None:
    """Until the client goes."""
    await asyncio.Event().wait()


@router.get("/drip", summary="Answer slowly")
@router.post("/drip", summary="Answer slowly, whatever is sent")
async def drip() -> StreamingResponse:
    """Begins at once and takes a second."""

    async def drops() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"."
            await asyncio.sleep(0.25)

    return StreamingResponse(drops(), media_type="text/plain")


@router.get("/staff", summary="For people with a role")
async def staff(user: CurrentUser) -> dict[str, str]:
    """For those who are staff."""
    return {"id": str(user.id)}


@router.get("/cached", summary="A value through the cache")
async def cached(resources: AppResources) -> dict[str, int]:
    """Made once in a while."""

    async def make() -> dict[str, int]:
        return {"value": 1}

    value: dict[str, int] = await resources.cache.get_or_set("probe:cached", make)
    return value


@router.post("/tasks", summary="Ask for a task")
async def ask(resources: AppResources) -> dict[str, str]:
    """As an upload does: a row, and a task about it."""
    async with resources.db.transaction() as session:
        return {"task": str(enqueue(session, look, "x"))}


class Order(BaseModel):
    """What is to happen to it.

    Attributes:
        wait: after the work, until the gate is open.
        fail: after the work.
        secret: answer what may not be stored.
    """

    name: str
    wait: bool = False
    fail: bool = False
    secret: bool = False


@router.post("/orders", status_code=201, summary="Order something, once", dependencies=[IDEMPOTENT])
async def order(order: Order, resources: AppResources, response: Response) -> dict[str, Any]:
    """In two transactions, each with a task, and a look at what is there."""
    for step in ("order", "send"):
        async with resources.db.transaction() as session:
            identity = enqueue(session, note, f"{step} {order.name}")
    async with resources.db.read() as session:
        count = await session.scalar(select(func.count()).select_from(OutboxTask))
    if order.wait:
        await cast("asyncio.Future[int]", resources.cache.redis.rpush(BEGUN, order.name))
        while not await resources.cache.redis.exists(GATE):
            await asyncio.sleep(0.01)
    if order.fail:
        raise Conflict
    response.headers["Location"] = f"/orders/{identity}"
    if order.secret:
        response.headers["Cache-Control"] = "no-store"
    return {"id": str(identity), "count": count}


@router.post("/orders/mine", status_code=201, summary="Order a file, once", dependencies=[IDEMPOTENT])
async def order_file(user: CurrentUser, file: Annotated[UploadFile, File()], resources: AppResources) -> dict[str, Any]:
    """A form, of a person."""
    async with resources.db.transaction() as session:
        identity = enqueue(session, note, str(user.id))
    return {"id": str(identity), "bytes": len(await file.read())}
