"""What the black-box tests share."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import httpx

# A browser application that may call the service.
ORIGIN = "https://app.example.com"
# Gets as far as the application, whatever features it has.
NOWHERE = "/api/v1/no-such-feature"
# Generous: the machine may be busy with other tests.
DEADLINE_SECONDS = 120
# Less and less often, so that a long wait does not run into the limit of requests.
FIRST_POLL_SECONDS = 0.1
LAST_POLL_SECONDS = 1.0
T = TypeVar("T")

# Values may differ between nginx and the application; that each stands there exactly once may not.
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'",
    "permissions-policy": "camera=()",
    "referrer-policy": "strict-origin-when-cross-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True)
class Person:
    """Somebody who is signed in; `client` carries the token."""

    id: str
    client: httpx.Client


def eventually(ask: Callable[[], T], fits: Callable[[T], bool], what: str, seconds: float = DEADLINE_SECONDS) -> T:
    """Ask until the answer fits; fails with the last one when it never does."""
    deadline = time.monotonic() + seconds
    pause = FIRST_POLL_SECONDS
    while True:
        answer = ask()
        if fits(answer):
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}; last: {answer}"
        time.sleep(pause)
        pause = min(pause * 1.2, LAST_POLL_SECONDS)


def assert_problem(response: httpx.Response, status: int, code: str | None = None) -> None:
    """The answer is a problem document that tells the truth about itself, with all headers of an answer."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/problem+json")
    body = response.json()
    assert body["status"] == status
    assert {"type", "title", "status", "detail", "code", "request_id"} <= body.keys()
    if code:
        assert body["code"] == code
    assert response.headers["x-request-id"] == body["request_id"]
    assert_secure(response)


def assert_secure(response: httpx.Response) -> None:
    """Every security header stands there, once."""
    for name, beginning in SECURITY_HEADERS.items():
        values = response.headers.get_list(name)
        assert len(values) == 1, f"{name}: {values}"
        assert values[0].startswith(beginning), f"{name}: {values}"
    assert len(response.headers.get_list("x-request-id")) == 1
    assert response.headers["server"] == "nginx", "the version is nobody's business"
