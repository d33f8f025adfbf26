"""Real workers and a real beat: what was asked for gets done, in the right order, whatever dies on the way."""

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from app.core.outbox import OutboxTask, State
from app.core.project import ROOT
from app.core.settings import Tasks
from app.core.tasks import RELEASE_SECONDS, Queue, celery_app, register
from app.worker import tasks
from tests.core.asking import ask, left, said

if TYPE_CHECKING:
    from app.core.resources import Resources
    from app.core.settings import Settings
    from tests.core.conftest import RunService, Service, Without

Until = Callable[..., Any]


@pytest.fixture
def work(run_service: "RunService", resources: "Resources") -> "Callable[..., Service]":
    """Starts a worker: `work(1, TASKS_LEASE_SECONDS="1")` has one process."""

    def start(concurrency: int = 2, **environment: str) -> "Service":
        return run_service("worker", "--concurrency", str(concurrency), **environment)

    return start


async def test_urgent_work_goes_first(
    resources: "Resources", probe: ModuleType, work: "Callable[..., Service]", eventually: Until
) -> None:
    """One process, a flooded low queue: a critical task waits for the one that runs, and for none that waits.

    The same worker shows that each queue's messages are its own: nothing is done twice.
    """
    work(1, TASKS_RESERVED="0")
    low = [f"low-{number}" for number in range(30)]
    await ask(resources, probe.wait, *low)
    await eventually(lambda: said(resources, probe.BEGUN))
    await ask(resources, probe.note_critical, "critical")
    await eventually(lambda: resources.broker.redis.llen("critical"))
    await resources.cache.redis.set(probe.GATE, 1)

    async def empty() -> bool:
        return not await left(resources)

    await eventually(empty)
    begun = await said(resources, probe.BEGUN)
    # One low task ran, and one more may have been handed to the process already.
    assert begun.index("critical") <= 2
    assert sorted(begun) == sorted([*low, "critical"])


async def test_critical_work_always_has_a_free_hand(
    resources: "Resources", probe: ModuleType, work: "Callable[..., Service]", eventually: Until
) -> None:
    """Both ordinary processes are held by tasks that do not end, and many more wait: a critical one starts at once.

    And the reserved process is not for the others: no third one begins.
    """
    service = work(2)
    await ask(resources, probe.wait, *(f"low-{number}" for number in range(10)))

    async def full() -> bool:
        return len(await said(resources, probe.BEGUN)) >= 2

    await eventually(full)
    seconds = []
    for number in range(5):
        began = time.perf_counter()
        await ask(resources, probe.note_critical, f"critical-{number}")
        await eventually(lambda: _ends_with(resources, probe.DONE, f"critical-{number}"))  # noqa: B023  # at once
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.5, seconds
    begun = await said(resources, probe.BEGUN)
    assert len([name for name in begun if name.startswith("low")]) == 2, begun
    assert len(children(service.process.pid)) == 3
    await resources.cache.redis.set(probe.GATE, 1)

    async def empty() -> bool:
        return not await left(resources)

    await eventually(empty)


async def _ends_with(resources: "Resources", where: str, name: str) -> bool:
    return (await said(resources, where))[-1:] == [name]


def test_a_container_is_given_the_time_to_drain() -> None:
    """By default; what is killed earlier comes back only after its lease."""
    parts = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    seconds = int(parts["worker"]["stop_grace_period"].removesuffix("s"))
    assert seconds >= Tasks().drain_seconds + RELEASE_SECONDS + 10


def test_no_message_comes_back_while_its_task_may_run(settings: "Settings", probe: ModuleType) -> None:
    """The broker's visibility time-out is longer than the longest task that any feature declares, whatever it is."""
    app = celery_app(settings)
    register(app, settings, [probe.note, replace(probe.hang, limit=timedelta(hours=5))], lambda *_: "")
    assert app.conf.broker_transport_options["visibility_timeout"] > 2 * 5 * 3600
    every = tasks()
    app = celery_app(settings)
    register(app, settings, every, lambda *_: "")
    longest = max(task.hard_limit(settings) for task in every)
    assert app.conf.broker_transport_options["visibility_timeout"] > longest


async def test_a_message_is_in_one_queue(resources: "Resources", probe: ModuleType) -> None:
    """Sent for low, it is not delivered to the others as well, as it would be on a shared exchange."""
    await ask(resources, probe.note, "x")
    lengths = {queue: await resources.broker.redis.llen(queue) for queue in Queue}
    assert lengths == {Queue.CRITICAL: 0, Queue.HIGH: 0, Queue.MEDIUM: 0, Queue.LOW: 1}


async def test_a_worker_may_serve_some_queues_alone(
    resources: "Resources", probe: ModuleType, run_service: "RunService", eventually: Until
) -> None:
    """A worker kept free for urgent work leaves the rest where it is."""
    run_service("worker", "--concurrency", "1", "--queues", "critical")
    await ask(resources, probe.note, "low")
    await ask(resources, probe.note_critical, "critical")
    await eventually(lambda: said(resources, probe.DONE))
    assert await said(resources, probe.DONE) == ["critical"]
    assert await resources.broker.redis.llen("low") == 1


async def test_a_broker_that_goes_away_ends_no_worker(
    resources: "Resources",
    probe: ModuleType,
    work: "Callable[..., Service]",
    without: "Without",
    eventually: Until,
) -> None:
    """With a task in hand: it is done once, and the same worker takes the next ones.

    A worker listens on two connections, its own and the reserve's. When it sees the reserve's break first, Celery fails to
    close the channel of the other one, tries again when it has forgotten the address, and what is in hand could not be
    given back: that ended the worker. It is held still meanwhile, so that it sees them break in this order.
    """
    service = work(2)
    await ask(resources, probe.wait, "in hand")
    await eventually(lambda: said(resources, probe.BEGUN))
    redis = resources.broker.redis

    async def listening() -> list[dict[str, str]]:
        return [client for client in await redis.client_list() if client["cmd"] == "brpop" and "b" in client["flags"]]

    async def both_listen() -> bool:
        return len(await listening()) == 2

    await eventually(both_listen)
    service.process.send_signal(signal.SIGSTOP)
    # The reserve names one queue, the worker all of them.
    for client in sorted(await listening(), key=lambda client: int(client["argv-mem"])):
        assert await redis.client_kill_filter(_id=client["id"]) == 1
    with without("broker"):
        service.process.send_signal(signal.SIGCONT)
        await eventually(lambda: "Trying again" in service.log.read_text() or service.process.poll() is not None)
    assert service.process.poll() is None, service.log.read_text()
    await resources.cache.redis.set(probe.GATE, 1)
    await ask(resources, probe.note_critical, "afterwards")

    async def both_done() -> bool:
        return len(await said(resources, probe.DONE)) == 2

    await eventually(both_done)
    assert sorted(await said(resources, probe.DONE)) == ["afterwards", "in hand"]


async def test_killed_in_mid_task(
    resources: "Resources",
    probe: ModuleType,
    work: "Callable[..., Service]",
    run_service: "RunService",
    eventually: Until,
) -> None:
    """kill -9 of a whole worker: when its lease is over another one does the task from the beginning."""
    first = work(1)
    (identity,) = await ask(resources, probe.wait, "x")
    await eventually(lambda: said(resources, probe.BEGUN))
    first.kill()
    assert await left(resources) == [("probe.wait", State.RUNNING, 1)]
    await resources.cache.redis.set(probe.GATE, 1)
    work(1)
    run_service("beat", "--schedule", str(first.log.parent / "schedule"))
    assert await eventually(lambda: said(resources, probe.DONE)) == ["x"]
    assert await said(resources, probe.BEGUN) == ["x", "x"]

    async def gone() -> bool:
        async with resources.db.read() as session:
            return await session.get(OutboxTask, identity) is None

    await eventually(gone)


async def test_a_worker_announces_itself_and_counts(
    resources: "Resources",
    probe: ModuleType,
    work: "Callable[..., Service]",
    eventually: Until,
    free_port: int,
    tmp_path: Path,
) -> None:
    """Metrics on a port of its own, over all of its processes, dead ones included; a heartbeat; an end without traces."""
    from app.core.worker_heartbeat import heartbeats

    service = work(2, METRICS_WORKER_PORT=str(free_port), TMPDIR=str(tmp_path))

    async def counted() -> float:
        try:
            async with httpx.AsyncClient() as client:
                answer = await client.get(f"http://127.0.0.1:{free_port}/metrics")
        except httpx.TransportError:
            return 0.0
        found = re.search(r'^celery_tasks_total\{outcome="done",task="probe.note"\} (\S+)$', answer.text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    async def ten() -> bool:
        return await counted() == 10

    async def twenty() -> bool:
        return await counted() == 20

    await ask(resources, probe.note, *(str(number) for number in range(10)))
    await eventually(ten)
    for child in children(service.process.pid):
        os.kill(child, signal.SIGKILL)
    await ask(resources, probe.note, *(str(number) for number in range(10, 20)))
    await eventually(twenty)
    assert await eventually(lambda: heartbeats(resources.broker.redis))
    service.process.terminate()
    assert await asyncio.to_thread(service.process.wait, 20) == 0
    assert await asyncio.to_thread(list, tmp_path.glob("metrics-*")) == []


def children(pid: int) -> list[int]:
    """The worker's processes."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("told", ["the main process", "every process"])
async def test_a_worker_lets_its_tasks_end(
    resources: "Resources", probe: ModuleType, work: "Callable[..., Service]", eventually: Until, told: str
) -> None:
    """SIGTERM, as at a deploy: what runs is done, nothing new is begun, and the process ends by itself.

    Also where the platform tells every process at once.
    """
    service = work(1)
    await ask(resources, probe.wait, "running", "waiting")
    await eventually(lambda: said(resources, probe.BEGUN))
    if told == "every process":
        for child in children(service.process.pid):
            os.kill(child, signal.SIGTERM)
    service.process.terminate()
    await eventually(lambda: "Warm shutdown" in service.log.read_text() or service.process.poll() is None)
    await resources.cache.redis.set(probe.GATE, 1)
    assert await asyncio.to_thread(service.process.wait, 20) == 0
    assert "running" in await said(resources, probe.DONE)
    assert "SIGTERM" not in service.log.read_text()  # nobody was ended by it
    remaining = await left(resources)
    assert all(state != State.RUNNING for _, state, _ in remaining), remaining


async def test_what_does_not_end_in_time_goes_back(
    resources: "Resources", probe: ModuleType, work: "Callable[..., Service]", eventually: Until
) -> None:
    """SIGTERM and a task that goes on and on: when the time to drain is over the task is free, as if it had never begun.

    The next worker has it at once, although there is no beat whose sweep would find it.
    """
    service = work(1, TASKS_DRAIN_SECONDS="0.5")
    await ask(resources, probe.wait, "x")
    await eventually(lambda: said(resources, probe.BEGUN))
    began = time.monotonic()
    service.process.terminate()
    assert await asyncio.to_thread(service.process.wait, 20) == 0
    assert time.monotonic() - began < 10
    assert await left(resources) == [("probe.wait", State.PENDING, 0)], service.log.read_text()
    assert await said(resources, probe.DONE) == []
    await resources.cache.redis.set(probe.GATE, 1)
    work(1)
    assert await eventually(lambda: said(resources, probe.DONE)) == ["x"]


async def test_celery_takes_the_address_from_us(run_service: "RunService", dead_port: int, eventually: Until) -> None:
    """Its command line would read BROKER_URL by itself, and believe whoever answers there, which it says."""
    service = run_service("worker", "--concurrency", "1", BROKER_URL=f"rediss://:x@127.0.0.1:{dead_port}/0")
    await eventually(lambda: "Cannot connect to rediss://" in service.log.read_text())
    assert "insecure" not in service.log.read_text()
