"""Health: a loop over what the process holds open, each part with a deadline of its own, all at once.

`/health` says that the process lives and asks nobody. `/health/ready` says whether it can serve. `/health/detailed`
names every part, and only to whoever holds HEALTH_TOKEN.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from enum import StrEnum

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from sqlalchemy import Row, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from app.core.access import Access
from app.core.db import Server
from app.core.errors import Unavailable
from app.core.messages.models import Lane
from app.core.migrations import missing
from app.core.project import project
from app.core.resources import AppResources, Resources
from app.core.worker_heartbeat import newest_heartbeat

DEADLINE_SECONDS = 2.0
# Without these nothing can be served; without any other part something still can.
ESSENTIAL = frozenset({"database", "migrations"})
# What stands in for the database, for reading.
REPLICA = "replica"
WORKER_SILENCE_SECONDS = 30.0

router = APIRouter(tags=["health"])
ACCESS = {
    "GET /health": Access.ANYONE,
    "GET /health/ready": Access.ANYONE,
    "GET /health/detailed": Access.HEALTH_TOKEN,
}


class Status(StrEnum):
    """How a part, or the whole, is."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class Alive(BaseModel):
    """The process answers."""

    status: Status = Field(examples=[Status.HEALTHY])
    version: str = Field(examples=["0.1.0"])


class Ready(BaseModel):
    """Whether requests should be sent here."""

    status: Status = Field(examples=[Status.HEALTHY])


class Part(BaseModel):
    """One part."""

    status: Status = Field(examples=[Status.HEALTHY])
    milliseconds: float = Field(description="How long the check took.", examples=[1.7])
    error: str | None = Field(default=None, description="What went wrong.", examples=[None])


class Detailed(Ready):
    """Every part."""

    version: str = Field(examples=["0.1.0"])
    parts: dict[str, Part]


@router.get("/health", summary="Is the process alive?")
async def alive() -> Alive:
    """Asks nobody, so that a dead neighbour cannot have this process restarted."""
    return Alive(status=Status.HEALTHY, version=project().version)


# Some load balancers and monitors ask by HEAD.
router.head("/health", include_in_schema=False)(alive)


@router.get("/health/ready", summary="Can it serve?", responses={503: {"model": Ready, "description": "Not now"}})
async def ready(resources: AppResources, response: Response) -> Ready:
    """Database reachable and migrated; `degraded` while only its replica is, which can be read from."""
    parts = await check_parts(resources, only=ESSENTIAL | {REPLICA})
    status = overall(parts)
    response.status_code = 503 if status is Status.UNHEALTHY else 200
    return Ready(status=status)


router.head("/health/ready", include_in_schema=False)(ready)


@router.get(
    "/health/detailed",
    summary="How is every part?",
    responses={503: {"model": Detailed, "description": "Not fit to serve"}},
)
async def detailed(resources: AppResources, response: Response) -> Detailed:
    """For whoever holds HEALTH_TOKEN; where none is set there is nothing here."""
    parts = await check_parts(resources)
    status = overall(parts)
    response.status_code = 503 if status is Status.UNHEALTHY else 200
    return Detailed(status=status, version=project().version, parts=parts)


def overall(parts: dict[str, Part]) -> Status:
    """Unhealthy when an essential part fails and nothing stands in for it, degraded when another one does."""
    failed = {name for name, part in parts.items() if part.status is Status.UNHEALTHY}
    essential = failed & ESSENTIAL
    if REPLICA in parts and REPLICA not in failed:
        essential.discard("database")
    if essential:
        return Status.UNHEALTHY
    return Status.DEGRADED if failed else Status.HEALTHY


async def check_parts(resources: Resources, only: frozenset[str] | None = None) -> dict[str, Part]:
    """Check the parts at once, each within DEADLINE_SECONDS.

    Args:
        only: names of the parts to check; all unless given.
    """
    checks: dict[str, Callable[[], Awaitable[None]]] = {part.name: part.check for part in resources.checked}
    checks["worker"] = lambda: _worker(resources)
    checks["migrations"] = lambda: _migrations(resources)
    checks["messages"] = lambda: _messages(resources)
    names = [name for name in checks if only is None or name in only]
    results = await asyncio.gather(*(_timed(checks[name]) for name in names))
    return dict(zip(names, results, strict=True))


async def _timed(check: Callable[[], Awaitable[None]]) -> Part:
    started = time.perf_counter()
    error: str | None = None
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await check()
    except TimeoutError:
        error = f"no answer within {DEADLINE_SECONDS:g} s"
    except Exception as failure:  # noqa: BLE001  # whatever goes wrong is the answer
        cause = failure.__cause__ or failure
        error = f"{type(cause).__name__}: {cause}"
    elapsed = round((time.perf_counter() - started) * 1000, 1)
    return Part(status=Status.UNHEALTHY if error else Status.HEALTHY, milliseconds=elapsed, error=error)


async def _worker(resources: Resources) -> None:
    heard = await newest_heartbeat(resources.broker.redis)
    if heard is None:
        raise RuntimeError("no worker has been heard of")
    if (silence := time.time() - heard) > WORKER_SILENCE_SECONDS:
        raise RuntimeError(f"no worker has been heard of for {silence:.0f} s")


async def _messages(resources: Resources) -> None:
    """Name each channel whose outage the admin is told of. While the database is away nothing is known of them."""
    down: Sequence[Row[str, str | None]] = ()
    late = timedelta(seconds=resources.settings.messages.tell_after_seconds)
    outages = select(Lane.channel, Lane.error).where(Lane.failures > 0, Lane.down_since <= func.now() - late)
    with suppress(Unavailable, SQLAlchemyError, TimeoutError):
        # Past the circuit, as every question here: who asks how things are must not make them worse.
        async with asyncio.timeout(DEADLINE_SECONDS / 2), resources.db.primary.connect() as connection:
            down = (await connection.execute(outages.order_by(Lane.channel))).all()
    if down:
        raise RuntimeError("; ".join(f"{channel}: {error}" for channel, error in down))


async def _migrations(resources: Resources) -> None:
    asked = [asyncio.create_task(_applied(server)) for server in (resources.db.primary, resources.db.replica) if server]
    try:
        # The first that answers: one that hangs must not make the other one's answer late.
        for answer in asyncio.as_completed(asked):
            with suppress(Unavailable, SQLAlchemyError):
                applied = await answer
                break
        else:
            applied = await asked[0]
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    if behind := missing(applied):
        raise RuntimeError(f"database is at {sorted(applied)}, the code needs {sorted(behind)}: run the migrations")


async def _applied(server: Server) -> set[str]:
    async with server.connect() as connection:
        return set((await connection.execute(text("SELECT version_num FROM alembic_version"))).scalars())
