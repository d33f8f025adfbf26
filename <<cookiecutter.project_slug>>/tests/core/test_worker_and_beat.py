"""One worker and one beat, as in production, through everything that may happen to their tasks."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection
from sqlalchemy import text

from app.core.outbox import OutboxTask, State
from app.core.tasks import celery_app
from tests.core.asking import ask, left, said

if TYPE_CHECKING:
    from app.core.resources import Resources
    from tests.core.conftest import RunService, Service

Until = Callable[..., Any]


@pytest.fixture(scope="module")
def team(
    services: "Callable[[Path], AbstractContextManager[RunService]]", tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[Service]":
    """A worker of three processes and a beat, for the tests that leave them as they were."""
    folder = tmp_path_factory.mktemp("team")
    with services(folder) as run:
        run("beat", "--schedule", str(folder / "schedule"))
        yield run("worker", "--concurrency", "3", TASKS_LEASE_SECONDS="1")


async def test_what_was_never_sent_and_what_kills_or_blocks(
    resources: "Resources", probe: ModuleType, team: "Service", eventually: Until
) -> None:
    """With beat and a worker: a row that nobody sent is done; a task that kills its process, or blocks it, ends dead.

    And the worker is there for others all the while.
    """
    async with resources.db.transaction() as session:
        session.add(OutboxTask(name="probe.note", args=["left behind"], queue="low", context={}))
    await ask(resources, probe.die, "killer")
    await ask(resources, probe.block, "blocker")

    async def all_settled() -> bool:
        return [state for _, state, _ in await left(resources)] == [State.DEAD, State.DEAD]

    await eventually(all_settled, 60)
    assert await said(resources, probe.DONE) == ["left behind"]

    async def both_buried() -> bool:
        return sorted(await said(resources, probe.BURIED)) == ["blocker", "killer"]

    await eventually(both_buried)
    begun = await said(resources, probe.BEGUN)
    assert (begun.count("killer"), begun.count("blocker")) == (2, 1)
    # The features' own schedule runs as well, with no request's id in its logs.
    assert set(await eventually(lambda: said(resources, probe.TICKS))) == {""}
    await ask(resources, probe.note, "after all")
    await eventually(lambda: _is_last(resources, probe, "after all"))


async def _is_last(resources: "Resources", probe: ModuleType, name: str) -> bool:
    return (await said(resources, probe.DONE))[-1] == name


async def test_retries_in_a_real_worker(
    resources: "Resources", probe: ModuleType, team: "Service", eventually: Until
) -> None:
    """A failing task is tried as often as it says, its error is logged masked, and it ends dead."""
    await ask(resources, probe.fail, "x")
    assert await eventually(lambda: said(resources, probe.BURIED)) == ["x"]
    assert await said(resources, probe.BEGUN) == ["x"] * 3
    assert await left(resources) == [("probe.fail", State.DEAD, 3)]
    written = team.log.read_text()
    assert "task_failed" in written
    assert "task_dead" in written
    assert "ada@example.com" not in written
    assert "hunter22" not in written


async def test_only_json_is_read(
    resources: "Resources", probe: ModuleType, team: "Service", tmp_path: Path, eventually: Until
) -> None:
    """A pickled message could run anything: it is thrown away unread, and the worker goes on."""
    marker = tmp_path / "pwned"

    class Attack:
        """What runs a command when it is unpickled."""

        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(marker),)

    def send() -> None:
        with Connection(resources.settings.broker.address()) as connection:
            queue = celery_app(resources.settings).amqp.queues["low"]
            connection.Producer().publish(
                Attack(),
                serializer="pickle",
                exchange="",
                routing_key="low",
                declare=[queue],
                headers={"id": "x", "task": "probe.note"},
            )

    await asyncio.to_thread(send)
    await ask(resources, probe.note, "after")
    await eventually(lambda: said(resources, probe.DONE))
    assert not marker.exists()
    assert "ContentDisallowed" in team.log.read_text()


async def test_a_database_that_comes_back_is_used_again(
    resources: "Resources", probe: ModuleType, team: "Service", eventually: Until
) -> None:
    """A worker outlives the restart of its connections."""
    await ask(resources, probe.note, "before")
    await eventually(lambda: said(resources, probe.DONE))
    async with resources.db.read() as session:
        await session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()"
            )
        )
    await resources.db.engine.dispose()  # ours were closed as well
    await ask(resources, probe.note, "after")
    await eventually(lambda: _is_last(resources, probe, "after"))
