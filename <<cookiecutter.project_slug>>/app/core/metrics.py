"""Prometheus metrics, right under several processes.

Each process writes to files below PROMETHEUS_MULTIPROC_DIR, and whoever is asked adds them up. The client library reads
that variable when it is imported, so `cli` sets it before anything imports this module.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from redis.asyncio import Redis

from app.core.worker_heartbeat import heartbeats

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds. Close together around the alarm at 0.8 s, where precision counts.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.8, 1.0, 2.5, 5.0, 10.0)
TASK_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0)
AI_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)

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
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
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


def exposition(registry: CollectorRegistry | None = None) -> bytes:
    """All metrics of this service's processes in Prometheus' text format.

    Args:
        registry: holds values sampled for this very answer; the counters are added to it.
    """
    registry = registry or CollectorRegistry()
    if MULTIPROCESS_DIR in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the library has no annotation here
        return generate_latest(registry)
    return generate_latest(registry) + generate_latest(REGISTRY)


async def sample_broker(registry: CollectorRegistry, redis: Redis, queues: Sequence[str]) -> None:
    """Put the length of every queue and the age of every worker's last heartbeat into `registry`."""
    # Not `Gauge`, which under several processes would write a file and stay in every later answer.
    length = GaugeMetricFamily("celery_queue_length", "Messages waiting.", labels=["queue"])
    age = GaugeMetricFamily(
        "celery_worker_heartbeat_age_seconds", "Time since a worker was last heard of.", labels=["worker"]
    )
    for queue in queues:
        length.add_metric([queue], await redis.llen(queue))
    for worker, heard in (await heartbeats(redis)).items():
        age.add_metric([worker], max(0.0, time.time() - heard))
    register_sampled(registry, [length, age])


def register_sampled(registry: CollectorRegistry, families: Iterable[Metric]) -> None:
    """Put values into `registry` that were sampled for one answer."""
    registry.register(_Sampled(families))


def sampled(registry: CollectorRegistry, name: str, text: str, label: str, values: Mapping[str, float]) -> None:
    """Put a gauge with the values of this very moment into `registry`, one for each value of its label."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    registry.register(_Sampled([family]))


class _Sampled(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def serve(host: str, port: int) -> None:
    """Answer scrapes from a thread of this process; for processes that are no web server."""
    registry: CollectorRegistry = REGISTRY
    if MULTIPROCESS_DIR in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the library has no annotation here
    start_http_server(port, host, registry)
