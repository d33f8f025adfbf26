"""The receiver as a process of its own: its signals, its metrics, its health."""

import asyncio
import signal
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ops.backup.config import Config
from ops.backup.metrics import Heartbeat, Server
from ops.backup.wal.receiver import Health, Receiver

# So long nothing may have turned: an attempt may wait for the store through all its deadlines.
STUCK_SECONDS = 600.0


FIGURES = {
    "backup_wal_lag_seconds": "Age of the oldest change of the database that is not in the store: what would be lost now.",
    "backup_wal_waiting_bytes": "Write-ahead log that is not in the store yet.",
    "backup_wal_slot_left_bytes": "What may be written before the server gives up the slot and the log has a gap.",
    "backup_wal_last_stored_timestamp_seconds": "When a segment was last stored.",
    "backup_wal_missing_segments": "Segments lacking behind the newest physical backup: later seconds cannot be recovered.",
}


class Metrics(Collector):
    """What Prometheus is told of the receiving."""

    def __init__(self) -> None:
        self.health = Health()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One scrape; what is not known is left out."""
        health = self.health
        values = (
            health.lag_now,
            health.waiting,
            health.slot_left,
            health.stored_at.timestamp() if health.stored_at else None,
            health.missing,
        )
        for (name, text), value in zip(FIGURES.items(), values, strict=True):
            if value is not None:
                yield GaugeMetricFamily(name, text, value=value)


def main(config: Config, host: str, port: int) -> None:
    """Receive until SIGTERM or SIGINT."""
    metrics, heartbeat = Metrics(), Heartbeat(STUCK_SECONDS)

    async def run() -> None:
        receiver = Receiver(config, heartbeat.beat)
        metrics.health = receiver.health
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, receiver.stop)
        await receiver.run()

    server = Server(host, port, metrics, heartbeat.alive) if port else None
    try:
        asyncio.run(run())
    finally:
        if server:
            server.close()
