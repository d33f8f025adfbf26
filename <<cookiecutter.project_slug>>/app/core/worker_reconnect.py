"""A worker that outlives its broker, whatever it has in hand when the connection breaks."""

from functools import partial
from typing import Any

from celery.worker.consumer import Consumer


class ReconnectingConsumer(Consumer):
    """Celery's consumer, whose broken channels still know where the broker is.

    Celery 5.7 closes a broken connection twice, and the second time it has forgotten the broker's address. A channel that
    then has a message to give back or to acknowledge fails in a way that Celery does not expect: the worker takes nothing
    more and, while a task runs, does not even end. With the address the broker is just away, which is expected.
    """

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Called when the connection is lost, before it is made anew."""
        connection: Any = self.connection
        for channel in connection.transport.channels:
            # Only readers ask for an asynchronous one, and nothing is read from a broken channel.
            channel._connparams = partial(_same, channel._connparams())
        super().on_connection_error_after_connected(exc)


def _same(parameters: dict[str, Any], asynchronous: bool = False) -> dict[str, Any]:  # noqa: ARG001  # Kombu's
    return dict(parameters)
