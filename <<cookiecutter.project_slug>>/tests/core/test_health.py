"""Health: what it says is so, in time, and to whom it may say it."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import text

from app.core import health
from app.core.health import DEADLINE_SECONDS, WORKER_SILENCE_SECONDS
from app.core.worker_heartbeat import PREFIX, write_heartbeat

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.core.resources import Resources
    from app.core.settings import Settings
    from tests.core.conftest import OpenApp, SettingsWith, Without

PARTS = {"database", "cache", "broker", "storage", "worker", "migrations", "messages"}


@pytest.fixture
def token(settings: "Settings") -> dict[str, str]:
    """The header that shows the details."""
    return {"Authorization": f"Bearer {settings.health.token.get_secret_value()}"}


@pytest.fixture
async def heard(resources: "Resources") -> None:
    """A worker has been heard of just now."""
    await hear(resources, 0)


async def hear(resources: "Resources", seconds_ago: float) -> None:
    """Let a worker have been heard of."""
    await resources.broker.redis.set(f"{PREFIX}celery@test", repr(time.time() - seconds_ago))


async def unhealthy(web: httpx.AsyncClient, token: dict[str, str]) -> tuple[int, str, set[str]]:
    """Status, the word for the whole, and the parts that fail; every answer comes within the deadline."""
    began = time.monotonic()
    response = await web.get("/health/detailed", headers=token)
    assert time.monotonic() - began < DEADLINE_SECONDS + 8  # with the time that a busy machine takes for the rest
    body = response.json()
    assert set(body["parts"]) == PARTS
    failed = {name for name, part in body["parts"].items() if part["status"] != "healthy"}
    assert all(body["parts"][name]["error"] for name in failed)
    return response.status_code, body["status"], failed


async def test_all_is_well(web: httpx.AsyncClient, token: dict[str, str], heard: None) -> None:
    """Every part is healthy, and the whole."""
    assert await unhealthy(web, token) == (200, "healthy", set())
    ready = await web.get("/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "healthy"})


@pytest.mark.parametrize("name", ["cache", "broker", "storage"])
async def test_a_part_that_is_gone_degrades(
    web: httpx.AsyncClient, resources: "Resources", token: dict[str, str], heard: None, without: "Without", name: str
) -> None:
    """Something can still be served: 200 and degraded; and healthy again when the part is back."""
    neighbour = without(name)
    await asyncio.to_thread(neighbour.__enter__)
    try:
        gone = {name, "worker"} if name == "broker" else {name}
        assert await unhealthy(web, token) == (200, "degraded", gone)
        assert (await web.get("/health/ready")).status_code == 200
    finally:
        await asyncio.to_thread(neighbour.__exit__, None, None, None)
    await hear(resources, 0)
    assert await unhealthy(web, token) == (200, "healthy", set())


async def test_nothing_works_without_the_database(
    web: httpx.AsyncClient, token: dict[str, str], heard: None, without: "Without"
) -> None:
    """503 from both, so that no request is sent here; the process itself is alive and must not be restarted."""
    neighbour = without("postgres")
    await asyncio.to_thread(neighbour.__enter__)
    try:
        assert await unhealthy(web, token) == (503, "unhealthy", {"database", "migrations"})
        assert (await web.get("/health/ready")).status_code == 503
        assert (await web.get("/health")).json()["status"] == "healthy"
    finally:
        await asyncio.to_thread(neighbour.__exit__, None, None, None)
    assert await unhealthy(web, token) == (200, "healthy", set())


async def test_parts_that_never_answer(
    make_app: "Callable[[Settings], FastAPI]",
    visit: "OpenApp",
    settings_with: "SettingsWith",
    silent_port: int,
    token: dict[str, str],
) -> None:
    """All four accept and say nothing: the answer comes at the deadline, and meanwhile the loop serves others.

    And the process can end: nothing waits for the silent ones.
    """
    address = f"127.0.0.1:{silent_port}"
    settings = settings_with(
        DATABASE_URL=f"postgresql://app:x@{address}/app",
        CACHE_URL=f"redis://:x@{address}/0",
        BROKER_URL=f"redis://:x@{address}/0",
        STORAGE_ENDPOINT_URL=f"http://{address}",
        STORAGE_TIMEOUT_SECONDS="1",
    )
    async with visit(make_app(settings)) as client:
        detailed = asyncio.create_task(unhealthy(client, token))
        worst = 0.0
        while not detailed.done():
            began = time.monotonic()
            assert (await client.get("/health")).status_code == 200
            worst = max(worst, time.monotonic() - began)
            await asyncio.sleep(0.02)
        assert await detailed == (503, "unhealthy", PARTS - {"messages"}), "of which nothing is known then"
        assert worst < 1
        began = time.monotonic()
    assert time.monotonic() - began < 3


async def test_a_worker_that_is_silent(web: httpx.AsyncClient, resources: "Resources", token: dict[str, str]) -> None:
    """Never heard of, or not for long: degraded. The newest of several counts."""
    assert await unhealthy(web, token) == (200, "degraded", {"worker"})
    await hear(resources, WORKER_SILENCE_SECONDS + 5)
    assert await unhealthy(web, token) == (200, "degraded", {"worker"})
    await resources.broker.redis.set(f"{PREFIX}celery@other", repr(time.time()))
    assert await unhealthy(web, token) == (200, "healthy", set())


def test_a_heartbeat_does_not_outlive_its_worker_for_long(settings: "Settings", resources: "Resources") -> None:
    """A worker that is gone for good disappears from health and metrics by itself."""
    from redis import Redis

    with Redis.from_url(settings.broker.address()) as redis:
        write_heartbeat(redis, "celery@test")
        life = redis.ttl(f"{PREFIX}celery@test")
    assert isinstance(life, int)
    assert WORKER_SILENCE_SECONDS < life <= 300


async def test_migrations_that_are_missing(
    web: httpx.AsyncClient, resources: "Resources", token: dict[str, str], heard: None
) -> None:
    """A database behind the code is not ready, and the details say what to do."""
    async with resources.db.transaction() as session:
        kept = (await session.scalars(text("DELETE FROM alembic_version RETURNING version_num"))).all()
    try:
        assert await unhealthy(web, token) == (503, "unhealthy", {"migrations"})
        assert (await web.get("/health/ready")).status_code == 503
        body = (await web.get("/health/detailed", headers=token)).json()
        assert "run the migrations" in body["parts"]["migrations"]["error"]
    finally:
        async with resources.db.transaction() as session:
            await session.execute(
                text("INSERT INTO alembic_version VALUES (:version)"), [{"version": version} for version in kept]
            )


async def test_migrations_of_a_newer_version(
    web: httpx.AsyncClient, resources: "Resources", token: dict[str, str], heard: None
) -> None:
    """While a newer version is deployed, and after it is rolled back, this one serves on its database and says so."""
    async with resources.db.transaction() as session:
        kept = await session.scalar(text("SELECT min(version_num) FROM alembic_version"))
        await session.execute(
            text("UPDATE alembic_version SET version_num = 'newer_0001' WHERE version_num = :kept"), {"kept": kept}
        )
    try:
        assert await unhealthy(web, token) == (200, "healthy", set())
        assert (await web.get("/health/ready")).status_code == 200
    finally:
        async with resources.db.transaction() as session:
            await session.execute(
                text("UPDATE alembic_version SET version_num = :kept WHERE version_num = 'newer_0001'"), {"kept": kept}
            )


@pytest.mark.parametrize(
    "given", [None, "Bearer wrong", "Bearer ", "Bearer", "Basic eDp4", "Bearer ünïcode", "wrong", "Bearer x y"]
)
async def test_details_are_hidden(web: httpx.AsyncClient, given: str | None) -> None:
    """Without the token nobody learns of any part."""
    headers = [(b"Authorization", given.encode())] if given is not None else []
    hidden = await web.get("/health/detailed", headers=headers)
    assert hidden.status_code == 401
    assert "parts" not in hidden.json()


async def test_without_a_token_nobody_sees_details(
    make_app: "Callable[[Settings], FastAPI]", settings_with: "SettingsWith", resources: "Resources"
) -> None:
    """An empty setting is no password that an empty header could match."""
    app = make_app(settings_with(HEALTH_TOKEN=""))
    app.state.resources = _with_settings(resources, settings_with(HEALTH_TOKEN=""))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        for given in ("Bearer ", "Bearer"):
            assert (await client.get("/health/detailed", headers={"Authorization": given})).status_code == 404


def _with_settings(resources: "Resources", settings: "Settings") -> Any:
    from dataclasses import replace

    return replace(resources, settings=settings)


def test_what_is_essential_exists() -> None:
    """A misspelt name would make readiness say yes to everything."""
    assert health.ESSENTIAL < PARTS
