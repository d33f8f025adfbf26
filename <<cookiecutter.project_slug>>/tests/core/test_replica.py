"""A real streaming replica: what reads from it, and what is left when the primary is away."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import text

from app.core.circuit import State
from app.core.db import Database, DatabaseUnavailable, ReadOnly
from devstack import Stack

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.core.settings import Settings
    from tests.core.conftest import OpenApp, SettingsWith

Until = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A primary and its replica, apart from the stack of the other tests."""
    with Stack(tmp_path_factory.mktemp("pair"), ("postgres", "replica")) as stack:
        stack.run("-m", "app.cli", "migrate")
        stack.sql("CREATE TABLE things (id int); GRANT ALL ON things TO app; INSERT INTO things VALUES (1)", "app")
        yield stack


@pytest.fixture
async def db(pair: Stack, settings_with: "SettingsWith") -> AsyncIterator[Database]:
    """A database with both; its parts run again afterwards."""

    async def publish(*_: object) -> None: ...

    names = ("DATABASE_URL", "DATABASE_REPLICA_URL")
    settings = settings_with(**{name: pair.env[name] for name in names}, DATABASE_CONNECT_SECONDS="1")
    db = Database(settings.database, publish)
    yield db
    await db.close()
    for process in pair.processes.values():
        if not process.alive:
            await asyncio.to_thread(process.start)


async def asked(db: Database, *, may_lag: bool = False) -> str:
    """Who answers a read."""
    async with db.read(may_lag=may_lag) as session:
        assert await session.scalar(text("SELECT count(*) FROM things"))
        return "replica" if await session.scalar(text("SELECT pg_is_in_recovery()")) else "primary"


async def write(db: Database) -> None:
    """A change."""
    async with db.transaction() as session:
        await session.execute(text("INSERT INTO things VALUES (2)"))


async def test_who_reads_where(db: Database) -> None:
    """What one has just written is there, as the primary is read; what may lag comes from the replica."""
    await write(db)
    assert await asked(db) == "primary"
    assert await asked(db, may_lag=True) == "replica"


async def test_a_replica_that_is_behind_is_not_read(pair: Stack, db: Database, eventually: Until) -> None:
    """It has the changes and does not apply them: the primary is read, and health says why."""
    assert db.replica
    pair.sql("SELECT pg_wal_replay_pause()", server="replica")
    try:
        await write(db)
        db.replica._lag = 0.0

        async def behind() -> bool:
            try:
                await db.replica.check()  # type: ignore[union-attr]
            except DatabaseUnavailable as error:
                return "behind" in str(error)
            return False

        await eventually(behind)
        assert await asked(db, may_lag=True) == "primary"
    finally:
        pair.sql("SELECT pg_wal_replay_resume()", server="replica")


async def test_without_the_primary_reads_go_on(pair: Stack, db: Database, eventually: Until) -> None:
    """At once, from the replica; changes are refused at once; and once it is back everything is as before."""
    await write(db)
    assert await asked(db) == "primary"
    primary = pair.processes["postgres"]
    await asyncio.to_thread(primary.kill)
    began = time.monotonic()
    for _ in range(5):
        assert await asked(db) == "replica"
        with pytest.raises(ReadOnly):
            await write(db)
    assert time.monotonic() - began < 2
    assert db.primary.circuit.state is State.OPEN
    await asyncio.to_thread(primary.start)

    async def back() -> bool:
        return await asked(db) == "primary"

    await eventually(back, 10)
    await write(db)


async def test_without_the_replica_the_primary_serves(pair: Stack, db: Database, eventually: Until) -> None:
    """Nobody notices; without both it is said at once."""
    assert await asked(db, may_lag=True) == "replica"
    assert db.replica
    await asyncio.to_thread(pair.processes["replica"].kill)
    db.replica._measured_at -= 60  # as if it had been measured a minute ago
    assert [await asked(db, may_lag=True) for _ in range(3)] == ["primary"] * 3
    await write(db)
    await asyncio.to_thread(pair.processes["postgres"].kill)
    with pytest.raises(DatabaseUnavailable):
        await asked(db)
    with pytest.raises(DatabaseUnavailable):
        await write(db)


async def test_it_stays_in_service_as_long_as_it_can_be_read(
    pair: Stack,
    db: Database,
    make_app: "Callable[[Settings], FastAPI]",
    visit: "OpenApp",
    settings_with: "SettingsWith",
    probe: ModuleType,
) -> None:
    """Readiness: degraded and 200 without the primary, 503 only when the replica is away as well."""
    names = ("DATABASE_URL", "DATABASE_REPLICA_URL")
    settings = settings_with(**{name: pair.env[name] for name in names})

    async def ready(client: httpx.AsyncClient) -> tuple[int, str]:
        answer = await client.get("/health/ready")
        return answer.status_code, answer.json()["status"]

    async with visit(make_app(settings)) as client:
        assert await ready(client) == (200, "healthy")
        await asyncio.to_thread(pair.processes["replica"].kill)
        assert await ready(client) == (200, "degraded")
        await asyncio.to_thread(pair.processes["replica"].start)
        await asyncio.to_thread(pair.processes["postgres"].kill)
        assert await ready(client) == (200, "degraded")
        await asyncio.to_thread(pair.processes["replica"].kill)
        assert await ready(client) == (503, "unhealthy")
