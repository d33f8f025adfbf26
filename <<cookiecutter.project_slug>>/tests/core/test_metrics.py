"""Metrics: right whichever process answers, and of those that are gone."""

import contextlib
import os
import re
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from app.core import metrics
from app.core.project import ROOT
from app.core.tasks import enqueue
from tests.core import asking

if TYPE_CHECKING:
    from app.core.resources import Resources
    from tests.core.conftest import RunService, Without


def sample(text: str, name: str) -> float:
    """The value of a sample, by its name and labels."""
    found = re.search("^" + re.escape(name) + r" (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def serving(pid: int) -> list[int]:
    """The API's own processes below the one that was started."""
    return [child for child in children(pid) if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_several_processes_count_together(run_service: "RunService", free_port: int, until: Callable[..., Any]) -> None:
    """Two processes: every scrape gives the sum, whoever answers it, also after one of them was killed."""
    service = run_service("serve", "--port", str(free_port), "--workers", "2")
    base = f"http://127.0.0.1:{free_port}"
    name = 'http_requests_total{method="GET",route="/api/v1/probe/things/{number}",status="200"}'

    def get(path: str) -> httpx.Response:
        # A connection for each request, so that both processes get some.
        return asking.get(base + path)

    def up() -> bool:
        try:
            return get("/health").status_code == 200 and len(serving(service.process.pid)) == 2
        except httpx.TransportError:
            return False

    until(up)
    for number in range(40):
        assert get(f"/api/v1/probe/things/{number}").status_code == 200
    assert {sample(get("/metrics").text, name) for _ in range(8)} == {40.0}
    with ThreadPoolExecutor(6) as clients:
        held = [clients.submit(get, "/api/v1/probe/slow") for _ in range(6)]
        # Both processes hold some, and the scrape is one more; each writes its number down every two seconds.
        until(lambda: sample(get("/metrics").text, "http_requests_in_progress") == 7)
        pids = serving(service.process.pid)
        text = get("/metrics").text
        for name_of in ("resident_memory_bytes", "cpu_seconds", "open_fds", "uptime_seconds"):
            assert all(sample(text, f'service_process_{name_of}{{pid="{pid}"}}') > 0 for pid in pids), name_of
        # Whoever answers has left: no more than what the other one holds.
        os.kill(pids[0], signal.SIGKILL)
        until(up)
        until(lambda: sample(get("/metrics").text, "http_requests_in_progress") < 7)
        assert f'pid="{pids[0]}"' not in get("/metrics").text
        for pid in serving(service.process.pid):
            os.kill(pid, signal.SIGKILL)
        assert all(client.exception() for client in held)
    until(up)
    assert sample(get("/metrics").text, "http_requests_in_progress") <= 2
    sent = 0

    def twenty_more() -> bool:
        nonlocal sent
        try:
            sent += get("/api/v1/probe/things/1").status_code == 200
        except httpx.TransportError:
            return False
        return sent == 20

    until(twenty_more)
    seen = {sample(get("/metrics").text, name) for _ in range(8)}
    assert len(seen) == 1
    # A request that the killed process had counted and not answered may be among them.
    assert 60.0 <= seen.pop() <= 61.0
    others = [line for line in get("/metrics").text.splitlines() if not line.startswith("service_process_")]
    assert "pid=" not in "".join(others)
    assert 'environment="development"' in next(line for line in others if line.startswith("service_build_info{"))


async def test_queues_and_workers_are_sampled(
    web: httpx.AsyncClient, resources: "Resources", probe: ModuleType
) -> None:
    """How many messages wait, and since when each worker is silent, as of this very moment."""
    from time import time

    from app.core.worker_heartbeat import PREFIX

    async with resources.db.transaction() as session:
        for number in range(3):
            enqueue(session, probe.note, str(number))
    await resources.broker.redis.set(f"{PREFIX}celery@test", repr(time() - 20))
    response = await web.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert sample(response.text, 'celery_queue_length{queue="low"}') == 3
    assert sample(response.text, 'celery_queue_length{queue="critical"}') == 0
    assert 20 <= sample(response.text, 'celery_worker_heartbeat_age_seconds{worker="celery@test"}') < 40
    await resources.broker.redis.flushall()
    after = (await web.get("/metrics")).text
    assert sample(after, 'celery_queue_length{queue="low"}') == 0
    assert "celery@test" not in after


@pytest.mark.parametrize("how", ["without", "hung"])
async def test_the_broker_may_be_away(
    web: httpx.AsyncClient, resources: "Resources", request: pytest.FixtureRequest, how: str
) -> None:
    """The other numbers come all the same, and in time for the scrape."""
    import asyncio
    import time

    away: Without = request.getfixturevalue(how)
    await web.get("/health")
    neighbour = away("broker")
    await asyncio.to_thread(neighbour.__enter__)
    try:
        began = time.monotonic()
        response = await web.get("/metrics")
        assert time.monotonic() - began < 5
        assert response.status_code == 200
        assert "http_requests_total{" in response.text
        assert "celery_queue_length{" not in response.text
    finally:
        await asyncio.to_thread(neighbour.__exit__, None, None, None)


async def test_tasks_and_cache_are_counted(web: httpx.AsyncClient, resources: "Resources", probe: ModuleType) -> None:
    """By outcome."""
    from uuid import uuid4

    from app.core.tasks import execute

    names = {
        "hit": 'cache_requests_total{outcome="hit"}',
        "miss": 'cache_requests_total{outcome="miss"}',
        "skipped": 'celery_tasks_total{outcome="skipped",task="probe.note"}',
        "seconds": 'celery_task_duration_seconds_count{task="probe.note"}',
    }
    before = (await web.get("/metrics")).text
    for _ in range(3):
        await web.get("/api/v1/probe/cached")
    await execute(resources, probe.note, uuid4(), ["x"])
    after = (await web.get("/metrics")).text
    grown = {key: sample(after, name) - sample(before, name) for key, name in names.items()}
    assert grown.pop("hit") in (2, 3)  # what a feature samples for the scrape may be in the cache too
    assert grown == {"miss": 1, "skipped": 1, "seconds": 1}


async def test_the_outbox_is_sampled(web: httpx.AsyncClient, resources: "Resources", probe: ModuleType) -> None:
    """How many tasks wait, which are dead, and how old the oldest is that somebody still waits for."""
    from sqlalchemy import text

    nothing = (await web.get("/metrics")).text
    assert sample(nothing, "task_outbox_oldest_seconds") == 0
    assert 'task_outbox_tasks{state="dead"} 0' in nothing
    async with resources.db.transaction() as session:
        for number in range(3):
            enqueue(session, probe.note, str(number))
    async with resources.db.transaction() as session:
        await session.execute(
            text("UPDATE task_outbox SET created_at = now() - interval '1 hour' WHERE args = '[\"0\"]'")
        )
        await session.execute(
            text("UPDATE task_outbox SET created_at = now() - interval '1 day', state = 'dead' WHERE args = '[\"1\"]'")
        )
    written = (await web.get("/metrics")).text
    assert sample(written, 'task_outbox_tasks{state="dead"}') == 1
    assert 3600 <= sample(written, "task_outbox_oldest_seconds") < 3700


async def test_the_pool_is_observed(
    resources: "Resources", web: httpx.AsyncClient, eventually: Callable[..., Any]
) -> None:
    """Open connections, those in use, and who waits for one."""
    import asyncio

    from sqlalchemy import text

    settings = resources.settings.database
    most = settings.pool_size + settings.pool_overflow
    names = ("db_pool_connections", "db_pool_in_use", "db_pool_waiting")
    async with contextlib.AsyncExitStack() as held:
        for _ in range(most):
            await held.enter_async_context(resources.db.engine.connect())

        async def read() -> None:
            async with resources.db.read() as session:
                await session.execute(text("SELECT 1"))

        waiting = asyncio.create_task(read())

        def seen() -> list[float]:
            metrics.observe(resources)
            written = metrics.exposition().decode()
            return [sample(written, name) for name in names]

        await eventually(lambda: seen() == [most, most, 1], 2)
    await waiting
    written = (await web.get("/metrics")).text
    assert [sample(written, name) for name in names[1:]] == [0, 0]


def test_the_page_of_metrics_is_the_code() -> None:
    """docs/metrics.md is what `make generate` writes now, and every metric says what it means."""
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    assert page.endswith("\n\n" + metrics.table())
    assert "|  |\n" not in metrics.table()
