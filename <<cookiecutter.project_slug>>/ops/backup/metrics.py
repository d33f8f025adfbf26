"""What Prometheus is told of backups, on METRICS_BACKUP_PORT: everything is in the store, so a restart loses nothing."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ops.backup.state import SIZED, Known

GAUGES = {
    "backup_last_success_timestamp_seconds": "When a backup of this kind was last made; 0 for never.",
    "backup_last_attempt_failed": "1 when the last attempt made none.",
    "backup_interval_seconds": "The longest time between two runs of the timetable.",
    "backup_last_size_bytes": "Size of what is backed up in the last one.",
    "backup_previous_size_bytes": "The same of the one before.",
    "backup_duration_seconds": "How long the last one took.",
    "backup_kept": "Good backups in the store.",
    "backup_damaged": "Backups in the store that cannot be restored.",
    "backup_retention_held": "1 when nothing was let go, because a clock seems to have jumped.",
}
DRILL = {
    "backup_drill_last_success_timestamp_seconds": "When the newest backups were last proven by a restore; 0 for never.",
    "backup_drill_failed": "1 when the last proof failed.",
    "backup_drill_interval_seconds": "The longest time between two proofs of the timetable.",
}
SAMPLE = Mapping[str, Mapping[str, float]]


class Figures(Collector):
    """The figures of the last look; replaced whole, so that a scrape never sees half of them."""

    def __init__(self) -> None:
        self.by_kind: SAMPLE = {}
        self.drill: Mapping[str, float] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One scrape."""
        for name, text in GAUGES.items():
            family = GaugeMetricFamily(name, text, labels=["kind"])
            for kind, values in self.by_kind.items():
                if name in values:
                    family.add_metric([kind], values[name])
            yield family
        for name, text in DRILL.items():
            if name in self.drill:
                yield GaugeMetricFamily(name, text, value=self.drill[name])


def figures(kind: str, known: Known, failed: bool, interval: float) -> dict[str, float]:
    """The figures of a kind."""
    values = {
        "backup_last_success_timestamp_seconds": known.made.timestamp() if known.made else 0.0,
        "backup_last_attempt_failed": float(failed),
        "backup_interval_seconds": interval,
        "backup_kept": float(known.kept),
        "backup_damaged": float(known.damaged),
        "backup_retention_held": float(bool(known.held)),
    }
    if known.made:
        values["backup_duration_seconds"] = known.seconds
    if kind in SIZED and known.size is not None:
        values["backup_last_size_bytes"] = float(known.size)
        if known.size_before is not None:
            values["backup_previous_size_bytes"] = float(known.size_before)
    return values


class Server:
    """Answers /metrics, and /health with 200 while `alive`."""

    def __init__(self, host: str, port: int, figures: Collector, alive: Callable[[], bool]) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(figures)

        class Handler(BaseHTTPRequestHandler):
            server_version, sys_version = "backup", ""

            def do_GET(self) -> None:  # the name is the library's
                if self.path == "/metrics":
                    self._answer(HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", generate_latest(registry))
                elif self.path == "/health":
                    good = alive()
                    body = json.dumps({"status": "healthy" if good else "unhealthy"}).encode()
                    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
                    self._answer(status, "application/json", body)
                else:
                    self.send_error(HTTPStatus.NOT_FOUND)

            def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # a scrape is no event
                pass

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_port

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


class Heartbeat:
    """Whether a loop still turns."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def beat(self) -> None:
        """It turned."""
        self._last = time.monotonic()

    def alive(self) -> bool:
        """It did lately."""
        return time.monotonic() - self._last < self._seconds
