"""Tasks that do what real ones do at their worst. Each says in Redis when it begins and when it is done."""

import asyncio
import os
import signal
import time
from datetime import timedelta
from typing import cast

import structlog
from sqlalchemy import text

from app.core.logging import request_id
from app.core.resources import Resources
from app.core.tasks import Periodic, Queue, enqueue, task

log = structlog.get_logger(__name__)

BEGUN = "probe:begun"
DONE = "probe:done"
BURIED = "probe:buried"
TICKS = "probe:ticks"
GATE = "probe:gate"


async def _say(resources: Resources, where: str, what: str) -> int:
    # Told apart from the cache's own keys by the prefix; redis-py's types know both of its clients at once.
    return await cast("asyncio.Future[int]", resources.cache.redis.rpush(where, what))


async def buried(resources: Resources, name: str) -> None:
    """What a feature is told of a dead task."""
    await _say(resources, BURIED, name)


@task("probe.note_critical", queue=Queue.CRITICAL)
async def note_critical(resources: Resources, name: str) -> None:
    """Leave a note."""
    await _say(resources, BEGUN, name)
    await _say(resources, DONE, f"{name} {request_id.get()}".strip())


@task("probe.note", queue=Queue.LOW)
async def note(resources: Resources, name: str) -> None:
    """Leave a note, without hurry."""
    await _say(resources, BEGUN, name)
    await _say(resources, DONE, f"{name} {request_id.get()}".strip())


@task("probe.look", queue=Queue.HIGH)
async def look(resources: Resources, name: str) -> None:
    """Ask the database, and ask for a further task about it."""
    log.info("probe_looks")
    async with resources.db.transaction() as session:
        await session.execute(text("SELECT 42 AS answer"))
        enqueue(session, note, name)


@task("probe.wait", queue=Queue.LOW)
async def wait(resources: Resources, name: str) -> None:
    """Begin, and go on once the gate is open."""
    await _say(resources, BEGUN, name)
    while not await resources.cache.redis.exists(GATE):  # it is opened from another process
        await asyncio.sleep(0.01)
    await _say(resources, DONE, name)


@task("probe.fail", queue=Queue.HIGH, max_attempts=3, on_dead=buried)
async def fail(resources: Resources, name: str) -> None:
    """Fail each time."""
    await _say(resources, BEGUN, name)
    raise RuntimeError("cannot reach ada@example.com at https://ada:hunter22hunter22@example.com")


@task("probe.die", queue=Queue.HIGH, max_attempts=2, on_dead=buried)
async def die(resources: Resources, name: str) -> None:
    """Take the whole process along, as the kernel does when memory is short."""
    await _say(resources, BEGUN, name)
    os.kill(os.getpid(), signal.SIGKILL)


@task("probe.hang", queue=Queue.HIGH, limit=timedelta(seconds=0.2), max_attempts=1, on_dead=buried)
async def hang(resources: Resources, name: str) -> None:
    """Never end."""
    await _say(resources, BEGUN, name)
    await asyncio.Event().wait()


@task("probe.block", queue=Queue.HIGH, limit=timedelta(seconds=0.5), max_attempts=1, on_dead=buried)
async def block(resources: Resources, name: str) -> None:
    """Never end, and hold the event loop all the while."""
    await _say(resources, BEGUN, name)
    while True:
        time.sleep(3600)  # noqa: ASYNC251  # that is the point


@task("probe.tick", queue=Queue.MEDIUM, durable=False)
async def tick(resources: Resources) -> None:
    """What beat calls."""
    await _say(resources, TICKS, request_id.get())


@task("probe.trip", queue=Queue.MEDIUM, durable=False)
async def trip(resources: Resources) -> None:
    """What beat could call, and what fails."""
    raise ValueError("not today")


SCHEDULE = {"probe": Periodic(tick, timedelta(seconds=1))}
