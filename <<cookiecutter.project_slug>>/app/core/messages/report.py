"""Looking at messages: for tests, for people at a terminal, for metrics."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core import metrics
from app.core.encryption import IN_SESSION, Encryption
from app.core.messages.kinds import Channel, Message
from app.core.messages.models import Lane, MessageRow, State
from app.core.messages.sealing import unseal

if TYPE_CHECKING:
    from app.core.resources import Resources


async def kept(session: AsyncSession, channel: Channel | None = None) -> list[Message]:
    """The messages whose content is still there - waiting, or in the sandbox -, oldest first."""
    query = select(MessageRow).where(MessageRow.state != State.SENT)
    if channel:
        query = query.where(MessageRow.channel == channel)
    rows = await session.scalars(query.order_by(MessageRow.created_at, MessageRow.id))
    encryption: Encryption = session.info[IN_SESSION]
    return [message for row in rows if (message := unseal(encryption, row))]


async def newest(
    session: AsyncSession, *, channel: Channel | None = None, state: State | None = None, limit: int = 20
) -> Sequence[MessageRow]:
    """The newest rows, newest first."""
    query = select(MessageRow)
    if channel:
        query = query.where(MessageRow.channel == channel)
    if state:
        query = query.where(MessageRow.state == state)
    return (await session.scalars(query.order_by(MessageRow.id.desc()).limit(limit))).all()


async def sample_messages(registry: CollectorRegistry, resources: "Resources") -> None:
    """How many messages wait, and which channels are down."""
    waiting: dict[str, float] = dict.fromkeys(Channel, 0)
    down: dict[str, float] = dict.fromkeys(Channel, 0)
    open_states = [State.QUEUED, State.SENDING]
    async with resources.db.read() as session:
        counted = await session.execute(
            select(MessageRow.channel, func.count())
            .where(MessageRow.state.in_(open_states))
            .group_by(MessageRow.channel)
        )
        for channel, count in counted.all():
            waiting[Channel(channel)] = count
        for channel in await session.scalars(select(Lane.channel).where(Lane.failures > 0)):
            down[Channel(channel)] = 1
    metrics.MESSAGES_WAITING.put(registry, waiting)
    metrics.CHANNEL_DOWN.put(registry, down)
