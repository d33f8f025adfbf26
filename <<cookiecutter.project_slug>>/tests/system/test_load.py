"""`make load` is able to say yes and no: real locust on a real stack, and on a server that is broken."""

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from devstack.ports import LOOPBACK
from load import journeys
from load.__main__ import PYTHON
from tests.system.conftest import Service, access_token

ROOT = Path(__file__).resolve().parents[2]
# The machine may be busy with other tests: whether a promise is kept is not the question here.
PATIENT = ("--slack", "100")
SHORT = ("--users", "2", "--spawn", "2", "--duration", "2s", "--think", "0.05")


@pytest.fixture(autouse=True)
def installed() -> None:
    """Locust has an environment of its own."""
    assert PYTHON.exists(), f"{PYTHON} is missing: `make test-system` installs it"


def load(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it as the Makefile does."""
    return subprocess.run(
        [sys.executable, "-m", "load", *SHORT, *options],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


class Broken(http.server.BaseHTTPRequestHandler):
    """Answers 500, whatever it is asked."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_DELETE = answer  # noqa: N815  # the library's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        pass


@pytest.fixture
def broken() -> Iterator[str]:
    """The address of a server that can do nothing."""
    with http.server.ThreadingHTTPServer((LOOPBACK, 0), Broken) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{LOOPBACK}:{server.server_port}"
        server.shutdown()
        thread.join()


def test_every_step_is_done_on_a_stack_as_in_production() -> None:
    """It starts the stack by itself, with every limit as it is; nothing fails, so it ends with 0."""
    ended = load(*PATIENT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = {line.split("  ")[0]: line for line in ended.stdout.splitlines()}
    for step in journeys.steps(journeys.found(), tokens=False):
        assert step.name in rows, ended.stdout
    assert "every promise was kept" in ended.stdout


def test_an_impossible_promise_is_broken(service: Service) -> None:
    """On a service that runs already: times of a millisecond are not kept, and nothing else is wrong."""
    # Where people come from another service, these tests are that service.
    theirs = {} if journeys.entry(journeys.found()) else {"LOAD_TOKENS": access_token(str(uuid4()))}
    ended = load("--slack", "0.000001", "--failures", "100", "--url", service.url, **theirs)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "p95 is" in ended.stderr
    assert "requests failed" not in ended.stderr


def test_a_server_that_answers_500_is_not_passed(broken: str) -> None:
    """However patient one is: what fails is fast."""
    ended = load(*PATIENT, "--url", broken, LOAD_TOKENS="a-token")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "100.00 % of" in ended.stderr
    assert "never done" in ended.stderr
    assert ": 500" in ended.stdout
