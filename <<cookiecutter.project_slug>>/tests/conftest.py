"""What tests stand on: real neighbours, one set for each test process, migrated as in production.

Nothing here imports the service until a fixture needs it, because tests/system must see it from outside alone.
"""

import os
import runpy
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest

from devstack import Stack

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.core.resources import Resources
    from app.core.security import Principal
    from app.core.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
# So short that no test waits long for what production does every few seconds.
HURRY = {
    "LIMITS_SENSITIVE": "1000",  # all tests come from one address
    "TASKS_CONCURRENCY": "2",
    "TASKS_SWEEP_SECONDS": "0.5",
    "TASKS_SEND_GRACE_SECONDS": "0.5",
    "TASKS_LEASE_SECONDS": "3",
    "TASKS_RETRY_SECONDS": "0.2",
    "TASKS_AWAY_SECONDS": "0.5",
    "METRICS_WORKER_PORT": "0",
    "LOG_LEVEL": "INFO",
}
# And what each feature adds to it in its own tests.
for path in sorted((ROOT / "tests/features").glob("*/hurry.py")):
    HURRY |= runpy.run_path(str(path))["HURRY"]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """PostgreSQL, both Redis servers and the S3 server, on free ports, for this test process alone."""
    with Stack(data=tmp_path_factory.mktemp("stack"), env=HURRY) as stack:
        yield stack


@pytest.fixture(scope="session")
def environment(stack: Stack) -> Iterator[dict[str, str]]:
    """The environment of the service's processes, and of this one."""
    before = dict(os.environ)
    os.environ.update(stack.env)
    yield stack.env
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def migrated(stack: Stack, environment: dict[str, str]) -> Stack:
    """The stack with the database at the newest migrations and the bucket made, by the commands of production."""
    stack.run("-m", "app.cli", "migrate")
    stack.run("-m", "app.cli", "init-storage")
    return stack


@pytest.fixture(scope="session")
def settings(environment: dict[str, str]) -> "Settings":
    """The settings that belong to the stack."""
    from app.core.settings import load_settings
    from app.features import settings_of_features

    return load_settings(settings_of_features())


@pytest.fixture(scope="session")
async def opened(migrated: Stack, settings: "Settings") -> "AsyncIterator[Resources]":
    """The resources, opened once."""
    from app.core.resources import open_resources

    async with open_resources(settings) as resources:
        yield resources


@pytest.fixture
async def resources(opened: "Resources") -> "AsyncIterator[Resources]":
    """The resources, with empty tables and an empty Redis afterwards. What nobody may rewrite stays: ask by actor."""
    from sqlalchemy import text

    from app.core.db import Base

    yield opened
    emptied = [table.name for table in Base.metadata.sorted_tables if not table.info.get("append_only")]
    # Only those that the test has written to: emptying them all costs more than most tests do.
    written = text(
        "SELECT string_agg(quote_ident(name), ', ') FROM unnest(cast(:names AS text[])) AS name"
        " WHERE pg_relation_size(quote_ident(name)::regclass) > 0"
    )
    async with opened.db.transaction() as session:
        if tables := await session.scalar(written, {"names": emptied}):
            await session.execute(text(f"TRUNCATE {tables} CASCADE"))
    opened.limiter.forget()
    await opened.cache.redis.flushall()
    await opened.broker.redis.flushall()


@pytest.fixture(scope="session")
def application(settings: "Settings", opened: "Resources") -> "FastAPI":
    """The API on the opened resources, made once: importing and building it takes a second."""
    from app.main import create_app

    app = create_app(settings)
    app.state.resources = opened
    return app


@pytest.fixture
async def client(application: "FastAPI", resources: "Resources") -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API within this process. The address is as behind nginx."""
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


@pytest.fixture
def principal() -> "Principal":
    """A person that nobody else is."""
    from app.core.security import Principal

    return Principal(uuid4(), frozenset())


@pytest.fixture
def headers_for(settings: "Settings") -> "Callable[[Principal], dict[str, str]]":
    """Makes the header that signs a person in; features know a person by the token alone."""
    from app.core.security import issue_token

    def headers(principal: "Principal") -> dict[str, str]:
        token, _ = issue_token(settings.auth, principal)
        return {"Authorization": f"Bearer {token}"}

    return headers


@pytest.fixture
def auth_headers(principal: "Principal", headers_for: "Callable[[Principal], dict[str, str]]") -> dict[str, str]:
    """The header that signs `principal` in."""
    return headers_for(principal)


@pytest.fixture
def run_tasks(resources: "Resources") -> Callable[[], Awaitable[list[str]]]:
    """Runs every task in the outbox here and now, by the code that a worker runs; returns the outcomes in order."""
    from sqlalchemy import select, update

    from app.core.outbox import OutboxTask, State
    from app.core.tasks import execute
    from app.worker import tasks

    known = {task.name: task for task in tasks()}

    async def run() -> list[str]:
        outcomes: list[str] = []
        seen: set[object] = set()
        async with resources.db.transaction() as session:  # the wait for a further attempt is over
            await session.execute(
                update(OutboxTask).where(OutboxTask.state == State.WAITING).values(state=State.PENDING)
            )
        while True:
            async with resources.db.read() as session:
                rows = await session.scalars(
                    select(OutboxTask).where(OutboxTask.state != State.DEAD).order_by(OutboxTask.id)
                )
                todo = [row for row in rows if row.id not in seen]
            if not todo:
                return outcomes
            for row in todo:
                seen.add(row.id)
                outcomes.append(await execute(resources, known[row.name], row.id, row.args))

    return run


@pytest.fixture
def worker(resources: "Resources", stack: Stack, tmp_path: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """A real Celery worker with its processes, ready for tasks, in a process group of its own."""
    yield from start(stack, tmp_path / "worker.log", "worker", ready=b"ready.")


@pytest.fixture
def beat(stack: Stack, resources: "Resources", tmp_path: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """A real Celery beat."""
    yield from start(stack, tmp_path / "beat.log", "beat", "--schedule", str(tmp_path / "schedule"), ready=b"Starting")


def start(stack: Stack, log: Path, *command: str, ready: bytes) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a process of the service until the test is over.

    Args:
        stack: whose environment it gets.
        log: file for what it writes.
        command: arguments of `python -m app.cli`.
        ready: what it writes when it is ready.
    """
    import signal
    import time

    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", *command],
            cwd=ROOT,
            env=stack.env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 60
            while ready not in log.read_bytes():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
