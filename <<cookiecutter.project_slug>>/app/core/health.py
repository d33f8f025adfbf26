"""Health: a loop over what the process holds open, each part with a deadline of its own, all at once.

`/health` says that the process lives and asks nobody. `/health/ready` says whether it can serve. `/health/detailed`
names every part, and only to whoever holds HEALTH_TOKEN.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from sqlalchemy import text

from app.core.access import Access
from app.core.errors import problem_responses
from app.core.migrations import expected_heads
from app.core.project import project
from app.core.resources import AppResources, Resources
from app.core.worker_heartbeat import newest_heartbeat

DEADLINE_SECONDS = 2.0
# Without these nothing can be served; without any other part something still can.
ESSENTIAL = frozenset({"database", "migrations"})
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


@router.get("/health/ready", summary="Can it serve?", responses={503: {"model": Ready, "description": "Not now"}})
async def ready(resources: AppResources, response: Response) -> Ready:
    """Database reachable and migrated."""
    parts = await check_parts(resources, only=ESSENTIAL)
    status = overall(parts)
    response.status_code = 503 if status is Status.UNHEALTHY else 200
    return Ready(status=status)


@router.get(
    "/health/detailed",
    summary="How is every part?",
    responses={503: {"model": Detailed, "description": "Not fit to serve"}, **problem_responses(404)},
)
async def detailed(resources: AppResources, response: Response) -> Detailed:
    """For whoever holds HEALTH_TOKEN; to everybody else there is nothing here."""
    parts = await check_parts(resources)
    status = overall(parts)
    response.status_code = 503 if status is Status.UNHEALTHY else 200
    return Detailed(status=status, version=project().version, parts=parts)


def overall(parts: dict[str, Part]) -> Status:
    """Unhealthy when an essential part fails, degraded when another one does."""
    failed = {name for name, part in parts.items() if part.status is Status.UNHEALTHY}
    if failed & ESSENTIAL:
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


async def _migrations(resources: Resources) -> None:
    async with resources.db.engine.connect() as connection:
        applied = set((await connection.execute(text("SELECT version_num FROM alembic_version"))).scalars())
    if applied != (expected := expected_heads()):
        raise RuntimeError(f"database is at {sorted(applied)}, the code expects {sorted(expected)}: run the migrations")
