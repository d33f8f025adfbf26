"""What became of the notifications that Expo took: it says so later, and only when asked."""

import structlog
from sqlalchemy import func, select, update

from app.core import metrics
from app.core.messages.kinds import Channel, Push
from app.core.messages.models import MessageRow, State
from app.core.messages.queue import ERASED, RECEIPT_DELAY, RECEIPT_LIFE, RECEIPTS_AT_ONCE, device_gone
from app.core.messages.sealing import unseal
from app.core.messages.senders import ChannelDown, DeviceNotRegistered, PushSender, push_fault
from app.core.resources import Resources

log = structlog.get_logger(__name__)


async def read_receipts(resources: Resources) -> int:
    """Ask for the receipts that are due, note what failed, and remember the devices that are gone; returns how many came.

    Asking twice does no harm, so nothing is locked while Expo is asked.
    """
    async with resources.db.read() as session:
        rows = (
            await session.scalars(
                select(MessageRow)
                .where(MessageRow.receipt_due_at <= func.now())
                .order_by(MessageRow.receipt_due_at)
                .limit(RECEIPTS_AT_ONCE)
            )
        ).all()
    if not rows:
        return 0
    sender = PushSender(resources.settings.messages)
    try:
        found = await sender.receipts([row.provider_id or "" for row in rows])
    except ChannelDown as error:
        log.warning("receipts_not_read", error=str(error))
        return 0
    finally:
        await sender.close()
    for row in rows:
        if isinstance(receipt := found.get(row.provider_id or ""), dict):
            await _settle(resources, row, receipt)
    async with resources.db.transaction() as session:
        # Those without one yet are asked for again, until Expo has forgotten them too.
        missing = [row.id for row in rows if (row.provider_id or "") not in found]
        too_old = MessageRow.settled_at < func.now() - RECEIPT_LIFE
        await session.execute(
            update(MessageRow).where(MessageRow.id.in_(missing)).values(receipt_due_at=func.now() + RECEIPT_DELAY)
        )
        await session.execute(
            update(MessageRow).where(MessageRow.id.in_(missing), too_old).values(receipt_due_at=None, **ERASED)
        )
    return len(rows) - len(missing)


async def _settle(resources: Resources, row: MessageRow, receipt: dict[str, object]) -> None:
    fault = None if receipt.get("status") == "ok" else push_fault(receipt)
    values: dict[str, object] = {"receipt_due_at": None, **ERASED}
    if fault:
        values |= {"state": State.FAILED, "error": str(fault)}
        metrics.MESSAGES.labels(Channel.PUSH, "refused").inc()
        log.warning("message_not_delivered", channel=row.channel, message_id=str(row.id), error=str(fault))
    async with resources.db.transaction() as session:
        if isinstance(fault, DeviceNotRegistered) and (content := unseal(resources.encryption, row)):
            assert isinstance(content, Push)
            await device_gone(session, content.to)
        await session.execute(update(MessageRow).where(MessageRow.id == row.id).values(**values))
