"""The database: an answer never comes before its commit, and a task never before its row."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.core.circuit import State
from app.core.db import FAILURES, Database, DatabaseBusy, DatabaseUnavailable, ReadOnly, ValueNotStorable, new_id
from app.core.outbox import OutboxTask
from app.core.outbox import State as TaskState
from app.core.tasks import SENDERS, enqueue

if TYPE_CHECKING:
    from app.core.resources import Resources
    from tests.core.conftest import SettingsWith, Without

QUEUES = ("critical", "high", "medium", "low")


async def rows(resources: "Resources") -> list[OutboxTask]:
    """Every row of the outbox, by id."""
    async with resources.db.read() as session:
        return list(await session.scalars(select(OutboxTask).order_by(OutboxTask.id)))


async def messages(resources: "Resources") -> int:
    """How many messages wait in the broker."""
    return sum([await resources.broker.redis.llen(queue) for queue in QUEUES])


def test_ids_sort_by_time() -> None:
    """UUIDs of version 7: later ones are greater from one millisecond to the next, and none is made twice."""
    made = []
    for _ in range(5):
        made.append(new_id())
        after = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 == after:
            pass
    assert made == sorted(made)
    assert {(identity.version, identity.variant) for identity in made} == {(7, "specified in RFC 4122")}
    assert abs((made[0].int >> 80) - time.time() * 1000) < 60_000
    assert len({new_id() for _ in range(10_000)}) == 10_000


async def test_a_slow_statement_is_counted(resources: "Resources") -> None:
    """Longer than 100 ms, and no other."""

    def slow() -> float:
        return REGISTRY.get_sample_value("db_slow_statements_total", {"database": "database"}) or 0.0

    before = slow()
    async with resources.db.read() as session:
        await session.execute(text("SELECT 1"))
        assert slow() == before
        await session.execute(text("SELECT pg_sleep(0.12)"))
    assert slow() == before + 1


async def test_a_transaction_commits_at_its_end(resources: "Resources", probe: ModuleType) -> None:
    """Nobody sees the work before, everybody after; and only then does the message leave."""
    async with resources.db.transaction() as session:
        identity = enqueue(session, probe.note, "x")
        await session.flush()
        assert await rows(resources) == []
        assert await messages(resources) == 0
    (row,) = await rows(resources)
    assert (row.id, row.name, row.args, row.queue, row.state) == (identity, "probe.note", ["x"], "low", TaskState.SENT)
    assert await messages(resources) == 1


async def test_an_exception_rolls_back(resources: "Resources", probe: ModuleType) -> None:
    """Row and message are gone together."""
    with pytest.raises(RuntimeError, match="after"):  # noqa: PT012  # the block is the transaction
        async with resources.db.transaction() as session:
            enqueue(session, probe.note, "x")
            await session.flush()
            raise RuntimeError("after")
    assert await rows(resources) == []
    assert await messages(resources) == 0


async def test_a_failing_commit_is_no_success(resources: "Resources", probe: ModuleType) -> None:
    """What PostgreSQL checks only at the commit fails the block itself, so that no answer and no task follows."""
    reached = False
    async with resources.db.transaction() as session:
        await session.execute(text("CREATE TABLE late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
    try:
        with pytest.raises(IntegrityError):  # noqa: PT012  # the block is the savepoint
            async with resources.db.transaction() as session:
                enqueue(session, probe.note, "x")
                await session.execute(text("INSERT INTO late VALUES (1), (1)"))
                reached = True
        assert reached
        assert await rows(resources) == []
        assert await messages(resources) == 0
    finally:
        async with resources.db.transaction() as session:
            await session.execute(text("DROP TABLE late"))


async def test_a_savepoint_sends_nothing(resources: "Resources", probe: ModuleType) -> None:
    """Tasks leave when the outermost transaction has committed, not when a savepoint within it is released."""
    async with resources.db.transaction() as session:
        async with session.begin_nested():
            enqueue(session, probe.note, "kept")
        assert await messages(resources) == 0
        with pytest.raises(RuntimeError):  # noqa: PT012  # the block is the savepoint
            async with session.begin_nested():
                enqueue(session, probe.note, "dropped")
                await session.flush()
                raise RuntimeError
        assert await messages(resources) == 0
    assert [row.args for row in await rows(resources)] == [["kept"]]
    assert await messages(resources) == 1


async def test_a_released_savepoint_goes_with_its_transaction(resources: "Resources", probe: ModuleType) -> None:
    """The negative: released, and rolled back all the same."""
    with pytest.raises(RuntimeError):  # noqa: PT012  # the block is the transaction
        async with resources.db.transaction() as session:
            async with session.begin_nested():
                enqueue(session, probe.note, "x")
            raise RuntimeError
    assert (await rows(resources), await messages(resources)) == ([], 0)


async def test_enqueueing_in_a_read_is_refused(resources: "Resources", probe: ModuleType) -> None:
    """It would never be kept, and nobody would notice."""
    async with resources.db.read() as session:
        with pytest.raises(AssertionError, match="outside of"):
            enqueue(session, probe.note, "x")


async def test_reads_have_no_transaction(resources: "Resources") -> None:
    """Each statement stands alone, so a read sees what has been committed meanwhile."""
    async with resources.db.read() as session:
        first = await session.scalar(text("SELECT now()"))
        assert await session.scalar(text("SELECT now()")) != first
    async with resources.db.transaction() as session:
        first = await session.scalar(text("SELECT now()"))
        assert await session.scalar(text("SELECT now()")) == first


async def test_a_whole_read_is_one_transaction(resources: "Resources") -> None:
    """Its settings hold from one statement to the next, end with it, and it commits nothing."""
    async with resources.db.read(whole=True) as session:
        first = await session.scalar(text("SELECT set_config('app.test', now()::text, true)"))
        assert await session.scalar(text("SELECT current_setting('app.test') = now()::text")), first
        await session.execute(text("CREATE TABLE never (id int)"))
    async with resources.db.read() as session:
        assert not await session.scalar(text("SELECT current_setting('app.test', true)"))
        assert await session.scalar(text("SELECT to_regclass('never') IS NULL"))


async def test_a_connection_is_given_back(resources: "Resources") -> None:
    """After every kind of ending; more blocks than the pool holds would otherwise wait for ever."""
    size = resources.settings.database.pool_size + resources.settings.database.pool_overflow
    for _ in range(size + 1):
        with pytest.raises(RuntimeError):  # noqa: PT012  # the block is the transaction
            async with resources.db.transaction() as session:
                await session.execute(text("SELECT 1"))
                raise RuntimeError
        with pytest.raises(DBAPIError):
            async with resources.db.read() as session:
                await session.execute(text("SELECT nonsense"))
    pool: Any = resources.db.engine.pool
    assert pool.checkedout() == 0


async def test_a_cancelled_block_leaves_no_transaction_behind(resources: "Resources") -> None:
    """As when a client goes away or a task's time is over: its locks go at once."""

    async def slow() -> None:
        async with resources.db.transaction() as session:
            await session.execute(text("SELECT pg_advisory_xact_lock(7), pg_sleep(30)"))

    running = asyncio.create_task(slow())
    async with resources.db.read() as session:
        while not await session.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7")):
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    async with asyncio.timeout(5), resources.db.transaction() as session:
        await session.execute(text("SELECT pg_advisory_xact_lock(7)"))


async def test_statements_have_a_deadline(settings_with: "SettingsWith") -> None:
    """A statement that takes too long is ended by the server, and the client is told to come again."""

    async def publish(*_: object) -> None: ...

    db = Database(settings_with(DATABASE_STATEMENT_SECONDS="0.2").database, publish)
    try:
        began = time.monotonic()
        with pytest.raises(DatabaseBusy):
            async with db.read() as session:
                await session.execute(text("SELECT pg_sleep(30)"))
        assert db.primary.circuit.state is State.CLOSED
        assert time.monotonic() - began < 5
    finally:
        await db.close()


async def test_a_value_that_cannot_be_stored_is_the_clients_fault(resources: "Resources", probe: ModuleType) -> None:
    """PostgreSQL's text has every character but NUL."""
    with pytest.raises(ValueNotStorable):
        async with resources.db.transaction() as session:
            await session.execute(text("SELECT :value"), {"value": "a\x00b"})


@pytest.mark.parametrize("how", ["dead", "silent"])
async def test_a_database_that_is_away_is_unavailable(
    settings_with: "SettingsWith", dead_port: int, silent_port: int, how: str
) -> None:
    """503 within the deadline, whether it refuses or says nothing."""

    async def publish(*_: object) -> None: ...

    port = dead_port if how == "dead" else silent_port
    db = Database(
        settings_with(DATABASE_URL=f"postgresql://app:x@127.0.0.1:{port}/app", DATABASE_CONNECT_SECONDS="0.5").database,
        publish,
    )
    try:
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            async with db.read() as session:
                await session.execute(text("SELECT 1"))
        assert time.monotonic() - began < 3
    finally:
        await db.close()


async def test_a_restart_of_the_database_costs_no_request(resources: "Resources", without: "Without") -> None:
    """Connections that the pool held are noticed to be dead before they are used."""
    async with resources.db.read() as session:
        await session.execute(text("SELECT 1"))
    await asyncio.to_thread(_stop_and_start, without)
    async with resources.db.read() as session:
        assert await session.scalar(text("SELECT 1")) == 1


def _stop_and_start(without: "Without") -> None:
    with without("postgres"):
        pass


async def test_a_broker_that_is_away_costs_no_request(
    resources: "Resources", probe: ModuleType, without: "Without", eventually: Callable[..., Any]
) -> None:
    """The commit stands, the block ends without an error, the row waits; once the broker is back the sweep sends it."""
    from app.core.tasks import sweep

    broker = without("broker")
    await asyncio.to_thread(broker.__enter__)
    try:
        began = time.monotonic()
        async with resources.db.transaction() as session:
            enqueue(session, probe.note, "x")
        assert time.monotonic() - began < 5
        assert [row.state for row in await rows(resources)] == [TaskState.PENDING]
    finally:
        await asyncio.to_thread(broker.__exit__, None, None, None)
    await eventually(lambda: sweep(resources))
    assert [row.state for row in await rows(resources)] == [TaskState.SENT]
    assert await messages(resources) == 1


async def test_a_silent_broker_holds_up_nobody_else(resources: "Resources", probe: ModuleType, hung: "Without") -> None:
    """The loop goes on, threads are free for others, and each request ends after the deadline at the latest."""
    with hung("broker"):

        async def request() -> float:
            began = time.monotonic()
            async with resources.db.transaction() as session:
                enqueue(session, probe.note, "x")
            return time.monotonic() - began

        requests = [asyncio.create_task(request()) for _ in range(12)]
        worst = 0.0
        while not all(task.done() for task in requests):
            began = time.monotonic()
            await asyncio.to_thread(time.sleep, 0)
            await asyncio.sleep(0.01)
            worst = max(worst, time.monotonic() - began)
        assert worst < 1
        assert max(task.result() for task in requests) < 6
    assert len(await rows(resources)) == 12
    # What was on its way may still arrive: not in the next test.
    threads = resources.publisher._threads
    all_free = threading.Barrier(SENDERS)
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(threads, all_free.wait, 30) for _ in range(SENDERS)))


async def test_ids_are_the_database_s_too(resources: "Resources", probe: ModuleType) -> None:
    """The id that `enqueue` returns is the row's and the message's."""
    async with resources.db.transaction() as session:
        identity = enqueue(session, probe.note, "x")
    assert isinstance(identity, UUID)
    (message,) = await resources.broker.redis.lrange("low", 0, -1)
    assert str(identity).encode() in message


async def publish_nothing(*_: object) -> None:
    """For databases that ask for no tasks."""


@pytest.fixture
async def own_db(settings_with: "SettingsWith", migrated: object) -> AsyncIterator[Callable[..., Database]]:
    """Makes databases with pools and circuits of their own: `own_db(DATABASE_POOL_SIZE="1")`."""
    made: list[Database] = []

    def make(**changed: str) -> Database:
        made.append(Database(settings_with(**changed).database, publish_nothing))
        return made[-1]

    yield make
    for db in made:
        await db.close()


async def test_a_deadline_of_the_caller_is_not_the_databases(resources: "Resources") -> None:
    """What the caller's own code waits for in vain, inside a transaction, is no reason to call the database away."""
    with pytest.raises(TimeoutError):  # noqa: PT012  # the block is the transaction
        async with resources.db.transaction() as session:
            await session.execute(text("SELECT 1"))
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), resources.db.read() as session:
            await session.execute(text("SELECT pg_sleep(30)"))
    with pytest.raises(OSError, match="of ours"):
        async with resources.db.read():
            raise OSError("of ours")
    assert resources.db.primary.circuit.state is State.CLOSED
    async with resources.db.read() as session:
        assert await session.scalar(text("SELECT 1")) == 1


async def test_a_pool_at_work_is_no_database_away(own_db: Callable[..., Database]) -> None:
    """Who finds no free connection is told to come again; health looks past the pool, and no circuit opens."""
    db = own_db(DATABASE_POOL_SIZE="1", DATABASE_POOL_OVERFLOW="0", DATABASE_CONNECT_SECONDS="0.2")
    async with db.read() as session:
        await session.execute(text("SELECT 1"))
        for _ in range(FAILURES + 1):
            with pytest.raises(DatabaseBusy):
                async with db.transaction() as other:
                    await other.execute(text("SELECT 1"))
        await db.check()
        assert db.primary.circuit.state is State.CLOSED


async def test_a_silent_database_is_given_up_and_taken_back(
    own_db: Callable[..., Database], hung: "Without", eventually: Callable[..., Any]
) -> None:
    """Connections that were open hang until the deadline of the statement; then nobody waits any more, and soon it is used again."""
    db = own_db(DATABASE_STATEMENT_SECONDS="0.2", DATABASE_CONNECT_SECONDS="0.5")

    async def read() -> None:
        async with db.read() as session:
            await session.execute(text("SELECT 1"))

    await asyncio.gather(*(read() for _ in range(FAILURES)))
    with hung("postgres"):
        began = time.monotonic()
        results = await asyncio.gather(*(read() for _ in range(FAILURES)), return_exceptions=True)
        assert {type(result) for result in results} == {DatabaseUnavailable}
        assert time.monotonic() - began < 3
        assert db.primary.circuit.state is State.OPEN
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            await read()
        with pytest.raises(DatabaseUnavailable):
            async with db.transaction():
                pass
        assert time.monotonic() - began < 0.1

    async def works() -> bool:
        try:
            await read()
        except DatabaseUnavailable:
            return False
        return True

    began = time.monotonic()
    await eventually(works, 10)
    assert await works()


async def test_a_standby_takes_no_changes(own_db: Callable[..., Database]) -> None:
    """As after a failover, when the address leads to what has become the standby: the pool starts anew."""
    db = own_db()
    async with db.transaction() as session:
        first = await session.scalar(text("SELECT pg_backend_pid()"))
    with pytest.raises(ReadOnly):  # noqa: PT012  # the block is the transaction
        async with db.transaction() as session:
            await session.execute(text("SET TRANSACTION READ ONLY"))
            await session.execute(text("CREATE TABLE never (id int)"))
    async with db.transaction() as session:
        assert await session.scalar(text("SELECT pg_backend_pid()")) != first


async def test_behind_a_pooler_nothing_belongs_to_a_session(own_db: Callable[..., Database]) -> None:
    """No startup parameter that PgBouncer would refuse, and no prepared statement that another session lacks."""
    db = own_db(DATABASE_POOLER="true", DATABASE_STATEMENT_SECONDS="7")
    async with db.transaction() as session:
        for number in range(3):
            assert await session.scalar(text("SELECT CAST(:x AS int)"), {"x": number}) == number
        assert await session.scalar(text("SELECT count(*) FROM pg_prepared_statements")) <= 1, "none but this one"
        assert await session.scalar(text("SHOW statement_timeout")) == "0"
    async with own_db(DATABASE_STATEMENT_SECONDS="7").read() as session:
        assert await session.scalar(text("SHOW statement_timeout")) == "7s"
