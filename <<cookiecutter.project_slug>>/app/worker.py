"""The Celery worker and beat, assembled.

A worker process holds one event loop and one set of resources, opened after the fork; each message runs on that loop.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from celery import Celery, signals
from redis import Redis
from redis.exceptions import RedisError

from app.core import audit, metrics
from app.core.logging import configure_logging
from app.core.resources import Resources, open_resources
from app.core.settings import Settings, load_settings
from app.core.tasks import Periodic, Task, celery_app, execute, register, schedule, sweep_outbox
from app.core.telemetry import configure_sentry
from app.core.worker_heartbeat import write_heartbeat
from app.features import modules, settings_of_features

log = structlog.get_logger(__name__)


class Process:
    """What one process of the worker keeps between messages."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runner: asyncio.Runner | None = None
        self._opened: AbstractAsyncContextManager[Resources] | None = None
        self._resources: Resources | None = None

    def open(self, **_: Any) -> None:
        """After the fork: nothing that holds a socket may be shared with the parent."""
        self._runner = asyncio.Runner()
        self._opened = open_resources(self._settings)
        self._resources = self._runner.run(self._opened.__aenter__())

    def run(self, task: Task[Any], task_id: UUID, args: Sequence[Any]) -> str:
        """Work off one message."""
        assert self._runner
        assert self._resources
        # A context of its own: the runner's would keep one task's request id for the next.
        return self._runner.run(execute(self._resources, task, task_id, args), context=copy_context())

    def close(self, **_: Any) -> None:
        """Before the process ends."""
        if self._runner and self._opened:
            self._runner.run(self._opened.__aexit__(None, None, None))
            self._runner.close()


def tasks() -> list[Task[Any]]:
    """Every task of core and of the features."""
    found = [value for module in modules("tasks") for value in vars(module).values() if isinstance(value, Task)]
    return [sweep_outbox, audit.prune, *found]


def create_worker(settings: Settings | None = None, service: str = "worker") -> Celery:
    """The Celery application with every task and the schedule; opens nothing.

    Args:
        settings: read from the environment unless given.
        service: worker or beat, for logs and error reports.

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
    }
    for module in modules("tasks"):
        entries.update(getattr(module, "SCHEDULE", {}))
    app.conf.beat_schedule = schedule(entries)
    if service == "worker":
        # weak=False: Celery would otherwise forget a receiver that nothing else refers to.
        signals.worker_process_init.connect(process.open, weak=False)
        signals.worker_process_shutdown.connect(process.close, weak=False)
        _announce(settings)
    return app


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
