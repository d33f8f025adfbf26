"""Celery: declaring a task, asking for one, running it.

    @task("invoices.send", queue=Queue.MEDIUM)
    async def send(resources: Resources, invoice_id: str) -> None: ...

    async with db.transaction() as session:
        enqueue(session, send, str(invoice.id))

Tasks are coroutines over the same resources as the API, run on one event loop per worker process. Their arguments are
ids, never objects. See `outbox` for why none is lost.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from math import ceil
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol
from uuid import UUID

import structlog
from celery import Celery
from celery.exceptions import Reject
from kombu import Exchange
from kombu import Queue as BrokerQueue
from sqlalchemy.ext.asyncio import AsyncSession

from app.core import metrics
from app.core.circuit import Circuit
from app.core.db import OUTBOX, Database, new_id
from app.core.errors import Unavailable
from app.core.logging import request_id, user_id
from app.core.outbox import Claim, Outbox, OutboxTask
from app.core.settings import Settings
from app.core.telemetry import capture

if TYPE_CHECKING:
    from app.core.resources import Resources

log = structlog.get_logger(__name__)

P = ParamSpec("P")
Failure = Exception | asyncio.CancelledError
SEND_SECONDS = 3.0
SENDERS = 4
# So many messages in a row cannot be sent, and for so long none is tried then: nobody waits for a silent broker.
FAILURES = 3
OPEN_SECONDS = 2.0
HARD_LIMIT_GRACE_SECONDS = 5.0
LONGEST_CLAIM_WAIT_SECONDS = 5.0
RELEASE_SECONDS = 5.0
# Messages of a dead worker come back by the sweep; this is the net below it, and must never meet a task that runs.
SHORTEST_VISIBILITY_SECONDS = 3600


class Queue(StrEnum):
    """The queues, most urgent first: a worker takes from the next one only when all before it are empty."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class Task(Generic[P]):
    """A declared task.

    Attributes:
        durable: has a row in the outbox. A periodic task has none: the next tick does the work.
        on_dead: called with the same arguments when the last attempt has failed.
    """

    name: str
    function: Callable[Concatenate["Resources", P], Awaitable[None]]
    queue: Queue
    max_attempts: int = 5
    limit: timedelta | None = None
    durable: bool = True
    on_dead: Callable[..., Awaitable[None]] | None = None

    def seconds(self, settings: Settings) -> float:
        """Deadline of one attempt."""
        return self.limit.total_seconds() if self.limit else settings.tasks.limit_seconds

    def hard_limit(self, settings: Settings) -> int:
        """Seconds after which Celery kills the process: what blocks the event loop does not notice its own deadline."""
        return ceil(self.seconds(settings) + HARD_LIMIT_GRACE_SECONDS)

    async def __call__(self, resources: "Resources", *args: P.args, **kwargs: P.kwargs) -> None:
        """Run it here and now, without a worker."""
        await self.function(resources, *args, **kwargs)


@dataclass(frozen=True, slots=True)
class Periodic:
    """An entry of beat's schedule: a task that is not durable, and how often it runs."""

    task: Task[...]
    every: timedelta


def task(
    name: str,
    *,
    queue: Queue,
    max_attempts: int = 5,
    limit: timedelta | None = None,
    durable: bool = True,
    on_dead: Callable[..., Awaitable[None]] | None = None,
) -> Callable[[Callable[Concatenate["Resources", P], Awaitable[None]]], Task[P]]:
    """Declare a task.

    Args:
        name: `feature.verb`; part of the contract between versions of the code, as messages outlive a deploy.
        queue: how urgent it is.
        max_attempts: after so many failures the task is dead and waits for a person.
        limit: deadline of one attempt; TASKS_LIMIT_SECONDS unless given.
        durable: False for periodic tasks.
        on_dead: tells the feature that the last attempt has failed.
    """

    def declare(function: Callable[Concatenate["Resources", P], Awaitable[None]]) -> Task[P]:
        return Task(name, function, queue, max_attempts, limit, durable, on_dead)

    return declare


class Carrier(Protocol):
    """What travels with a task beside the ids of request and user, as the context of a trace does."""

    def inject(self, context: dict[str, str]) -> None:
        """Where the task is asked for: put it into `context`."""

    def around(self, task: str, context: Mapping[str, str]) -> AbstractContextManager[object]:
        """Where an attempt of `task` runs: a block around it."""


# Filled when a process is assembled.
CARRIERS: list[Carrier] = []


def enqueue(session: AsyncSession, task: Task[P], *args: P.args, **kwargs: P.kwargs) -> UUID:
    """Ask for a task as part of the session's transaction; it is sent once that has committed. Returns the task's id."""
    assert task.durable, f"{task.name}: a periodic task is sent by beat"
    assert not kwargs, f"{task.name}: arguments are positional, as they are kept as a list"
    context = {"request_id": request_id.get(), "user_id": user_id.get()}
    for carrier in CARRIERS:
        carrier.inject(context)
    assert OUTBOX in session.info, f"{task.name}: enqueued outside of `db.transaction()`, it would never be kept"
    row = OutboxTask(id=new_id(), name=task.name, args=list(args), queue=task.queue.value, context=context)
    session.add(row)
    session.info[OUTBOX].append(row)
    return row.id


class PeriodicTaskFailed(Exception):
    """Tells Celery of a failure that is logged and reported already: whoever watches the schedule hears of it from there."""


class Publisher:
    """Sends messages to the broker without holding up the event loop.

    Attributes:
        queues: the names of all queues.
    """

    queues = tuple(queue.value for queue in Queue)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._celery = celery_app(settings)
        self.circuit = Circuit("publisher", FAILURES, OPEN_SECONDS, counts=(Exception,))
        # By default sending waits as long as receiving, and a thread cannot be interrupted.
        self._celery.conf.broker_transport_options["socket_timeout"] = SEND_SECONDS
        # Not Celery's own pool, which nothing closes and every application in the process shares.
        self._connections = self._celery.connection_for_write().Pool(SENDERS)
        # Threads of its own: a silent broker holds up these and nothing else that runs in threads.
        self._threads = ThreadPoolExecutor(SENDERS, thread_name_prefix="publisher")

    async def publish(self, db: Database, rows: Sequence[OutboxTask]) -> None:
        """Send committed tasks. When the broker is away they stay in the outbox, and the sweep sends them later."""
        try:
            # Celery's client is synchronous: half a millisecond when all is well, its deadline when the broker is away.
            async with self.circuit.guard():
                sending = asyncio.get_running_loop().run_in_executor(self._threads, self._send, rows)
                await asyncio.wait_for(sending, SEND_SECONDS)
            await Outbox(db, self._settings.tasks).mark_sent([row.id for row in rows])
        except Exception as error:  # noqa: BLE001  # the data is committed, and whatever went wrong, the outbox has it
            log.warning("tasks_not_sent", count=len(rows), error=repr(error))

    async def close(self) -> None:
        """Close the connections to the broker."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._connections.force_close_all)
        self._celery.close()

    def _send(self, rows: Sequence[OutboxTask]) -> None:
        with self._connections.acquire(block=True) as connection:
            for row in rows:
                self._celery.send_task(
                    row.name, args=row.args, queue=row.queue, task_id=str(row.id), retry=False, connection=connection
                )


async def sweep(resources: "Resources") -> int:
    """Send what was committed but never sent, what waits for its next attempt, and what a dead worker left; returns how many."""
    rows = await Outbox(resources.db, resources.settings.tasks).overdue()
    if rows:
        log.info("tasks_swept", count=len(rows))
        await resources.publisher.publish(resources.db, rows)
    return len(rows)


async def rerun(resources: "Resources", ids: Sequence[UUID] | None = None) -> int:
    """Run dead tasks again, with all of their attempts; returns how many.

    Args:
        resources: what a feature works with.
        ids: which; every dead one unless given.
    """
    rows = await Outbox(resources.db, resources.settings.tasks).revive(ids)
    if rows:
        log.info("tasks_rerun", count=len(rows))
        await resources.publisher.publish(resources.db, rows)
    return len(rows)


@task("core.sweep", queue=Queue.CRITICAL, durable=False)
async def sweep_outbox(resources: "Resources") -> None:
    """Beat's call of `sweep`."""
    await sweep(resources)


async def execute(resources: "Resources", task: Task[Any], task_id: UUID, args: Sequence[Any]) -> str:
    """Run one delivered message, settle its row, count it and log it.

    Returns:
        The outcome: done, skipped (a repeated message), retried, dead, failed (not durable) or released (this process
        is to end, and the task is free for another one).
    """
    started = time.perf_counter()
    try:
        outcome = await _settled(resources, task, task_id, args)
    except asyncio.CancelledError:
        outcome = "released"
    seconds = time.perf_counter() - started
    metrics.TASKS.labels(task.name, outcome).inc()
    metrics.TASK_SECONDS.labels(task.name).observe(seconds)
    if task.durable:  # what runs every few seconds would be most of the log
        log.info("task", task=task.name, task_id=str(task_id), outcome=outcome, milliseconds=round(seconds * 1000, 2))
    return outcome


async def _settled(resources: "Resources", task: Task[Any], task_id: UUID, args: Sequence[Any]) -> str:
    if not task.durable:
        return "done" if await _attempt(resources, task, args) is None else "failed"
    outbox = Outbox(resources.db, resources.settings.tasks)
    claim = await _claim(outbox, task_id)
    if claim is None:
        return "skipped"
    request_id.set(claim.context.get("request_id", ""))
    user_id.set(claim.context.get("user_id", ""))
    if claim.attempts > task.max_attempts:
        # Attempts that ended without an answer: the task kills its worker. Not again.
        failure: Failure | None = RuntimeError("the worker died during every attempt")
    else:
        try:
            failure = await _leased_attempt(resources, task, claim, args)
        except asyncio.CancelledError:
            await _release(outbox, claim)
            raise
    if failure is None:
        await outbox.finish(task_id)
        return "done"
    error = repr(failure)
    patient = isinstance(failure, Unavailable) and claim.age.total_seconds() < resources.settings.tasks.patience_seconds
    if patient or claim.attempts < task.max_attempts:
        delay = await (outbox.postpone if patient else outbox.retry)(claim, error)
        log.warning(
            "task_retried", task=task.name, task_id=str(task_id), attempt=claim.attempts, seconds=delay.total_seconds()
        )
        return "retried"
    buried = await outbox.bury(claim, error)
    log.error("task_dead", task=task.name, task_id=str(task_id), error=error)
    if buried and task.on_dead:
        try:
            await task.on_dead(resources, *args)
        except Exception as late:  # the task stays dead whatever its feature makes of it
            log.exception("task_on_dead_failed", task=task.name, task_id=str(task_id))
            capture(late)
    return "dead"


async def _claim(outbox: Outbox, task_id: UUID) -> Claim | None:
    """Take the task. A database that is away is waited for: a message given up is sent again only much later.

    There is nothing else to do meanwhile, as no task can be taken. A worker meets closed connections after every restart
    of the database, because nothing runs between two messages that could notice; so the first wait is none.
    """
    wait = 0.0
    while True:
        try:
            return await outbox.claim(task_id)
        except Unavailable as error:
            log.warning("task_not_claimed", task_id=str(task_id), error=repr(error))
        await asyncio.sleep(wait)
        wait = min(wait * 2 or 0.1, LONGEST_CLAIM_WAIT_SECONDS)


async def _leased_attempt(resources: "Resources", task: Task[Any], claim: Claim, args: Sequence[Any]) -> Failure | None:
    """One attempt under a lease that is renewed meanwhile; None, or what went wrong."""
    outbox = Outbox(resources.db, resources.settings.tasks)
    renewal = asyncio.create_task(_keep_lease(outbox, claim, resources.settings.tasks.lease_seconds / 3))
    try:
        with ExitStack() as carried:
            for carrier in CARRIERS:
                carried.enter_context(carrier.around(task.name, claim.context))
            return await _attempt(resources, task, args)
    finally:
        renewal.cancel()
        with suppress(asyncio.CancelledError):
            await renewal


async def _attempt(resources: "Resources", task: Task[Any], args: Sequence[Any]) -> Failure | None:
    """One attempt; None, or what went wrong."""
    try:
        async with asyncio.timeout(task.seconds(resources.settings)):
            await task.function(resources, *args)
    except (Exception, asyncio.CancelledError) as error:  # a task may fail in any way; the outbox decides what follows
        this = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and this and this.cancelling():
            raise  # this process is to end; what the task itself cancelled is its own failure
        log.exception("task_failed", task=task.name)
        capture(error)
        return error
    return None


async def _release(outbox: Outbox, claim: Claim) -> None:
    """Give a task back that this process has no time left for."""
    try:
        async with asyncio.timeout(RELEASE_SECONDS):
            await outbox.release(claim)
        log.info("task_released", task_id=str(claim.id))
    except Exception as error:  # noqa: BLE001  # its lease runs out in any case
        log.warning("task_not_released", task_id=str(claim.id), error=repr(error))


async def _keep_lease(outbox: Outbox, claim: Claim, every: float) -> None:
    while True:
        await asyncio.sleep(every)
        try:
            await outbox.renew(claim)
        except Exception as error:  # noqa: BLE001  # the database may be back before the lease runs out
            log.warning("lease_not_renewed", task_id=str(claim.id), error=repr(error))


def celery_app(settings: Settings) -> Celery:
    """A Celery application with the project's rules and no tasks yet."""
    app = Celery("app", broker=settings.broker.address(), set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        task_ignore_result=True,
        result_expires=None,  # nothing is kept, so beat need not send a task to tidy it up
        # A message leaves the broker only when its task is over, and one message at a time waits in a worker: with
        # more, a low task fetched early would hold a process that a critical one needs.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # An exchange each: on a shared one the routing key would deliver every message to every queue.
        task_queues=[BrokerQueue(queue.value, Exchange(queue.value), routing_key=queue.value) for queue in Queue],
        task_default_queue=Queue.MEDIUM.value,
        task_create_missing_queues=False,
        broker_transport_options={
            # Queues in the order of `Queue`, not in turn: measured against a flooded low queue, a critical task
            # starts after 5 ms instead of 25 ms (10 ms tasks) and 55 ms instead of 886 ms (100 ms tasks).
            "queue_order_strategy": "priority",
            "visibility_timeout": SHORTEST_VISIBILITY_SECONDS,
            "socket_timeout": 30,
            "socket_connect_timeout": SEND_SECONDS,
            "socket_keepalive": True,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_consumer="app.core.worker_reconnect:ReconnectingConsumer",
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        # After a broken connection Celery would lower the number of messages that `worker_reserve` has set.
        worker_enable_prefetch_count_reduction=False,
        beat_scheduler="app.core.beat:LockedScheduler",
        beat_max_loop_interval=1,  # as often its lock is renewed: see `beat`
        timezone="UTC",
    )
    return app


def register(
    app: Celery, settings: Settings, tasks: Iterable[Task[Any]], run: Callable[[Task[Any], UUID, Sequence[Any]], str]
) -> None:
    """Make `tasks` known to a worker.

    Args:
        app: the worker's application.
        settings: deadlines.
        tasks: what the worker can do.
        run: executes one message in this process and returns the outcome.
    """
    longest = 0
    for declared in tasks:
        hard_limit = declared.hard_limit(settings)
        longest = max(longest, hard_limit)
        app.task(
            name=declared.name,
            bind=True,
            queue=declared.queue.value,
            time_limit=hard_limit,
            throws=(PeriodicTaskFailed,),
        )(_body(declared, run))
    # The broker hands a message out again after this time, whether or not its task still runs.
    app.conf.broker_transport_options["visibility_timeout"] = max(SHORTEST_VISIBILITY_SECONDS, 2 * longest)


def _body(declared: Task[Any], run: Callable[[Task[Any], UUID, Sequence[Any]], str]) -> Callable[..., None]:
    def body(self: Any, *args: Any) -> None:
        outcome = run(declared, UUID(self.request.id), args)
        if outcome == "released" and declared.durable:
            raise Reject("released", requeue=True)  # for the next worker, at once
        if outcome == "failed":
            raise PeriodicTaskFailed(declared.name)

    return body


def schedule(entries: Mapping[str, Periodic]) -> dict[str, dict[str, Any]]:
    """Beat's schedule in Celery's form. A tick that nobody has taken by the next one is dropped."""
    return {
        name: {
            "task": entry.task.name,
            "schedule": entry.every,
            "options": {"queue": entry.task.queue.value, "expires": max(entry.every.total_seconds(), 1)},
        }
        for name, entry in entries.items()
    }
