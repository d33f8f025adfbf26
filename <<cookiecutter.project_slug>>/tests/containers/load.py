"""Clients that never stop asking while something is done to the service."""

from __future__ import annotations

import ssl
import threading
from collections import Counter
from types import TracebackType

import httpx

#: Method, path, and the status that the API itself answers with. The second one may not be sent twice by nginx.
ASKED = (("GET", "/health/ready", 200), ("POST", "/api/v1/nothing-here", 404))
CLIENTS = 4
PAUSE_SECONDS = 0.02


class Load:
    """Constant load on kept connections, from entering to leaving.

    Attributes:
        answers: how often each method had each status.
        failures: everything else: another status, a connection that broke.
    """

    def __init__(self, url: str, authority: str) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.failures: list[str] = []
        self._url = url
        self._authority = authority
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        trust = ssl.create_default_context(cafile=self._authority)
        with httpx.Client(base_url=self._url, verify=trust, timeout=20, trust_env=False) as client:
            while not self._stop.wait(PAUSE_SECONDS):
                method, path, expected = ASKED[number % len(ASKED)]
                number += 1
                try:
                    response = client.request(method, path)
                except httpx.HTTPError as error:
                    self.failures.append(f"{method} {path}: {error!r}")
                else:
                    self.answers[method, response.status_code] += 1
                    if response.status_code != expected:
                        self.failures.append(f"{method} {path}: {response.status_code} {response.text[:200]}")
