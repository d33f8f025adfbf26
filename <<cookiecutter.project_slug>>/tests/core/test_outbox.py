"""The outbox: a task is done once if nothing goes wrong, again if something does, and never forgotten."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from app.core import tasks
from app.core.logging import request_id, user_id
from app.core.outbox import Outbox, OutboxTask, State
from app.core.storage import StorageUnavailable
from app.core.tasks import Queue, Task, enqueue, execute, sweep, task

if TYPE_CHECKING:
    from app.core.resources import Resources
    from tests.core.conftest import SettingsWith, Without


@pytest.fixture
def outbox(resources: "Resources") -> Outbox:
    """The outbox of the stack."""
    return Outbox(resources.db, resources.settings.tasks)


async def ask(resources: "Resources", task: Task[Any], *args: object) -> UUID:
    """Enqueue a task in a transaction of its own."""
    async with resources.db.transaction() as session:
        return enqueue(session, task, *args)


async def row(resources: "Resources", identity: UUID) -> OutboxTask | None:
    """A task's row; None when it is done."""
    async with resources.db.read() as session:
        return await session.get(OutboxTask, identity)


async def state(resources: "Resources", identity: UUID) -> str:
    """A task's state; "done" when there is no row any more."""
    found = await row(resources, identity)
    return found.state if found else "done"


async def put(resources: "Resources", identity: UUID, **values: Any) -> None:
    """Change a row as time or an accident would have done."""
    async with resources.db.transaction() as session:
        await session.execute(update(OutboxTask).where(OutboxTask.id == identity).values(**values))


async def seconds_until_due(resources: "Resources", identity: UUID) -> float:
    """By the database's clock."""
    async with resources.db.read() as session:
        left = await session.scalar(select(OutboxTask.due_at - func.now()).where(OutboxTask.id == identity))
    assert isinstance(left, timedelta)
    return left.total_seconds()


PAST = func.now() - timedelta(hours=1)


async def test_a_task_that_is_done_is_gone(resources: "Resources", probe: ModuleType) -> None:
    """The row goes when the work is done, and the message that comes a second time finds nothing to do."""
    identity = await ask(resources, probe.note, "x")
    assert await execute(resources, probe.note, identity, ["x"]) == "done"
    assert await state(resources, identity) == "done"
    assert await execute(resources, probe.note, identity, ["x"]) == "skipped"
    assert await resources.cache.redis.lrange(probe.DONE, 0, -1) == [b"x"]


async def test_of_many_claims_one_holds(resources: "Resources", probe: ModuleType, outbox: Outbox) -> None:
    """The same message in many workers at once is run by one of them."""
    identity = await ask(resources, probe.note, "x")
    claims = await asyncio.gather(*(outbox.claim(identity) for _ in range(8)))
    (claim,) = [claim for claim in claims if claim]
    assert claim.attempts == 1


async def test_whoever_asked_is_in_the_logs_of_the_task(resources: "Resources", probe: ModuleType) -> None:
    """Request id and user go along with the task, and stay out of the next one."""

    async def asked() -> UUID:
        request_id.set("request-0001")
        user_id.set("somebody")
        return await ask(resources, probe.note, "x")

    identity = await asyncio.create_task(asked())
    found = await row(resources, identity)
    assert found
    assert found.context == {"request_id": "request-0001", "user_id": "somebody"}
    await asyncio.create_task(execute(resources, probe.note, identity, ["x"]))
    assert await resources.cache.redis.lrange(probe.DONE, 0, -1) == [b"x request-0001"]
    assert request_id.get() == ""


async def test_what_else_travels_with_a_task(
    resources: "Resources", probe: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A carrier puts its words into the context where the task is asked for, and is around the attempt with them."""
    seen: list[str] = []

    class Trace:
        """As a tracing library would do it."""

        def inject(self, context: dict[str, str]) -> None:
            context["traceparent"] = "00-1-2-01"

        @contextmanager
        def around(self, task: str, context: Mapping[str, str]) -> Iterator[None]:
            seen.append(f"{task} {context['traceparent']}")
            yield
            seen.append("over")

    monkeypatch.setattr(tasks, "CARRIERS", [Trace()])
    identity = await ask(resources, probe.note, "x")
    assert await execute(resources, probe.note, identity, ["x"]) == "done"
    assert seen == ["probe.note 00-1-2-01", "over"]


async def test_a_process_that_has_to_end_gives_its_task_back(
    resources: "Resources", probe: ModuleType, eventually: Callable[..., Any]
) -> None:
    """Broken off, the task is free at once and the attempt does not count; its feature hears nothing of it."""
    identity = await ask(resources, probe.wait, "x")
    running = asyncio.create_task(execute(resources, probe.wait, identity, ["x"]))
    await eventually(lambda: resources.cache.redis.llen(probe.BEGUN))
    running.cancel()
    assert await running == "released"
    found = await row(resources, identity)
    assert found
    assert (found.state, found.attempts, found.error) == (State.PENDING, 0, None)
    await resources.cache.redis.set(probe.GATE, 1)
    assert await execute(resources, probe.wait, identity, ["x"]) == "done"


async def test_what_cannot_be_given_back_waits_for_its_lease(
    resources: "Resources", probe: ModuleType, eventually: Callable[..., Any], without: "Without"
) -> None:
    """The database is away in that moment: the process ends all the same, and the task runs again after its lease."""
    identity = await ask(resources, probe.wait, "x")
    running = asyncio.create_task(execute(resources, probe.wait, identity, ["x"]))
    await eventually(lambda: resources.cache.redis.llen(probe.BEGUN))
    database = without("postgres")
    await asyncio.to_thread(database.__enter__)
    try:
        running.cancel()
        assert await running == "released"
    finally:
        await asyncio.to_thread(database.__exit__, None, None, None)
    assert await state(resources, identity) == State.RUNNING


async def test_what_a_task_cancels_itself_is_a_failure(resources: "Resources") -> None:
    """Only a process that has to end gives back."""

    @task("tests.cancelled", queue=Queue.LOW, max_attempts=1)
    async def cancelled(resources: "Resources") -> None:
        raise asyncio.CancelledError

    identity = await ask(resources, cancelled)
    assert await execute(resources, cancelled, identity, []) == "dead"


async def test_a_neighbour_that_is_away_is_no_fault_of_the_task(
    resources: "Resources", settings_with: "SettingsWith"
) -> None:
    """Such attempts do not count, however many, until the task has waited for a day; then it ends as others do."""

    @task("tests.away", queue=Queue.LOW, max_attempts=1)
    async def away(resources: "Resources") -> None:
        raise StorageUnavailable

    identity = await ask(resources, away)
    for _ in range(3):
        assert await execute(resources, away, identity, []) == "retried"
        found = await row(resources, identity)
        assert found
        assert (found.state, found.attempts) == (State.WAITING, 0)
        assert "StorageUnavailable" in (found.error or "")
        assert await seconds_until_due(resources, identity) <= resources.settings.tasks.away_seconds
        await put(resources, identity, due_at=PAST)
        assert await sweep(resources) == 1
    impatient = replace(resources, settings=settings_with(TASKS_PATIENCE_SECONDS="0"))
    assert await execute(impatient, away, identity, []) == "dead"


async def test_a_lease_is_renewed_while_the_task_runs(
    resources: "Resources", probe: ModuleType, eventually: Callable[..., Any]
) -> None:
    """A task longer than its lease is not taken away; its due time moves on."""
    identity = await ask(resources, probe.wait, "x")
    running = asyncio.create_task(execute(resources, probe.wait, identity, ["x"]))
    await eventually(lambda: resources.cache.redis.llen(probe.BEGUN))
    first = await row(resources, identity)
    assert first

    async def moved() -> bool:
        now = await row(resources, identity)
        assert now
        return now.due_at > first.due_at + timedelta(seconds=1)

    await eventually(moved)
    assert await sweep(resources) == 0
    await resources.cache.redis.set(probe.GATE, 1)
    assert await running == "done"


async def test_a_lease_that_ran_out_runs_again(resources: "Resources", probe: ModuleType, outbox: Outbox) -> None:
    """The worker is gone: the sweep sends the task again, and it is done by another."""
    identity = await ask(resources, probe.note, "x")
    assert await outbox.claim(identity)
    assert await sweep(resources) == 0
    assert await execute(resources, probe.note, identity, ["x"]) == "skipped"
    await put(resources, identity, due_at=PAST)
    assert await sweep(resources) == 1
    assert await state(resources, identity) == State.SENT
    assert await execute(resources, probe.note, identity, ["x"]) == "done"


async def test_who_lost_the_lease_settles_nothing(resources: "Resources", probe: ModuleType, outbox: Outbox) -> None:
    """A worker that was thought dead and comes back cannot put off, bury or keep what another one has now."""
    identity = await ask(resources, probe.fail, "x")
    old = await outbox.claim(identity)
    await put(resources, identity, due_at=PAST)
    new = await outbox.claim(identity)
    assert old
    assert new
    before = await row(resources, identity)
    assert before
    await outbox.retry(old, "late")
    await outbox.renew(old)
    assert not await outbox.bury(old, "late")
    after = await row(resources, identity)
    assert after
    assert (after.state, after.due_at, after.error) == (State.RUNNING, before.due_at, None)
    await outbox.retry(new, "now")
    assert await state(resources, identity) == State.WAITING


async def test_a_failure_is_tried_again_later_each_time(resources: "Resources", probe: ModuleType) -> None:
    """The wait doubles, with jitter; what failed stays in the row; nobody can have it before its time."""
    identity = await ask(resources, probe.fail, "x")
    await put(resources, identity, attempts=0)
    waits = []
    for attempt in (1, 2):
        assert await execute(resources, probe.fail, identity, ["x"]) == "retried"
        waits.append(await seconds_until_due(resources, identity))
        assert await execute(resources, probe.fail, identity, ["x"]) == "skipped", "not before its time"
        found = await row(resources, identity)
        assert found
        assert (found.attempts, found.state) == (attempt, State.WAITING)
        assert "RuntimeError" in (found.error or "")
        await put(resources, identity, due_at=PAST)
        assert await sweep(resources) == 1
    unit = resources.settings.tasks.retry_seconds
    assert unit * 0.2 < waits[0] <= unit
    assert unit * 0.7 < waits[1] <= unit * 2


async def test_waits_differ_and_end(resources: "Resources", probe: ModuleType, outbox: Outbox) -> None:
    """What failed together does not come back together, and no wait is longer than an hour."""
    identity = await ask(resources, probe.fail, "x")
    claim = await outbox.claim(identity)
    assert claim
    waits = {await outbox.retry(claim, "x") for _ in range(10)}
    assert len(waits) > 5
    assert await outbox.retry(replace(claim, attempts=60), "x") <= timedelta(hours=1)


async def test_after_the_last_attempt_it_is_dead(resources: "Resources", probe: ModuleType) -> None:
    """It stays for a person, its feature is told once, and neither sweep nor message wakes it."""
    identity = await ask(resources, probe.fail, "x")
    for _ in range(2):
        assert await execute(resources, probe.fail, identity, ["x"]) == "retried"
        await put(resources, identity, due_at=PAST)
        await sweep(resources)
    assert await execute(resources, probe.fail, identity, ["x"]) == "dead"
    assert await resources.cache.redis.lrange(probe.BURIED, 0, -1) == [b"x"]
    await put(resources, identity, due_at=PAST)
    assert await sweep(resources) == 0
    assert await execute(resources, probe.fail, identity, ["x"]) == "skipped"
    assert await state(resources, identity) == State.DEAD


async def test_a_task_that_kills_its_worker_is_not_run_for_ever(
    resources: "Resources", probe: ModuleType, outbox: Outbox
) -> None:
    """Each attempt ends without a word; after the last one the task is dead, and its function is not called."""
    identity = await ask(resources, probe.die, "x")
    for _ in range(2):
        assert await outbox.claim(identity)
        await put(resources, identity, due_at=PAST)
        assert await sweep(resources) == 1
    assert await execute(resources, probe.die, identity, ["x"]) == "dead"
    assert await resources.cache.redis.llen(probe.BEGUN) == 0
    assert await resources.cache.redis.lrange(probe.BURIED, 0, -1) == [b"x"]


async def test_a_task_has_a_deadline(resources: "Resources", probe: ModuleType) -> None:
    """What never ends is ended, and counts as failed."""
    identity = await ask(resources, probe.hang, "x")
    async with asyncio.timeout(5):
        assert await execute(resources, probe.hang, identity, ["x"]) == "dead"
    found = await row(resources, identity)
    assert found
    assert "TimeoutError" in (found.error or "")


async def test_a_feature_that_fails_to_mourn_changes_nothing(resources: "Resources") -> None:
    """An error in `on_dead` is logged; the task is dead all the same."""

    async def on_dead(_resources: "Resources") -> None:
        raise RuntimeError("again")

    @task("tests.fail", queue=Queue.LOW, max_attempts=1, on_dead=on_dead)
    async def fail(resources: "Resources") -> None:
        raise RuntimeError("once")

    identity = await ask(resources, fail)
    assert await execute(resources, fail, identity, []) == "dead"
    assert await state(resources, identity) == State.DEAD


class TestSweep:
    """What is overdue is sent, and only that."""

    async def test_never_sent(self, resources: "Resources", probe: ModuleType) -> None:
        """The process died between commit and send: after a while of grace the message is sent."""
        identity = await ask(resources, probe.note, "x")
        await resources.broker.redis.flushall()
        await put(resources, identity, state=State.PENDING, due_at=func.now())
        assert await sweep(resources) == 0, "its sender may be about to"
        await put(resources, identity, due_at=PAST)
        assert await sweep(resources) == 1
        assert await resources.broker.redis.llen("low") == 1

    async def test_sent_and_lost(self, resources: "Resources", probe: ModuleType) -> None:
        """The broker forgot it: it is sent again once it should long have begun."""
        identity = await ask(resources, probe.note, "x")
        left = await seconds_until_due(resources, identity)
        assert abs(left - resources.settings.tasks.redeliver_seconds) < 10
        assert await sweep(resources) == 0
        await put(resources, identity, due_at=PAST)
        await resources.broker.redis.flushall()
        assert await sweep(resources) == 1
        assert await resources.broker.redis.llen("low") == 1

    async def test_by_several_at_once(self, resources: "Resources", probe: ModuleType) -> None:
        """Beat's ticks may overlap: each task is handed to one of them."""
        identities = [await ask(resources, probe.note, str(number)) for number in range(20)]
        for identity in identities:
            await put(resources, identity, due_at=PAST)
        await resources.broker.redis.flushall()
        swept = await asyncio.gather(*(sweep(resources) for _ in range(5)))
        assert sum(swept) == 20
        assert await resources.broker.redis.llen("low") == 20

    async def test_oldest_first(self, resources: "Resources") -> None:
        """When there is more than one batch, nothing starves."""
        from app.core import outbox as module

        async with resources.db.transaction() as session:
            session.add_all(
                OutboxTask(
                    name="probe.note",
                    args=[str(number)],
                    queue="low",
                    due_at=func.now() - timedelta(days=1 + number % 7),
                )
                for number in range(module.SWEEP_BATCH + 50)
            )
        # What was handed out is not due again before the test ends, on the slowest machine.
        patient = Outbox(resources.db, resources.settings.tasks.model_copy(update={"send_grace_seconds": 600.0}))
        assert len(await patient.overdue()) == module.SWEEP_BATCH
        assert len(await patient.overdue()) == 50

    async def test_while_the_broker_is_away(
        self, resources: "Resources", probe: ModuleType, without: "Without"
    ) -> None:
        """Nothing is lost and nothing counts as sent."""
        identity = await ask(resources, probe.note, "x")
        await put(resources, identity, due_at=PAST)
        broker = without("broker")
        await asyncio.to_thread(broker.__enter__)
        try:
            await sweep(resources)
            assert await state(resources, identity) == State.PENDING
        finally:
            await asyncio.to_thread(broker.__exit__, None, None, None)


async def test_marking_as_sent_comes_too_late_for_a_fast_worker(
    resources: "Resources", probe: ModuleType, outbox: Outbox
) -> None:
    """A worker may have begun, failed or ended before the sender notes that it has sent: then nothing changes."""
    running, waiting, done = [await ask(resources, probe.fail, str(number)) for number in range(3)]
    for identity in (running, waiting, done):
        claim = await outbox.claim(identity)
        assert claim
        if identity == waiting:
            await outbox.retry(claim, "x")
        if identity == done:
            await outbox.finish(identity)
    due = (await row(resources, waiting) or OutboxTask()).due_at
    await outbox.mark_sent([running, waiting, done])
    assert [await state(resources, identity) for identity in (running, waiting, done)] == ["running", "waiting", "done"]
    found = await row(resources, waiting)
    assert found
    assert isinstance(found.due_at, datetime)
    assert found.due_at == due


async def test_a_committed_task_that_cannot_be_marked_is_no_error(resources: "Resources", probe: ModuleType) -> None:
    """The data is committed and the message sent: that the note of it fails must not turn the answer into an error."""

    class Broken:
        """A database that went away after the commit."""

        def transaction(self) -> Any:
            raise OSError("gone")

    identity = await ask(resources, probe.note, "x")
    found = await row(resources, identity)
    assert found
    await resources.publisher.publish(Broken(), [found])  # type: ignore[arg-type]
    assert await resources.broker.redis.llen("low") == 2


async def test_running_tasks_in_tests(resources: "Resources", run_tasks: Callable[[], Awaitable[list[str]]]) -> None:
    """The fixture that other tests rely on has nothing to do when nothing was asked for."""
    assert await run_tasks() == []


async def test_a_task_is_a_function_too(resources: "Resources", probe: ModuleType) -> None:
    """A test or another service calls it without a worker."""
    await probe.note(resources, "x")
    assert await resources.cache.redis.lrange(probe.DONE, 0, -1) == [b"x"]


async def test_arguments_are_positional(resources: "Resources", probe: ModuleType) -> None:
    """They are kept as a list."""
    async with resources.db.transaction() as session:
        with pytest.raises(AssertionError, match="positional"):
            enqueue(session, probe.note, name="x")
        with pytest.raises(AssertionError, match="beat"):
            enqueue(session, probe.tick)
