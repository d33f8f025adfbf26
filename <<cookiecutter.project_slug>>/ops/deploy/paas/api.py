"""Speaking with a platform: JSON over HTTPS, errors that say what was asked, and waiting for what takes its time."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any, TypeVar

T = TypeVar("T")

#: Answers that mean: not now. Only a question is asked again; an order might be carried out twice.
BUSY = frozenset({429, 500, 502, 503, 504})
ATTEMPTS = 4
SECONDS = 30
#: How long a platform may take for one step.
PATIENCE_SECONDS = 20 * 60


class Failed(Exception):
    """A platform refused, or what it runs does not come up; the text is for a person."""


def say(text: str) -> None:
    """Tell whoever watches the deploy."""
    print(f"paas: {text}", flush=True)


def needed(*names: str) -> list[str]:
    """The values of environment variables.

    Raises:
        Failed: some are not set; all of them are named.
    """
    if missing := [name for name in names if not os.environ.get(name)]:
        raise Failed(f"not set: {', '.join(missing)}: docs/paas.md")
    return [os.environ[name] for name in names]


def pause() -> None:
    """Between two looks."""
    time.sleep(float(os.environ.get("POLL_SECONDS", "5")))


def wait(what: str, look: Callable[[], T | None]) -> T:
    """What `look` gives as soon as it gives something.

    Raises:
        Failed: it did not in time.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while (found := look()) is None:
        if time.monotonic() > until:
            raise Failed(f"{what}: not within {PATIENCE_SECONDS // 60} minutes")
        pause()
    return found


class Api:
    """One platform's.

    Args:
        address: where it is.
        headers: of every request; they hold the key, which no message ever shows.
    """

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        self._address = address.rstrip("/")
        self._headers = {"Content-Type": "application/json", "User-Agent": "ops.deploy.paas", **headers}

    def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Any:
        """The answer to a request, from JSON.

        Raises:
            Failed: refused, or not reached.
        """
        for attempt in range(1, ATTEMPTS + 1):
            request = urllib.request.Request(  # noqa: S310  # the address is ours, and HTTPS
                self._address + path,
                method=method,
                data=None if body is None else json.dumps(body).encode(),
                headers={**self._headers, **(headers or {})},
            )
            again = method == "GET" and attempt < ATTEMPTS
            try:
                with urllib.request.urlopen(request, timeout=SECONDS) as response:  # noqa: S310
                    text = response.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                if not (again and error.code in BUSY):
                    reason = error.read(500).decode(errors="replace").strip()
                    raise Failed(f"{method} {path}: {error.code} {reason}") from error
            except (OSError, HTTPException) as error:
                if not again:
                    raise Failed(f"{method} {path}: {error}") from error
            pause()
        raise AssertionError


def smoke(url: str) -> None:
    """Ask from outside, as a client comes in.

    Raises:
        Failed: it is not ready.
    """
    reason = ""
    for _ in range(6):
        try:
            with urllib.request.urlopen(f"{url.rstrip('/')}/health/ready", timeout=10):  # noqa: S310
                return
        except (OSError, HTTPException) as error:  # an answer that is an error as well
            reason = str(error)
        pause()
    raise Failed(f"{url}/health/ready: {reason}")
