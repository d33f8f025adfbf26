"""The service from outside: the whole stack, reached only through nginx. Nothing here imports the application.

SYSTEM_TEST_URL tests a service that runs already (staging, say); with SYSTEM_TEST_HEALTH_TOKEN its health as well. Tests
that stop or kill parts are left out there.
"""

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from devstack import USUAL_SERVICES, Stack
from tests.system.helpers import ORIGIN, Person

# What production does within a minute happens here at once, so that nobody waits for it.
HURRY = {
    "TASKS_CONCURRENCY": "2",
    "TASKS_SWEEP_SECONDS": "0.5",
    "TASKS_SEND_GRACE_SECONDS": "1",
    "TASKS_LEASE_SECONDS": "3",
    "TASKS_REDELIVER_SECONDS": "5",
    "TASKS_RETRY_SECONDS": "0.2",
    "TASKS_AWAY_SECONDS": "0.5",
    "HTTP_CORS_ORIGINS": ORIGIN,
    "LOG_LEVEL": "INFO",
}
SECONDS = 30


@dataclass(frozen=True)
class Service:
    """The service under test.

    Attributes:
        stack: its parts, where it is ours to break.
    """

    url: str
    health_token: str
    stack: Stack | None


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Started once for all tests, on free ports and with data of its own; or the one that SYSTEM_TEST_URL names."""
    if url := os.environ.get("SYSTEM_TEST_URL"):
        yield Service(url.rstrip("/"), os.environ.get("SYSTEM_TEST_HEALTH_TOKEN", ""), None)
        return
    with Stack(tmp_path_factory.mktemp("system"), USUAL_SERVICES, HURRY) as stack:
        yield Service(stack.url, stack.env["HEALTH_TOKEN"], stack)


@pytest.fixture
def stack(service: Service) -> Iterator[Stack]:
    """The parts, to be stopped and killed; all of them run again after the test."""
    if service.stack is None:
        pytest.skip("a service that runs already is not ours to break")
    yield service.stack
    for process in service.stack.processes.values():
        if not process.alive:
            process.start()


@pytest.fixture(scope="session")
def addresses() -> Iterator[str | None]:
    """Source addresses, each used once: limits count by address, and one test must not use up another's."""
    # Only Linux answers on the whole of 127.0.0.0/8 without being told to.
    if not sys.platform.startswith("linux") or os.environ.get("SYSTEM_TEST_URL"):
        return itertools.repeat(None)
    return (f"127.0.{third}.{fourth}" for third in range(1, 255) for fourth in range(1, 255))


NewClient = Callable[[], httpx.Client]


@pytest.fixture
def new_client(service: Service, addresses: Iterator[str | None]) -> Iterator[NewClient]:
    """Makes clients that come from an address of their own."""
    made: list[httpx.Client] = []

    def make() -> httpx.Client:
        transport = httpx.HTTPTransport(local_address=next(addresses), retries=0)
        made.append(httpx.Client(base_url=service.url, transport=transport, timeout=SECONDS))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(new_client: NewClient) -> httpx.Client:
    """A client of this test alone."""
    return new_client()


@pytest.fixture
def new_person(new_client: NewClient) -> Callable[[], Person]:
    """Registers people and signs them in."""

    def make() -> Person:
        client = new_client()
        email, password = f"person-{uuid4().hex[:12]}@example.com", f"pass-{uuid4()}"
        registered = client.post("/api/v1/accounts/register", json={"email": email, "password": password})
        assert registered.status_code == 202, registered.text
        signed_in = client.post("/api/v1/accounts/sign-in", json={"email": email, "password": password})
        assert signed_in.status_code == 200, signed_in.text
        client.headers["Authorization"] = f"Bearer {signed_in.json()['access_token']}"
        return Person(email, password, client)

    return make


@pytest.fixture
def person(new_person: Callable[[], Person]) -> Person:
    """Somebody who is signed in."""
    return new_person()


@pytest.fixture
def log_folder(service: Service) -> Path:
    """Where the parts of our own stack write."""
    if service.stack is None:
        pytest.skip("the logs of a service that runs already are elsewhere")
    return service.stack.data / "logs"
