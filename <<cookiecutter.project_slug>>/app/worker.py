"""The Celery worker and beat, assembled.

A worker process holds one event loop and one set of resources, opened after the fork; each message runs on that loop.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import copy_context
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from celery import Celery, signals
from redis import Redis
from redis.exceptions import RedisError

from app.core import audit, idempotency, messages, metrics, sign_outs
from app.core.logging import announce, configure_logging
from app.core.resources import Resources, open_resources
from app.core.settings import Settings, load_settings, redacted
from app.core.tasks import Periodic, Queue, Task, celery_app, execute, register, schedule, sweep_outbox
from app.core.telemetry import configure_sentry
from app.core.tracing import Tracing, configure_tracing
from app.core.worker_heartbeat import write_heartbeat
from app.core.worker_reserve import reserve
from app.features import modules, settings_of_features

log = structlog.get_logger(__name__)

# Tells a process of the pool that its time is over. SIGTERM is Celery's own.
GIVE_BACK = signal.SIGUSR2


class Process:
    """What one process of the worker keeps between messages."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runner: asyncio.Runner | None = None
        self._opened: AbstractAsyncContextManager[Resources] | None = None
        self._resources: Resources | None = None
        self._running: asyncio.Task[str] | None = None
        self._tracing: Tracing | None = None

    def open(self, **_: Any) -> None:
        """After the fork: nothing that holds a socket may be shared with the parent."""
        signal.signal(GIVE_BACK, self.give_back)
        # Some platforms tell every process at once to stop. The main one is who decides: it lets us end what we have
        # begun (`Drain`), and we never outlive it. Ignored and not handled: Celery would put its own handler in its place.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._runner = asyncio.Runner()
        self._opened = open_resources(self._settings)
        self._resources = self._runner.run(self._opened.__aenter__())
        metrics.note_build(self._settings)
        self._tracing = configure_tracing(self._settings, "worker")
        if self._tracing:
            self._tracing.instrument(self._resources)

    def run(self, task: Task[Any], task_id: UUID, args: Sequence[Any]) -> str:
        """Work off one message."""
        assert self._runner
        assert self._resources
        # A context of its own: the runner's would keep one task's request id for the next.
        return self._runner.run(self._execute(self._resources, task, task_id, args), context=copy_context())

    async def _execute(self, resources: Resources, task: Task[Any], task_id: UUID, args: Sequence[Any]) -> str:
        self._running = asyncio.current_task()
        try:
            return await execute(resources, task, task_id, args)
        finally:
            self._running = None

    def give_back(self, *_: Any) -> None:
        """Break off the task that runs now, if one does, so that another worker may have it."""
        if self._running:
            # Wakes the loop as well; the signal alone would let it sleep on.
            self._running.get_loop().call_soon_threadsafe(self._running.cancel)

    def close(self, **_: Any) -> None:
        """Before the process ends."""
        if self._runner and self._opened:
            self._runner.run(self._opened.__aexit__(None, None, None))
            if self._tracing:
                self._runner.run(self._tracing.close())
            self._runner.close()


def tasks() -> list[Task[Any]]:
    """Every task of core and of the features."""
    found = [value for module in modules("tasks") for value in vars(module).values() if isinstance(value, Task)]
    return [sweep_outbox, audit.prune, idempotency.prune, sign_outs.prune, *messages.TASKS, *found]


def create_worker(settings: Settings | None = None, service: str = "worker", reserved: int = 0) -> Celery:
    """The Celery application with every task and the schedule; opens nothing.

    Args:
        settings: read from the environment unless given.
        service: worker or beat, for logs and error reports.
        reserved: how many of the worker's processes only critical tasks may use.

    Raises:
        SettingsError: the environment cannot be used.
    """
    settings = settings or load_settings(settings_of_features())
    configure_logging(settings, service)
    configure_sentry(settings, service)
    app = celery_app(settings)
    process = Process(settings)
    register(app, settings, tasks(), process.run)
    entries = {
        "sweep": Periodic(sweep_outbox, timedelta(seconds=settings.tasks.sweep_seconds)),
        "prune_audit": Periodic(audit.prune, timedelta(days=1)),
        "prune_sign_outs": Periodic(sign_outs.prune, timedelta(hours=1)),
        "prune_answers": Periodic(idempotency.prune, timedelta(hours=1)),
    }
    entries.update(messages.periodic(settings))
    for module in modules("tasks"):
        entries.update(getattr(module, "SCHEDULE", {}))
    app.conf.beat_schedule = schedule(entries)
    _log_start_and_end(settings)
    if service == "worker":
        reserve(app, reserved, Queue.CRITICAL.value)
        # weak=False: Celery would otherwise forget a receiver that nothing else refers to.
        signals.worker_process_init.connect(process.open, weak=False)
        signals.worker_process_shutdown.connect(process.close, weak=False)
        signals.worker_init.connect(Drain(settings.tasks.drain_seconds).watch, weak=False)
        _announce(settings)
    return app


def _log_start_and_end(settings: Settings) -> None:
    def started(**_: Any) -> None:
        announce("started", settings=redacted(settings))

    def stopping(**_: Any) -> None:
        announce("stopping")

    for signal_of_start in (signals.beat_init, signals.worker_ready):
        signal_of_start.connect(started, weak=False)
    # Not `worker_shutting_down`, which is sent from within the handler of SIGTERM, where nothing may be written.
    signals.worker_shutdown.connect(stopping, weak=False)


class Drain:
    """What a worker does when it is told to stop: its tasks may end, and what has not ended in time goes back.

    Args:
        seconds: how long they may.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._worker: Any = None

    def watch(self, sender: Any, **_: Any) -> None:
        """In the worker's main process, before it starts."""
        self._worker = sender
        signals.worker_shutting_down.connect(self.begin, weak=False)

    def begin(self, how: str = "Warm", **_: Any) -> None:
        """Celery takes nothing new from here on and waits for what runs, for ever if need be; not when it is in a hurry."""
        seconds = self._seconds if how == "Warm" else 0.0
        log.info("worker_drains", seconds=seconds)
        timer = threading.Timer(seconds, self.end)
        timer.daemon = True  # all tasks may be done much earlier
        timer.start()

    def end(self) -> None:
        """The time is over."""
        pids = self._worker.pool.info["processes"]
        log.warning("worker_drain_over", processes=len(pids))
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, GIVE_BACK)


def _announce(settings: Settings) -> None:
    """Have the worker's main process serve metrics, and say every few seconds that it lives."""
    redis = Redis.from_url(settings.broker.address(), socket_timeout=2, socket_connect_timeout=2)

    def beat(sender: Any, **_: Any) -> None:
        try:
            write_heartbeat(redis, sender.eventer.hostname)
        except (RedisError, OSError) as error:
            log.warning("heartbeat_not_written", error=repr(error))

    def ready(**_: Any) -> None:
        if settings.metrics.worker_port:
            metrics.serve(settings.metrics.worker_host, settings.metrics.worker_port)

    signals.heartbeat_sent.connect(beat, weak=False)
    signals.worker_ready.connect(ready, weak=False)
