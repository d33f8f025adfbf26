"""Fixtures of the core's tests: neighbours that are away or silent, settings at will, and a feature of their own.

The feature `probe` (below `extra/`) is never part of the service. Its routes and tasks let these tests hold for the
core alone, whatever features there are.
"""

import asyncio
import contextlib
import inspect
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import httpx
import pytest

from devstack import Stack

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.core.resources import Resources
    from app.core.settings import Settings

EXTRA = Path(__file__).resolve().parent / "extra"

SettingsWith = Callable[..., "Settings"]
OpenApp = Callable[["FastAPI"], AbstractAsyncContextManager[httpx.AsyncClient]]
Without = Callable[[str], AbstractContextManager[None]]


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Awaitable[Any]]:
    """Waits until a condition holds, at most `seconds`; returns what it gave."""

    async def wait(condition: Callable[[], Any], seconds: float = 30) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            assert time.monotonic() < deadline, f"still not so after {seconds} s: {inspect.getsource(condition)}"
            await asyncio.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """The same for tests that are no coroutines."""

    def wait(condition: Callable[[], Any], seconds: float = 30) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"still not so after {seconds} s: {inspect.getsource(condition)}"
            time.sleep(0.02)
        return value

    return wait


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that refuses connections, and is nobody else's for as long."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@pytest.fixture
def without(stack: Stack) -> Without:
    """Stops a neighbour for the length of a block."""

    @contextlib.contextmanager
    def stopped(name: str) -> Iterator[None]:
        stack.processes[name].stop()
        try:
            yield
        finally:
            stack.processes[name].start()

    return stopped


@pytest.fixture
def hung(stack: Stack) -> Without:
    """Holds a neighbour still for the length of a block: its connections stay open and nothing comes back."""

    @contextlib.contextmanager
    def paused(name: str) -> Iterator[None]:
        stack.processes[name].pause()
        try:
            yield
        finally:
            stack.processes[name].resume()

    return paused


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without any setting and without an env file; a test adds its own."""
    from app.core.settings import documented
    from app.features import settings_of_features

    for _, _, fields in documented(settings_of_features()):
        for variable, _ in fields:
            monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("ENV_FILE", "")
    return monkeypatch


@pytest.fixture
def settings_with(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> SettingsWith:
    """The stack's settings with some variables changed: `settings_with(HTTP_DOCS="false")`."""

    def load(**changed: object) -> "Settings":
        from app.core.settings import load_settings
        from app.features import settings_of_features

        with monkeypatch.context() as patch:
            for variable, value in changed.items():
                patch.setenv(variable, str(value))
            return load_settings(settings_of_features())

    return load


@pytest.fixture
def project_copy(tmp_path: Path) -> Path:
    """A copy of the project's code that a test may write to, with its bytecode."""
    copy = tmp_path / "project"
    for folder in ("app", "migrations"):
        shutil.copytree(EXTRA.parents[2] / folder, copy / folder)
    for file in ("pyproject.toml", "alembic.ini", ".env.example"):
        shutil.copy(EXTRA.parents[2] / file, copy / file)
    return copy


@pytest.fixture(scope="session")
def probe() -> Iterator[ModuleType]:
    """The tasks of the feature that only these tests have."""
    import app.features

    app.features.__path__.append(str(EXTRA / "features"))
    from importlib import import_module

    yield import_module("app.features.probe.tasks")
    app.features.__path__.remove(str(EXTRA / "features"))


@pytest.fixture
def make_app(probe: ModuleType, monkeypatch: pytest.MonkeyPatch) -> "Iterator[Callable[[Settings], FastAPI]]":
    """Makes an API that has the probe's routes; logging is as before afterwards."""
    import app.features
    from app.main import create_app

    root = logging.getLogger()
    before = root.handlers[:], root.level

    def make(settings: "Settings") -> "FastAPI":
        with monkeypatch.context() as patch:
            patch.setattr(app.features, "FEATURES", (*app.features.FEATURES, "probe"))
            return create_app(settings)

    yield make
    root.handlers[:] = before[0]
    root.setLevel(before[1])


@pytest.fixture
def visit() -> OpenApp:
    """Runs an app's lifespan and gives a client of it."""

    @contextlib.asynccontextmanager
    async def opened(app: "FastAPI") -> AsyncIterator[httpx.AsyncClient]:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://localhost"
            ) as client,
        ):
            yield client

    return opened


@pytest.fixture
async def web(
    make_app: "Callable[[Settings], FastAPI]", settings: "Settings", resources: "Resources"
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API that has the probe's routes, on the open resources."""
    app = make_app(settings)
    app.state.resources = resources
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@dataclass
class Service:
    """A process of the service, in a process group of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """SIGKILL to all of it, as a crash of the machine would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class RunService(Protocol):
    """Starts `app.cli` with the probe feature and these arguments; keywords are further environment variables."""

    def __call__(self, *arguments: str, **environment: str) -> Service:
        """Start it; it ends with the test at the latest."""


@pytest.fixture(scope="session")
def services(migrated: Stack) -> Callable[[Path], AbstractContextManager[RunService]]:
    """Runs processes of the service, which have the probe feature, for the length of a block; their logs go to a folder."""

    @contextlib.contextmanager
    def running(folder: Path) -> Iterator[RunService]:
        started: list[Service] = []

        def run(*arguments: str, **environment: str) -> Service:
            log = folder / f"{len(started)}-{arguments[0]}.log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, str(EXTRA / "cli.py"), *arguments],
                    cwd=EXTRA.parents[2],
                    env={**migrated.env, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            started.append(Service(process, log))
            return started[-1]

        try:
            yield run
        finally:
            for service in started:
                service.process.terminate()
            for service in started:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    service.process.wait(10)
                service.kill()

    return running


@pytest.fixture
def run_service(services: Callable[[Path], AbstractContextManager[RunService]], tmp_path: Path) -> Iterator[RunService]:
    """Runs processes of the service until the test is over."""
    with services(tmp_path) as run:
        yield run


@pytest.fixture
def environment_without_settings(bare: pytest.MonkeyPatch) -> dict[str, str]:
    """What a process sees in which nobody has set anything."""
    return dict(os.environ)
