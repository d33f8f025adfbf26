"""Processes of a worker that only critical tasks may use.

A worker takes from its queues in order, but what it has begun it cannot put aside: with as many long tasks as processes,
a critical one would wait for the first of them to end. So the worker has some processes more than it lets ordinary
messages in for, and a second consumer lets critical ones in for those. One pool serves both: whichever process is free.
"""

from typing import Any

from celery import Celery, bootsteps
from kombu import Consumer
from kombu.transport.virtual import Channel


def reserve(app: Celery, processes: int, queue: str) -> None:
    """Keep `processes` of the worker of `app` for the tasks of `queue`; its pool must be larger than that."""
    if not processes:
        return

    class Reserve(bootsteps.ConsumerStep):
        """The second consumer, started whenever the worker has connected."""

        # After Celery's own consumer, whose share is made smaller here.
        requires = ("celery.worker.consumer:Tasks",)

        def start(self, c: Any) -> None:
            """Leave the processes to the second consumer, and let it begin."""
            c.initial_prefetch_count = c.pool.num_processes - processes
            c.qos.value = c.initial_prefetch_count
            c.task_consumer.qos(prefetch_count=c.initial_prefetch_count)
            self._worker = c
            super().start(c)

        def get_consumers(self, channel: Channel) -> list[Consumer]:
            """One, on a channel that has a count of its own."""
            channel.basic_qos(0, processes, False)
            return [
                Consumer(
                    channel,
                    [app.amqp.queues[queue]],
                    accept=app.conf.accept_content,
                    on_message=self._worker.create_task_handler(),
                    on_decode_error=self._worker.on_decode_error,
                )
            ]

    app.steps["consumer"].add(Reserve)
