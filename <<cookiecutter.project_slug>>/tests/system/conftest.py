"""The service from outside: the whole stack, reached only through nginx. Nothing here imports the application.

SYSTEM_TEST_URL tests a service that runs already (staging, say); with SYSTEM_TEST_HEALTH_TOKEN its health as well, and with
SYSTEM_TEST_TOKENS what needs people. Tests that stop or kill parts are left out there.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from devstack import USUAL_SERVICES, Stack
from tests.system.helpers import ORIGIN, Person

# These tests are an identity provider of their own, whose key the service under test believes.
PROVIDER = Ed25519PrivateKey.generate()
ISSUER = "https://identity.example.com"
PUBLIC_KEYS = {"keys": [{**OKPAlgorithm.to_jwk(PROVIDER.public_key(), as_dict=True), "kid": "tests"}]}

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
    "AUTH_ISSUER": ISSUER,
    "AUTH_PUBLIC_KEYS": json.dumps(PUBLIC_KEYS),
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


def access_token(subject: str, *roles: str) -> str:
    """A token as the identity provider gives it that these tests are."""
    now = int(time.time())
    claims = {"sub": subject, "iss": ISSUER, "aud": "api", "iat": now, "exp": now + 3600, "roles": list(roles)}
    return jwt.encode(claims, PROVIDER, algorithm="EdDSA", headers={"kid": "tests", "typ": "at+jwt"})


@pytest.fixture
def new_person(service: Service, new_client: NewClient) -> Callable[[], Person]:
    """People who are signed in, each with a client of their own; no feature is needed for that."""

    def make() -> Person:
        client, subject = new_client(), str(uuid4())
        if service.stack:
            token = access_token(subject)
        elif given:
            token = given.pop()
        else:
            pytest.skip("SYSTEM_TEST_TOKENS has no access token left: comma-separated, each of another person")
        client.headers["Authorization"] = f"Bearer {token}"
        return Person(subject, client)

    given = [token for token in os.environ.get("SYSTEM_TEST_TOKENS", "").split(",") if token]
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
