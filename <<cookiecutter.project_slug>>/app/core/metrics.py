"""Prometheus metrics, right under several processes.

Each process writes to files below PROMETHEUS_MULTIPROC_DIR, and whoever is asked adds them up. The client library reads
that variable when it is imported, so `cli` sets it before anything imports this module.
"""

import asyncio
import os
import resource
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from sqlalchemy.pool import QueuePool

from app.core.project import project
from app.core.worker_heartbeat import heartbeats

if TYPE_CHECKING:
    from app.core.resources import Resources
    from app.core.settings import Settings

log = structlog.get_logger(__name__)

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds. Close together around the alarm at 0.8 s, where precision counts.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.8, 1.0, 2.5, 5.0, 10.0)
TASK_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0)
AI_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)

# How often a process writes down what only it knows: its pool, its open requests.
WATCH_SECONDS = 2.0
# A scrape waits no longer for a part that is away.
SAMPLE_SECONDS = 2.0

REQUESTS = Counter("http_requests_total", "Requests answered, by route template.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "http_request_duration_seconds",
    "Time from the first byte in to the last byte out.",
    ["method", "route"],
    buckets=SECONDS,
)
LOOP_LAG_SECONDS = Histogram(
    "event_loop_lag_seconds",
    "How late the event loop came to a timer: everything that it serves waited as long.",
    ["service"],  # one without labels would open its file when it is imported
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
REQUESTS_IN_PROGRESS = Gauge(
    "http_requests_in_progress",
    "Requests begun and not answered, the scrape itself among them.",
    multiprocess_mode="livesum",
)
POOL_SIZE = Gauge("db_pool_connections", "Open connections of the API's pools.", multiprocess_mode="livesum")
POOL_USED = Gauge("db_pool_in_use", "Connections of the API's pools in use.", multiprocess_mode="livesum")
POOL_WAITING = Gauge("db_pool_waiting", "Requests waiting for a connection.", multiprocess_mode="livesum")
SLOW_STATEMENTS = Counter("db_slow_statements_total", "Statements that took longer than 100 ms.", ["database"])
BUILD = Gauge(
    "service_build_info", "1, with what runs in its labels.", ["version", "environment"], multiprocess_mode="livemax"
)
TASKS = Counter("celery_tasks_total", "Task messages worked off, by outcome.", ["task", "outcome"])
TASK_SECONDS = Histogram("celery_task_duration_seconds", "Time of one attempt.", ["task"], buckets=TASK_BUCKETS)
CIRCUIT_OPEN = Gauge(
    "circuit_open",
    "1 while some process refuses to ask a neighbour that kept failing.",
    ["name"],
    multiprocess_mode="livemax",
)
EVENTS = Counter(
    "events_published_total", "Events published: sent, nobody (not connected), lost, too_large.", ["outcome"]
)
# ok: taken. refused: answered, but this very request was not wanted. failed: no answer in time, or that it cannot now.
OUTSIDE_REQUESTS = Counter(
    "outside_api_requests_total", "Requests to providers outside, by outcome.", ["api", "outcome"]
)
MESSAGES = Counter("messages_total", "Messages and what became of each attempt.", ["channel", "outcome"])
EVENTS_DELIVERED = Counter("events_delivered_total", "Events put into the queue of a socket.")
WEBSOCKETS = Gauge("websocket_connections", "Open sockets.", multiprocess_mode="livesum")
WEBSOCKETS_LIMIT = Gauge("websocket_connections_limit", "Sockets that there may be.", multiprocess_mode="livesum")
WEBSOCKETS_CLOSED = Counter("websocket_closed_total", "Sockets that ended, by cause.", ["cause"])
CACHE = Counter("cache_requests_total", "Look-ups in the cache: hit, miss or error.", ["outcome"])
AI_REQUESTS = Counter(
    "ai_requests_total",
    "Calls of a model: ok, abandoned by the asker, or what went wrong.",
    ["provider", "operation", "outcome"],
)
AI_SECONDS = Histogram(
    "ai_request_duration_seconds",
    "Time of a call, with its retries and its whole answer.",
    ["provider", "operation"],
    buckets=AI_BUCKETS,
)
AI_FIRST_PIECE_SECONDS = Histogram(
    "ai_first_piece_seconds", "Time to the first piece of an answer.", ["provider"], buckets=AI_BUCKETS
)
AI_RETRIES = Counter("ai_retries_total", "Further attempts of a call.", ["provider", "operation"])
AI_TOKENS = Counter(
    "ai_tokens_total", "Tokens by kind: input, output, cache_read, cache_write.", ["provider", "model", "kind"]
)
AI_COST = Counter("ai_cost_usd_total", "US dollars, where the price is known.", ["provider", "model"])
AI_UNPRICED = Counter("ai_unpriced_requests_total", "Calls of a model whose price is not known.", ["model"])


@dataclass(frozen=True, slots=True)
class Sample:
    """A gauge that is asked for at the moment of a scrape.

    Not `Gauge`, which under several processes would write a file and stay in every later answer.
    """

    name: str
    text: str
    label: str = ""

    def put(self, registry: CollectorRegistry, values: Mapping[str, float]) -> None:
        """Add its values to an answer, by the value of the label; without one under the empty string."""
        registry.register(_Sampled([self.family(values)]))

    def family(self, values: Mapping[str, float]) -> Metric:
        """The values in the client library's form."""
        family = GaugeMetricFamily(self.name, self.text, labels=[self.label] if self.label else [])
        for key, value in values.items():
            family.add_metric([key] if self.label else [], value)
        return family


QUEUE_LENGTH = Sample("celery_queue_length", "Messages waiting.", "queue")
HEARTBEAT_AGE = Sample("celery_worker_heartbeat_age_seconds", "Time since a worker was last heard of.", "worker")
OUTBOX_TASKS = Sample("task_outbox_tasks", "Tasks that are not done, by state; dead ones wait for a person.", "state")
OUTBOX_OLDEST = Sample("task_outbox_oldest_seconds", "Age of the oldest task that is neither done nor dead.")
MESSAGES_WAITING = Sample("messages_waiting", "Messages not sent yet.", "channel")
CHANNEL_DOWN = Sample("message_channel_down", "1 while the last delivery by this channel failed.", "channel")
RESIDENT = Sample("service_process_resident_memory_bytes", "Memory of each process.", "pid")
CPU = Sample("service_process_cpu_seconds", "CPU time used by each process.", "pid")
DESCRIPTORS = Sample("service_process_open_fds", "Open files and sockets of each process.", "pid")
UPTIME = Sample("service_process_uptime_seconds", "Time since each process started.", "pid")

# Adds what it knows to an answer; a feature's is `sample` in its `metrics.py`.
Sampler = Callable[[CollectorRegistry, "Resources"], Awaitable[None]]


class Tally:
    """A number that is cheap to change at every request; `watch` writes it down now and then."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


in_progress = Tally()


def exposition(registry: CollectorRegistry | None = None) -> bytes:
    """All metrics of this service's processes in Prometheus' text format.

    Args:
        registry: holds values sampled for this very answer; everything else is added to it.
    """
    registry = registry or CollectorRegistry()
    if MULTIPROCESS_DIR in os.environ:
        _collect_processes(registry)
        return generate_latest(registry)
    return generate_latest(registry) + generate_latest(REGISTRY)


async def sampled(resources: "Resources", samplers: Iterable[Sampler]) -> CollectorRegistry:
    """Ask every sampler at once. One that fails or takes too long is left out: when a part is away, the rest matters most."""

    async def ask(sampler: Sampler) -> CollectorRegistry | None:
        own = CollectorRegistry()
        try:
            async with asyncio.timeout(SAMPLE_SECONDS):
                await sampler(own, resources)
        except Exception as error:  # noqa: BLE001  # whatever it is
            log.warning("not_sampled", sampler=f"{sampler.__module__}.{sampler.__qualname__}", error=repr(error))
            return None
        return own

    registry = CollectorRegistry()
    for own in await asyncio.gather(*(ask(sampler) for sampler in samplers)):
        if own:
            registry.register(_Sampled(own.collect()))
    return registry


async def sample_broker(registry: CollectorRegistry, resources: "Resources") -> None:
    """The length of every queue, and the age of every worker's last heartbeat."""
    redis = resources.broker.redis
    queues = resources.publisher.queues
    QUEUE_LENGTH.put(registry, {queue: await redis.llen(queue) for queue in queues})
    heard = await heartbeats(redis)
    HEARTBEAT_AGE.put(registry, {worker: max(0.0, time.time() - at) for worker, at in heard.items()})


def observe(resources: "Resources") -> None:
    """Write down what only this process knows, for whichever process is asked next."""
    pools = [engine.sync_engine.pool for engine in resources.db.engines]
    queues = [pool for pool in pools if isinstance(pool, QueuePool)]
    POOL_SIZE.set(sum(pool.checkedin() + pool.checkedout() for pool in queues))
    POOL_USED.set(sum(pool.checkedout() for pool in queues))
    # Neither the pool nor asyncio's queue below it says how many wait.
    POOL_WAITING.set(sum(len(cast("Any", pool)._pool._queue._getters) for pool in queues))
    REQUESTS_IN_PROGRESS.set(in_progress.value)


async def watch(resources: "Resources") -> None:
    """`observe` every few seconds, for as long as the process lives."""
    while True:
        observe(resources)
        await asyncio.sleep(WATCH_SECONDS)


def note_build(settings: "Settings") -> None:
    """Say which version runs, in every process."""
    BUILD.labels(project().version, settings.environment.value).set(1)


def serve(host: str, port: int) -> None:
    """Answer scrapes from a thread of this process; for processes that are no web server."""
    registry: CollectorRegistry = REGISTRY
    if MULTIPROCESS_DIR in os.environ:
        registry = CollectorRegistry()
        _collect_processes(registry)
    start_http_server(port, host, registry)


def table() -> str:
    """Every metric of core in Markdown, for docs/metrics.md."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    rows = []
    for value in globals().values():
        if isinstance(value, Sample):
            rows.append((value.name, "gauge", value.label, value.text))
        elif isinstance(value, MetricWrapperBase):
            (metric,) = value.describe()
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            rows.append((name, metric.type, ", ".join(value._labelnames), metric.documentation))  # nothing else says
    lines += [f"| `{name}` | {kind} | {labels} | {text} |" for name, kind, labels, text in sorted(rows)]
    return "\n".join(lines) + "\n"


def _collect_processes(registry: CollectorRegistry) -> None:
    """Add what all processes of the service have written."""
    registry.register(_Processes(Path(os.environ[MULTIPROCESS_DIR])))  # first: it tidies up
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the library has no annotation here


class _Sampled(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


class _Processes(Collector):
    """Memory, CPU time and open files of each process of the service, which the client library gives for one only.

    Forgets the gauges of those that died: nobody tells when one is killed. Their counters and histograms stay, or sums
    would go back.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        found: dict[Sample, dict[str, float]] = {RESIDENT: {}, CPU: {}, DESCRIPTORS: {}, UPTIME: {}}
        for pid in {file.stem.rpartition("_")[2] for file in self._folder.glob("*.db")}:
            process = Path("/proc", pid)
            try:
                # Field 2 is the name in brackets, which may hold anything; see proc(5) for the others.
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                if fields[0] == "Z":
                    raise ProcessLookupError
                up = float(Path("/proc/uptime").read_text().split()[0])
                found[RESIDENT][pid] = int(fields[21]) * resource.getpagesize()
                found[CPU][pid] = (int(fields[11]) + int(fields[12])) / _TICKS
                found[UPTIME][pid] = up - int(fields[19]) / _TICKS
                found[DESCRIPTORS][pid] = sum(1 for _ in (process / "fd").iterdir())
            except (FileNotFoundError, ProcessLookupError):
                if Path("/proc/self").exists():  # elsewhere nobody can be asked
                    with suppress(FileNotFoundError):  # another process tidies up as well
                        mark_process_dead(pid, str(self._folder))  # type: ignore[no-untyped-call]  # as above
            except PermissionError:  # of another user: what could be read is kept
                continue
        return [sample.family(values) for sample, values in found.items()]


_TICKS = os.sysconf("SC_CLK_TCK")
