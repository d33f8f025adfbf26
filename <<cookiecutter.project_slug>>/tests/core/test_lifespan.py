"""What a process opens it closes."""

import asyncio
import threading
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from app.core.tasks import enqueue

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.core.resources import Resources
    from app.core.settings import Settings
    from tests.core.conftest import OpenApp, SettingsWith


async def test_the_lifespan_leaves_nothing(
    make_app: "Callable[[Settings], FastAPI]",
    visit: "OpenApp",
    settings_with: "SettingsWith",
    resources: "Resources",
    probe: ModuleType,
    eventually: Callable[..., Any],
) -> None:
    """After a start, some work with every neighbour and a stop: no connection, no task, no thread more than before."""
    app = make_app(settings_with(LOG_LEVEL="INFO"))

    async def connections() -> tuple[int, int, int]:
        async with resources.db.read() as session:
            database = await session.scalar(
                text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'app'")
            )
        cache = await resources.cache.redis.client_list()
        broker = await resources.broker.redis.client_list()
        return database or 0, len(cache), len(broker)

    before = await connections()
    tasks = asyncio.all_tasks()
    async with visit(app) as client:
        own: Resources = app.state.resources
        await own.storage.check()
        await own.cache.check()
        await own.broker.check()
        async with own.db.transaction() as session:
            enqueue(session, probe.note, "x")
        assert (await client.get("/health/ready")).status_code == 200
        assert sum(await connections()) > sum(before)
    assert asyncio.all_tasks() == tasks

    async def as_before() -> bool:
        # Fewer, if something of an earlier test has ended meanwhile.
        return all(now <= then for now, then in zip(await connections(), before, strict=True))

    await eventually(as_before, 10)
    for prefix in ("storage", "publisher"):
        mine = [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]
        others = {thread for part in (resources.storage, resources.publisher) for thread in _threads(part)}
        assert set(mine) <= others


def _threads(part: Any) -> set[threading.Thread]:
    return set(part._threads._threads)


async def test_nothing_connects_before_it_is_needed(
    make_app: "Callable[[Settings], FastAPI]", visit: "OpenApp", settings_with: "SettingsWith", dead_port: int
) -> None:
    """A process starts while every neighbour is away, and says so when it is asked."""
    address = f"127.0.0.1:{dead_port}"
    settings = settings_with(
        DATABASE_URL=f"postgresql://app:x@{address}/app",
        CACHE_URL=f"redis://:x@{address}/0",
        BROKER_URL=f"redis://:x@{address}/0",
        STORAGE_ENDPOINT_URL=f"http://{address}",
    )
    async with visit(make_app(settings)) as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/health/ready")).status_code == 503


async def test_the_start_is_logged_without_secrets(
    make_app: "Callable[[Settings], FastAPI]", visit: "OpenApp", settings: "Settings", capsys: Any
) -> None:
    """Every setting as it is in force, and of secrets only stars."""
    async with visit(make_app(settings)):
        written = capsys.readouterr().out
    assert '"event":"started"' in written
    assert '"http_max_body_bytes"' in written
    for secret in (
        settings.auth.secret_key,
        settings.database.password,
        settings.health.token,
        settings.storage.secret_key,
    ):
        assert secret.get_secret_value() not in written
