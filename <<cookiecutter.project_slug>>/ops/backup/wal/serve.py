"""The receiver as a process of its own: its signals, its metrics."""

import asyncio
import signal

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from ops.backup.config import Config
from ops.backup.wal.receiver import Health, Receiver


class Metrics:
    """What Prometheus is told of the receiving."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lag = Gauge(
            "backup_wal_lag_seconds",
            "Age of the oldest change of the database that is not in the store: what would be lost now.",
            registry=registry,
        )
        self._waiting = Gauge(
            "backup_wal_waiting_bytes", "Write-ahead log that is not in the store yet.", registry=registry
        )
        self._left = Gauge(
            "backup_wal_slot_left_bytes",
            "What may be written before the server gives up the slot and the log has a gap; -1 without a limit.",
            registry=registry,
        )
        self._stored = Gauge(
            "backup_wal_last_stored_timestamp_seconds", "When a segment was last stored.", registry=registry
        )
        self._missing = Gauge(
            "backup_wal_missing_segments",
            "Segments lacking behind the newest physical backup: seconds after them cannot be recovered.",
            registry=registry,
        )

    def tell(self, health: Health) -> None:
        """Take over how it stands."""
        self._lag.set(health.lag or 0.0)
        self._waiting.set(health.waiting or 0)
        self._left.set(-1 if health.slot_left is None else health.slot_left)
        self._missing.set(health.missing or 0)
        if health.stored_at:
            self._stored.set(health.stored_at.timestamp())


def main(config: Config, host: str, port: int) -> None:
    """Receive until SIGTERM or SIGINT."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    if port:
        start_http_server(port, host, registry)

    async def run() -> None:
        receiver = Receiver(config, metrics.tell)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, receiver.stop)
        await receiver.run()

    asyncio.run(run())
