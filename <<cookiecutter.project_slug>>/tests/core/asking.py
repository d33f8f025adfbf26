"""Asking for tasks, and what became of them; and asking a process of the service."""

import ssl
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from sqlalchemy import select

from app.core.outbox import OutboxTask
from app.core.tasks import Task, enqueue

if TYPE_CHECKING:
    from app.core.resources import Resources


# Reading all authorities of the world takes longer than most requests here, and nobody shows a certificate.
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def get(url: str, seconds: float = 10) -> httpx.Response:
    """GET by a connection of its own."""
    return httpx.get(url, timeout=seconds, verify=_NO_CERTIFICATES)


def answers(url: str) -> bool:
    """Whether somebody is there and says 200."""
    try:
        return get(url).status_code == 200
    except httpx.TransportError:
        return False


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
