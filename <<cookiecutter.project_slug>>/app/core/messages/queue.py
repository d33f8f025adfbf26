"""The steps of a message's life, and of its lane's, each one statement or one transaction.

queued --claimed--> sending --taken--> sent          (its content is erased)
  ^                    |--not now--> queued           (after a wait that doubles)
  |                    |--refused, too late--> failed (its content is erased)
  |                    |--sandbox--> sandboxed
  '--its worker died, and `due_at` is over--'
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import CursorResult, and_, delete, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.elements import ColumnElement

from app.core.backoff import backoff
from app.core.db import Database, new_id
from app.core.messages.kinds import Channel
from app.core.messages.models import DeviceGone, Lane, MessageRow, State
from app.core.settings import Messages as MessagesSettings

LONGEST_RETRY_SECONDS = 3600.0
# Expo has receipts about a quarter of an hour later, and keeps them for a day.
RECEIPT_DELAY = timedelta(minutes=15)
RECEIPT_LIFE = timedelta(hours=24)
RECEIPTS_AT_ONCE = 1000
# What is written over a message that is over.
ERASED: dict[str, Any] = {"sealed": None, "content": None}


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message that this run may hand over now. The attempt counts as a fence: who came too late settles nothing."""

    id: UUID
    channel: str
    sealed: bytes | None
    content: str | None
    receiver: str
    attempts: int
    request_id: str


@dataclass(frozen=True, slots=True)
class Run:
    """A lane that is ours for a while.

    Attributes:
        failures: of the channel in a row; when there are any, one message at a time tries it.
    """

    id: UUID
    failures: int


@dataclass(frozen=True, slots=True)
class Outage:
    """A channel that is down, or was.

    Attributes:
        tell: whether it is for us to tell the admin.
    """

    since: datetime
    error: str
    tell: bool


class MessageQueue:
    """The messages of one channel, as the lane's worker sees them."""

    def __init__(self, db: Database, settings: MessagesSettings, channel: Channel) -> None:
        self._db = db
        self._settings = settings
        self._channel = channel
        # Several times the deadline of a delivery: what is older belongs to a process that is gone.
        self._lease = timedelta(seconds=settings.timeout_seconds * 3)

    # The lane

    async def take_lane(self) -> Run | None:
        """Become the one who works this lane off; None while somebody else does, or while it is paused."""
        run, until = new_id(), func.now() + self._lease
        statement = insert(Lane).values(channel=self._channel, owner=run, owned_until=until)
        free = and_(Lane.owned_until <= func.now(), Lane.paused_until <= func.now())
        async with self._db.transaction() as session:
            failures = await session.scalar(
                statement.on_conflict_do_update(
                    index_elements=["channel"], set_={"owner": run, "owned_until": until}, where=free
                ).returning(Lane.failures)
            )
        return None if failures is None else Run(run, failures)

    async def keep_lane(self, run: Run) -> bool:
        """Still at work; False when the lane has passed to somebody else."""
        return await self._change_lane(run, owned_until=func.now() + self._lease)

    async def leave_lane(self, run: Run) -> None:
        """Let the next one work it off."""
        await self._change_lane(run, owned_until=func.now(), owner=None)

    async def channel_failed(self, error: str, after: float) -> Outage:
        """The channel is down: leave it alone for a while that doubles up to MESSAGES_LONGEST_PAUSE_SECONDS.

        Args:
            error: why.
            after: seconds that the provider asks for, if it does.
        """
        async with self._db.transaction() as session:
            lane = await self._lane(session)
            lane.failures += 1
            lane.error = error
            now = await session.scalar(select(func.now()))
            assert now
            lane.down_since = lane.down_since or now
            pause = backoff(self._settings.retry_seconds, lane.failures, self._settings.longest_pause_seconds)
            lane.paused_until = now + timedelta(seconds=max(pause, after))
            tell = lane.told_at is None and now - lane.down_since >= timedelta(
                seconds=self._settings.tell_after_seconds
            )
            return Outage(lane.down_since, error, tell)

    async def channel_works(self) -> None:
        """The channel has answered. An outage that the admin was told of stays noted until `tell_recovery`."""
        async with self._db.transaction() as session:
            lane = await self._lane(session)
            lane.failures = 0
            lane.error = None
            if lane.told_at is None:
                lane.down_since = None

    async def claim_news(self, session: AsyncSession, *, down: bool) -> Outage | None:
        """Take it upon the session's transaction to tell the admin; None when that is done already.

        Args:
            down: of the outage, or else of its end.
        """
        lane = await self._lane(session)
        if lane.down_since is None or (lane.told_at is None) is not down:
            return None
        found = Outage(lane.down_since, lane.error or "", tell=True)
        lane.told_at = await session.scalar(select(func.now())) if down else None
        if not down:
            lane.down_since = None
        return found

    async def _lane(self, session: AsyncSession) -> Lane:
        await session.execute(insert(Lane).values(channel=self._channel).on_conflict_do_nothing())
        return (await session.scalars(select(Lane).where(Lane.channel == self._channel).with_for_update())).one()

    async def _change_lane(self, run: Run, **values: Any) -> bool:
        async with self._db.transaction() as session:
            changed = await session.scalars(
                update(Lane)
                .where(Lane.channel == self._channel, Lane.owner == run.id)
                .values(**values)
                .returning(Lane.channel)
            )
            return changed.one_or_none() is not None

    # Its messages

    async def claim(self, at_most: int) -> Sequence[Claimed]:
        """Messages to hand over now, oldest first. Each counts as tried from now on, whatever becomes of us."""
        chosen = (
            select(MessageRow.id)
            .where(self._open(), MessageRow.due_at <= func.now())
            .order_by(MessageRow.due_at)
            .limit(at_most)
            .with_for_update(skip_locked=True)
            .cte("chosen")
            .prefix_with("MATERIALIZED")
        )
        async with self._db.transaction() as session:
            rows = await session.execute(
                update(MessageRow)
                .where(MessageRow.id.in_(select(chosen.c.id)))
                .values(state=State.SENDING, attempts=MessageRow.attempts + 1, due_at=func.now() + self._lease)
                .returning(
                    MessageRow.id,
                    MessageRow.channel,
                    MessageRow.sealed,
                    MessageRow.content,
                    MessageRow.receiver,
                    MessageRow.attempts,
                    MessageRow.request_id,
                )
            )
            return [Claimed(*row) for row in rows.all()]

    async def give_up_old(self) -> int:
        """Fail what is of no use any more; returns how many. What is being sent is left to its sender."""
        oldest = func.now() - timedelta(hours=self._settings.give_up_hours)
        too_late = or_(MessageRow.created_at < oldest, MessageRow.expires_at < func.now())
        async with self._db.transaction() as session:
            result: CursorResult[Any] = await session.execute(  # type: ignore[assignment]  # of a statement that writes
                update(MessageRow)
                .where(self._open(), MessageRow.due_at <= func.now(), too_late)
                .values(
                    state=State.FAILED,
                    **ERASED,
                    settled_at=func.now(),
                    error=func.concat_ws("; ", "too late", MessageRow.error),
                )
            )
        return result.rowcount

    async def sent(self, message: Claimed, provider_id: str, kept: bytes | None) -> bool:
        """The provider has it.

        Args:
            kept: what is still needed to read the receipt, where one comes, sealed; all else is erased.
        """
        receipt = func.now() + RECEIPT_DELAY if kept and provider_id else None
        return await self._settle(
            message,
            state=State.SENT,
            **ERASED | ({} if receipt is None else {"sealed": kept}),
            provider_id=provider_id or None,
            receipt_due_at=receipt,
            settled_at=func.now(),
            error=None,
        )

    async def failed(self, message: Claimed, error: str) -> bool:
        """It will never be taken."""
        return await self._settle(message, state=State.FAILED, **ERASED, settled_at=func.now(), error=error)

    async def sandboxed(self, message: Claimed) -> bool:
        """It is kept, to be looked at."""
        return await self._settle(message, state=State.SANDBOXED, settled_at=func.now())

    async def wait(self, message: Claimed, error: str, after: float) -> bool:
        """It is tried again after a wait that doubles with each attempt, up to an hour."""
        wait = backoff(self._settings.retry_seconds, message.attempts, LONGEST_RETRY_SECONDS)
        due = func.now() + timedelta(seconds=max(wait, after))
        return await self._settle(message, state=State.QUEUED, due_at=due, error=error)

    async def has_work(self) -> bool:
        """Whether a message could go out now, for all that its lane says."""
        lane_open = ~exists().where(
            Lane.channel == self._channel, or_(Lane.owned_until > func.now(), Lane.paused_until > func.now())
        )
        async with self._db.read() as session:
            found = await session.scalar(
                select(MessageRow.id).where(self._open(), MessageRow.due_at <= func.now(), lane_open).limit(1)
            )
        return found is not None

    def _open(self) -> ColumnElement[bool]:
        # As in the condition of the index, or PostgreSQL does not use it.
        return and_(MessageRow.channel == self._channel, MessageRow.state.in_([State.QUEUED, State.SENDING]))

    async def _settle(self, message: Claimed, **values: Any) -> bool:
        async with self._db.transaction() as session:
            changed = await session.scalars(
                update(MessageRow)
                .where(
                    MessageRow.id == message.id,
                    MessageRow.state == State.SENDING,
                    MessageRow.attempts == message.attempts,
                )
                .values(**values)
                .returning(MessageRow.id)
            )
            return changed.one_or_none() is not None


# Devices that are gone


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


async def devices_gone(session: AsyncSession, tokens: Collection[str]) -> set[str]:
    """Those of `tokens` that take no notifications any more: forget them. Sending to one fails without asking Expo."""
    digests = {_digest(token): token for token in tokens}
    found = await session.scalars(select(DeviceGone.token_digest).where(DeviceGone.token_digest.in_(digests)))
    return {digests[digest] for digest in found}


async def device_gone(session: AsyncSession, token: str) -> None:
    """Remember that the provider has said so."""
    await session.execute(insert(DeviceGone).values(token_digest=_digest(token)).on_conflict_do_nothing())


async def device_is_back(session: AsyncSession, token: str) -> None:
    """The app has registered this token again: send to it as before."""
    await session.execute(delete(DeviceGone).where(DeviceGone.token_digest == _digest(token)))
