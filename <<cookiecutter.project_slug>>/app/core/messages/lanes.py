"""The lanes: each channel is worked off by one run at a time, by a task of its own, so none holds up another.

A run takes the lane, hands over up to MESSAGES_CONCURRENCY messages at once, and lets it go when nothing is due. When the
channel is down the lane is paused for all processes, and then one message tries it: that costs the provider one request
every few seconds however many messages wait, and a worker one process at most. A run is asked for by `send` and, for
what is left, by a periodic look.

Between the provider's acceptance and our note of it lies a moment. Whoever dies there leaves a message that is sent
again: at least once. The provider is given the same identity each time: see `senders` for what it makes of that.
"""

import asyncio
import logging
import time
from datetime import timedelta
from uuid import UUID

import structlog
from sqlalchemy import delete, exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.core import metrics
from app.core.db import OUTBOX, new_id
from app.core.encryption import IN_SESSION, Encryption
from app.core.logging import request_id
from app.core.messages.kinds import Channel, Email, Message, Push, SlackNote
from app.core.messages.models import MessageRow
from app.core.messages.queue import Claimed, MessageQueue, Run, device_gone, devices_gone
from app.core.messages.receipts import read_receipts
from app.core.messages.sealing import seal, unseal
from app.core.messages.senders import ChannelDown, Deferred, DeviceNotRegistered, Refused, Sender, create_sender
from app.core.outbox import OutboxTask
from app.core.outbox import State as TaskState
from app.core.project import project
from app.core.resources import Resources
from app.core.settings import Settings
from app.core.tasks import Periodic, Queue, Task, enqueue, task
from app.core.telemetry import capture

log = structlog.get_logger(__name__)

# A run ends after so long and asks for another one, so that more urgent tasks find a free process.
RUN_SECONDS = 20.0
SANDBOX_BATCH = 100
# Enough for the pause of a database that restarts; later the periodic look asks for a new run.
ATTEMPTS = 10


@task("messages.email", queue=Queue.HIGH, max_attempts=ATTEMPTS)
async def email(resources: Resources) -> None:
    """Work off the e-mails."""
    await work_off(resources, Channel.EMAIL)


@task("messages.sms", queue=Queue.HIGH, max_attempts=ATTEMPTS)
async def sms(resources: Resources) -> None:
    """Work off the text messages."""
    await work_off(resources, Channel.SMS)


@task("messages.push", queue=Queue.MEDIUM, max_attempts=ATTEMPTS)
async def push(resources: Resources) -> None:
    """Work off the notifications."""
    await work_off(resources, Channel.PUSH)


@task("messages.slack", queue=Queue.MEDIUM, max_attempts=ATTEMPTS)
async def slack(resources: Resources) -> None:
    """Work off the notes."""
    await work_off(resources, Channel.SLACK)


LANES: dict[Channel, Task[[]]] = {
    Channel.EMAIL: email,
    Channel.SMS: sms,
    Channel.PUSH: push,
    Channel.SLACK: slack,
}


@task("messages.look", queue=Queue.HIGH, durable=False)
async def look(resources: Resources) -> None:
    """Ask for a run wherever messages are due and nobody is at work."""
    for channel, lane in LANES.items():
        if not await MessageQueue(resources.db, resources.settings.messages, channel).has_work():
            continue
        under_way = exists().where(
            OutboxTask.name == lane.name, OutboxTask.state.in_([TaskState.PENDING, TaskState.SENT])
        )
        async with resources.db.transaction() as session:
            if not await session.scalar(select(under_way)):
                enqueue(session, lane)


@task("messages.receipts", queue=Queue.LOW, durable=False)
async def receipts(resources: Resources) -> None:
    """Ask Expo what became of the notifications that it took."""
    await read_receipts(resources)


@task("messages.prune", queue=Queue.LOW, durable=False)
async def prune(resources: Resources) -> None:
    """Forget the messages that were over MESSAGES_KEEP_DAYS ago, those in the sandbox among them."""
    oldest = func.now() - timedelta(days=resources.settings.messages.keep_days)
    async with resources.db.transaction() as session:
        await session.execute(delete(MessageRow).where(MessageRow.settled_at < oldest))


async def send(
    session: AsyncSession, message: Message, *, key: str | None = None, valid_for: timedelta | None = None
) -> UUID:
    """Send a message if the session's transaction commits, and only then; returns its id.

    Args:
        session: of `db.transaction()`.
        message: what to whom.
        key: makes a repetition harmless: of two messages with the same key, the second is not made.
        valid_for: a message that could not be sent for so long is of no use any more, as with a link that has expired.
    """
    encryption: Encryption = session.info[IN_SESSION]
    identity = new_id()
    made: UUID | None = await session.scalar(
        insert(MessageRow)
        .values(
            id=identity,
            channel=message.channel,
            key=key,
            receiver=message.receiver,
            sealed=seal(encryption, identity, message.model_dump_json()),
            request_id=request_id.get(),
            expires_at=None if valid_for is None else func.now() + valid_for,
        )
        .on_conflict_do_nothing(index_elements=["key"])
        .returning(MessageRow.id)
    )
    if made is None:
        known = await session.scalar(select(MessageRow.id).where(MessageRow.key == key))
        assert known, "what was in the way has been committed"
        return known
    lane = LANES[message.channel]
    # One run works off all of them. A task that went with its savepoint is not in the session any more.
    if not any(row.name == lane.name and row in session for row in session.info.get(OUTBOX, ())):
        enqueue(session, lane)
    return made


TASKS: tuple[Task[[]], ...] = (*LANES.values(), look, receipts, prune)


def periodic(settings: Settings) -> dict[str, Periodic]:
    """What beat asks for."""
    return {
        "messages.look": Periodic(look, timedelta(seconds=settings.messages.sweep_seconds)),
        "messages.receipts": Periodic(receipts, timedelta(minutes=5)),
        "messages.prune": Periodic(prune, timedelta(hours=1)),
    }


async def work_off(resources: Resources, channel: Channel) -> None:
    """Hand over what is due on a channel, unless somebody else is at it or it is paused."""
    queue = MessageQueue(resources.db, resources.settings.messages, channel)
    end = time.monotonic() + RUN_SECONDS
    # What was committed while we let go of the lane found it taken, and nobody else would come for it.
    while (run := await queue.take_lane()) is not None:
        sender = create_sender(resources.settings.messages, channel)
        try:
            finished = await _run(resources, queue, channel, sender, run, end)
        finally:
            await queue.leave_lane(run)
            await sender.close()
        if not finished:
            async with resources.db.transaction() as session:
                enqueue(session, LANES[channel])
            return
        if not await queue.has_work():
            return


async def _run(
    resources: Resources, queue: MessageQueue, channel: Channel, sender: Sender, run: Run, end: float
) -> bool:
    """Work until nothing is due, the channel fails, or time is up; False in the last case."""
    settings = resources.settings
    at_once = SANDBOX_BATCH if settings.sandboxed else 1 if run.failures else settings.messages.concurrency
    failed = run.failures > 0
    while True:
        if too_late := await queue.give_up_old():
            metrics.MESSAGES.labels(channel, "expired").inc(too_late)
            log.error("messages_given_up", channel=channel.value, count=too_late)
        claimed = await queue.claim(at_once)
        if not claimed:
            return True
        if settings.sandboxed:
            for message in claimed:
                await _sandbox(queue, channel, message)
        else:
            faults = await asyncio.gather(*(_deliver(resources, queue, channel, sender, one) for one in claimed))
            if down := [fault for fault in faults if fault]:
                await _channel_failed(resources, queue, channel, down[0])
                return True
            if failed:
                await _channel_works(resources, queue, channel)
                failed, at_once = False, settings.messages.concurrency
        if not await queue.keep_lane(run):
            return True
        if time.monotonic() > end:
            return False


async def _sandbox(queue: MessageQueue, channel: Channel, message: Claimed) -> None:
    if await queue.sandboxed(message):
        metrics.MESSAGES.labels(channel, "sandboxed").inc()
        log.info("message_sandboxed", channel=channel.value, message_id=str(message.id), to=message.receiver)


async def _deliver(
    resources: Resources, queue: MessageQueue, channel: Channel, sender: Sender, claimed: Claimed
) -> ChannelDown | None:
    """Hand one message over and note what came of it; the fault when it is the whole channel's."""
    request_id.set(claimed.request_id)  # gather runs each in a context of its own
    started = time.perf_counter()
    fault: ChannelDown | None = None
    error: str | None = None
    try:
        provider_id, needed = await _send(resources, sender, claimed)
        outcome, settled = "sent", await queue.sent(claimed, provider_id, needed)
    except Refused as refusal:
        outcome, error = "refused", str(refusal)
        settled = await queue.failed(claimed, error)
    except Deferred as refusal:
        outcome, error = "retried", str(refusal)
        fault = refusal if isinstance(refusal, ChannelDown) else None
        settled = await queue.wait(claimed, error, 0.0 if fault else refusal.after)
    metrics.MESSAGES.labels(channel, outcome).inc()
    log.log(
        logging.INFO if outcome == "sent" else logging.WARNING,
        "message",
        channel=channel.value,
        message_id=str(claimed.id),
        to=claimed.receiver,
        outcome=outcome if settled else f"{outcome}, by a run that was too slow",
        attempt=claimed.attempts,
        error=error,
        milliseconds=round((time.perf_counter() - started) * 1000, 2),
    )
    return fault


async def _send(resources: Resources, sender: Sender, claimed: Claimed) -> tuple[str, bytes | None]:
    """What the provider calls the message, and what of it is still needed: a receipt names a ticket, not a device."""
    try:
        content = unseal(resources.encryption, claimed)
        assert content, "what waits is not erased"
        async with asyncio.timeout(resources.settings.messages.timeout_seconds):
            if isinstance(content, Push):
                ticket = await _notify(resources, sender, content, claimed.id)
                kept = content.model_dump_json(include={"to", "title"})
                return ticket, seal(resources.encryption, claimed.id, kept)
            return await sender.send(content, claimed.id), None
    except (Refused, Deferred):
        raise
    except TimeoutError:
        raise ChannelDown("no answer in time") from None
    except Exception as error:  # a fault of ours: this message waits, the others go on
        log.exception("message_not_sent", message_id=str(claimed.id))
        capture(error)
        raise Deferred(type(error).__name__) from error


async def _notify(resources: Resources, sender: Sender, content: Push, identity: UUID) -> str:
    """Send to a device, unless it is known to be gone."""
    async with resources.db.read() as session:
        if await devices_gone(session, [content.to]):
            raise Refused("DeviceNotRegistered, as Expo has said before")
    try:
        return await sender.send(content, identity)
    except DeviceNotRegistered:
        async with resources.db.transaction() as session:
            await device_gone(session, content.to)
        raise


# The admin


async def _channel_failed(resources: Resources, queue: MessageQueue, channel: Channel, fault: ChannelDown) -> None:
    outage = await queue.channel_failed(str(fault), fault.after)
    log.warning("message_channel_down", channel=channel.value, since=outage.since, error=outage.error)
    if not outage.tell:
        return
    # In one transaction with the note that it is done: once, whoever dies in between.
    async with resources.db.transaction() as session:
        if news := await queue.claim_news(session, down=True):
            log.error("message_channel_stays_down", channel=channel.value, since=news.since, error=news.error)
            text = f"{channel} has been down since {news.since:%Y-%m-%d %H:%M:%S} UTC: {news.error}. Its messages wait."
            await _tell(resources, session, channel, f"Messages by {channel} do not go out", text)


async def _channel_works(resources: Resources, queue: MessageQueue, channel: Channel) -> None:
    await queue.channel_works()
    log.warning("message_channel_works", channel=channel.value)
    async with resources.db.transaction() as session:
        if news := await queue.claim_news(session, down=False):
            text = f"{channel} works again; it was down since {news.since:%Y-%m-%d %H:%M:%S} UTC."
            await _tell(resources, session, channel, f"Messages by {channel} go out again", text)


async def _tell(resources: Resources, session: AsyncSession, channel: Channel, subject: str, text: str) -> None:
    """Tell the admin by every way that is set up and is not the one in question."""
    settings = resources.settings.messages
    subject = f"{project().title}: {subject}"
    ways: list[Message] = []
    if settings.slack_webhook_url.get_secret_value():
        ways.append(SlackNote(text=f"{subject}. {text}"))
    if settings.admin_email:
        ways.append(Email(to=settings.admin_email, subject=subject, text=text))
    for way in ways:
        if way.channel is not channel:
            await send(session, way)
