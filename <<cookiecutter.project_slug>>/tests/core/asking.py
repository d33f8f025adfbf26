"""Asking for tasks, and what became of them."""

from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import select

from app.core.outbox import OutboxTask
from app.core.tasks import Task, enqueue

if TYPE_CHECKING:
    from app.core.resources import Resources


async def ask(resources: "Resources", task: Task[Any], *names: str) -> list[UUID]:
    """Enqueue a task once for each name, all in one transaction."""
    async with resources.db.transaction() as session:
        return [enqueue(session, task, name) for name in names]


async def said(resources: "Resources", where: str) -> list[str]:
    """What tasks have said so far."""
    lines = await resources.cache.redis.lrange(where, 0, -1)
    return [line.decode() if isinstance(line, bytes) else line for line in lines]


async def left(resources: "Resources") -> list[tuple[str, str, int]]:
    """Tasks that are not done: name, state, attempts."""
    async with resources.db.read() as session:
        found = await session.execute(
            select(OutboxTask.name, OutboxTask.state, OutboxTask.attempts).order_by(OutboxTask.id)
        )
        return [(row.name, row.state, row.attempts) for row in found]
