"""The transactional outbox: a task is a row until it is done.

`enqueue` writes the row in the caller's transaction, so task and data commit together or not at all. The message goes
to the broker after the commit; the worker takes the row under a lease that it renews while it works, and deletes it
when done. Whatever is lost on the way - the process between commit and send, the broker's memory, a worker killed in
mid-task - leaves a row that is overdue, and the sweep sends it again. A message that arrives twice finds no row, or one
under another's lease, and is dropped.

    pending --sent--> sent --claimed--> running --done--> (deleted)
                                           |--failed--> waiting --due--> sent
                                           |--failed for the last time--> dead
                                           |--a neighbour is away--> waiting, as if it had not begun
                                           |--its worker has to end--> pending
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prometheus_client import CollectorRegistry
from sqlalchemy import ColumnElement, DateTime, Index, Text, and_, case, delete, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.core import metrics
from app.core.backoff import backoff, jittered
from app.core.db import Base, CreatedAt, Database, PrimaryId
from app.core.settings import Tasks as TaskSettings

if TYPE_CHECKING:
    from app.core.resources import Resources

MAX_RETRY_SECONDS = 3600.0
SWEEP_BATCH = 500


class State(StrEnum):
    """Where a task stands; see the picture above."""

    PENDING = "pending"
    SENT = "sent"
    RUNNING = "running"
    WAITING = "waiting"
    DEAD = "dead"


class OutboxTask(Base):
    """One task that is not done yet.

    Attributes:
        due_at: when the sweep has to look at it again, by the database's clock; of a dead one: since when it is dead.
        attempts: how often a worker has begun it.
        context: request id and user id of whoever asked for it, for the logs.
        error: the last failure.
    """

    __tablename__ = "task_outbox"
    __table_args__ = (Index("ix_task_outbox_due_at", "due_at", postgresql_where="state <> 'dead'"),)

    id: Mapped[PrimaryId]
    name: Mapped[str] = mapped_column(Text)
    args: Mapped[list[Any]] = mapped_column(JSONB)
    queue: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text, default=State.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    context: Mapped[dict[str, str]] = mapped_column(JSONB, default=dict)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[CreatedAt]


@dataclass(frozen=True, slots=True)
class Claim:
    """A task that this worker may run now. Its attempt counts as a fence: who lost the lease settles nothing any more."""

    id: UUID
    attempts: int
    context: dict[str, str]
    age: timedelta


class Outbox:
    """The steps of a task's life, each one statement."""

    def __init__(self, db: Database, settings: TaskSettings) -> None:
        self._db = db
        self._settings = settings

    async def mark_sent(self, ids: Sequence[UUID]) -> None:
        """The broker has them. A worker may have been faster, and even have failed: then there is nothing to mark."""
        async with self._db.transaction() as session:
            await session.execute(
                update(OutboxTask)
                .where(OutboxTask.id.in_(ids), OutboxTask.state == State.PENDING)
                .values(state=State.SENT, due_at=func.now() + timedelta(seconds=self._settings.redeliver_seconds))
            )

    async def claim(self, task_id: UUID) -> Claim | None:
        """Take the task; None when it is done, held by another worker, or waiting for its next attempt."""
        overdue = and_(OutboxTask.state == State.RUNNING, OutboxTask.due_at < func.now())
        free = OutboxTask.state.in_([State.PENDING, State.SENT])
        async with self._db.transaction() as session:
            row = (
                await session.execute(
                    update(OutboxTask)
                    .where(OutboxTask.id == task_id, or_(free, overdue))
                    .values(state=State.RUNNING, attempts=OutboxTask.attempts + 1, due_at=self._lease())
                    .returning(
                        OutboxTask.attempts, OutboxTask.context, (func.now() - OutboxTask.created_at).label("age")
                    )
                )
            ).one_or_none()
        return Claim(task_id, row.attempts, row.context, row.age) if row else None

    async def renew(self, claim: Claim) -> None:
        """The task is still being worked on."""
        await self._settle(claim, due_at=self._lease())

    async def finish(self, task_id: UUID) -> None:
        """The task is done."""
        async with self._db.transaction() as session:
            await session.execute(delete(OutboxTask).where(OutboxTask.id == task_id))

    async def retry(self, claim: Claim, error: str) -> timedelta:
        """The task failed and runs again after a wait that doubles with each attempt; returns that wait."""
        delay = timedelta(seconds=backoff(self._settings.retry_seconds, claim.attempts, MAX_RETRY_SECONDS))
        await self._settle(claim, state=State.WAITING, due_at=func.now() + delay, error=error)
        return delay

    async def postpone(self, claim: Claim, error: str) -> timedelta:
        """A neighbour that the task needs is away: it waits, and this attempt counts for nothing; returns the wait."""
        delay = timedelta(seconds=jittered(self._settings.away_seconds))
        await self._settle(
            claim, state=State.WAITING, due_at=func.now() + delay, error=error, attempts=OutboxTask.attempts - 1
        )
        return delay

    async def bury(self, claim: Claim, error: str) -> bool:
        """The task failed for the last time; it stays for a person to look at. False when another worker has it now."""
        return await self._settle(claim, state=State.DEAD, due_at=func.now(), error=error)

    async def release(self, claim: Claim) -> bool:
        """The worker has to end before the task does: it is free for another one, and this attempt counts for nothing."""
        return await self._settle(claim, state=State.PENDING, due_at=func.now(), attempts=OutboxTask.attempts - 1)

    async def dead(self, limit: int = 100) -> Sequence[OutboxTask]:
        """The tasks that failed for good, the latest first; `due_at` is when."""
        async with self._db.read() as session:
            rows = await session.scalars(
                select(OutboxTask).where(OutboxTask.state == State.DEAD).order_by(OutboxTask.due_at.desc()).limit(limit)
            )
            return rows.all()

    async def revive(self, ids: Sequence[UUID] | None = None) -> Sequence[OutboxTask]:
        """Give dead tasks all of their attempts again; returns them, to be sent.

        Args:
            ids: which; every dead one unless given. What is not dead is left alone.
        """
        async with self._db.transaction() as session:
            rows = await session.scalars(
                update(OutboxTask)
                .where(_dead(ids))
                .values(state=State.PENDING, attempts=0, due_at=func.now())
                .returning(OutboxTask)
            )
            return rows.all()

    async def discard(self, ids: Sequence[UUID] | None = None) -> int:
        """Forget dead tasks; returns how many.

        Args:
            ids: which; every dead one unless given. What is not dead is left alone.
        """
        async with self._db.transaction() as session:
            gone = await session.scalars(delete(OutboxTask).where(_dead(ids)).returning(OutboxTask.id))
            return len(gone.all())

    async def overdue(self) -> Sequence[OutboxTask]:
        """Tasks to send again, oldest first; each is handed out once per `send_grace_seconds`, whoever asks."""
        grace = timedelta(seconds=self._settings.send_grace_seconds)
        # Only a fresh row gets the grace: its sender may be about to send it.
        due = OutboxTask.due_at + case((OutboxTask.state == State.PENDING, grace), else_=literal(timedelta(0)))
        chosen = (
            select(OutboxTask.id)
            .where(OutboxTask.state != State.DEAD, OutboxTask.due_at < func.now(), due < func.now())
            .order_by(OutboxTask.due_at)
            .limit(SWEEP_BATCH)
            .with_for_update(skip_locked=True)
            # Not a plain subquery, which PostgreSQL may run once for each row and so lock more than the limit.
            .cte("chosen")
            .prefix_with("MATERIALIZED")
        )
        async with self._db.transaction() as session:
            rows = await session.scalars(
                update(OutboxTask)
                .where(OutboxTask.id.in_(select(chosen.c.id)))
                .values(state=State.PENDING, due_at=func.now())
                .returning(OutboxTask)
            )
            return rows.all()

    async def _settle(self, claim: Claim, **values: Any) -> bool:
        async with self._db.transaction() as session:
            changed = await session.scalars(
                update(OutboxTask)
                .where(
                    OutboxTask.id == claim.id,
                    OutboxTask.state == State.RUNNING,
                    OutboxTask.attempts == claim.attempts,
                )
                .values(**values)
                .returning(OutboxTask.id)
            )
            return changed.one_or_none() is not None

    def _lease(self) -> Any:
        return func.now() + timedelta(seconds=self._settings.lease_seconds)


def _dead(ids: Sequence[UUID] | None) -> ColumnElement[bool]:
    dead = OutboxTask.state == State.DEAD
    return dead if ids is None else and_(dead, OutboxTask.id.in_(ids))


async def sample_outbox(registry: CollectorRegistry, resources: "Resources") -> None:
    """For metrics: how many tasks wait or are dead, and since when the oldest waits."""
    age = func.extract("epoch", func.max(func.now() - OutboxTask.created_at))
    async with resources.db.read() as session:
        rows = (await session.execute(select(OutboxTask.state, func.count(), age).group_by(OutboxTask.state))).all()
    metrics.OUTBOX_TASKS.put(registry, dict.fromkeys(State, 0) | {state: count for state, count, _ in rows})
    metrics.OUTBOX_OLDEST.put(
        registry, {"": max((float(age) for state, _, age in rows if state != State.DEAD), default=0.0)}
    )
