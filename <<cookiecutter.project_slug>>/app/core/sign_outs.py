"""Access tokens end with the session that they are from, though no request asks anybody.

A token names its session (`sid`). Whoever ends a session notes it in the same transaction:

    note_ended(session, ended_ids)

and every process that serves reads these notes each AUTH_SIGN_OUT_SECONDS, so that a request costs one look into a table in
memory. A process that cannot reach the database hears of nothing new: what it knows holds, and the other tokens end when they
expire. So do those that name no session, as many of an outside provider.
"""

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import structlog
from sqlalchemy import Index, delete, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base, CreatedAt, Database
from app.core.errors import AppError
from app.core.settings import Auth
from app.core.tasks import Queue, task

if TYPE_CHECKING:
    from app.core.resources import Resources

log = structlog.get_logger(__name__)

# A note carries the time at which its transaction began, and is seen when that ends: so far back is read again.
OVERLAP = timedelta(minutes=1)
# Clocks differ, and what is kept too long costs nothing.
SLACK = timedelta(minutes=5)


class EndedSession(Base):
    """A session whose access tokens may not have expired yet.

    Attributes:
        id: as the claim `sid` has it.
        created_at: when it ended.
    """

    __tablename__ = "ended_sessions"
    __table_args__ = (Index("ix_ended_sessions_created_at", "created_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    created_at: Mapped[CreatedAt]


def note_ended(session: AsyncSession, ids: Iterable[UUID]) -> None:
    """Let the access tokens of these sessions end, if the transaction commits.

    Args:
        session: of the transaction that ends them.
        ids: each of them ends once.
    """
    session.add_all(EndedSession(id=identity) for identity in ids)


class SignOuts:
    """What this process knows of sessions that have ended.

    Args:
        db: where it is noted.
        settings: how long tokens live, and how often to look.
    """

    def __init__(self, db: Database, settings: Auth) -> None:
        self._db = db
        self._life = timedelta(minutes=settings.access_token_minutes) + SLACK
        self._seconds = settings.sign_out_seconds
        self._ended: dict[str, datetime] = {}
        self._deaf = False

    def __contains__(self, session_id: str) -> bool:
        """Whether this session is over."""
        return session_id in self._ended

    async def read(self) -> None:
        """Look for what has ended since the last time, and forget whose tokens have expired.

        Raises:
            Unavailable: the database is away.
        """
        newest = max(self._ended.values(), default=None)
        since = func.now() - self._life if newest is None else newest - OVERLAP
        async with self._db.read() as session:
            found = await session.execute(
                select(EndedSession.id, EndedSession.created_at).where(EndedSession.created_at > since)
            )
            self._ended |= {str(row.id): row.created_at for row in found}
        if newest is not None:
            self._ended = {name: at for name, at in self._ended.items() if at > newest - self._life}

    async def watch(self) -> None:
        """`read` for as long as the process lives."""
        while True:
            try:
                await self.read()
                self._deaf = False
            except (AppError, SQLAlchemyError, OSError) as error:  # the next look may find it back, or migrated
                if not self._deaf:
                    log.warning("sign_outs_not_heard", error=repr(error))
                self._deaf = True
            await asyncio.sleep(self._seconds)


@task("core.prune_sign_outs", queue=Queue.LOW, durable=False)
async def prune(resources: "Resources") -> None:
    """Forget the sessions whose access tokens have all expired."""
    life = timedelta(minutes=resources.settings.auth.access_token_minutes) + SLACK
    async with resources.db.transaction() as session:
        await session.execute(delete(EndedSession).where(EndedSession.created_at < func.now() - life))
