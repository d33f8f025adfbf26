"""One person as the journeys see them: an address, a token, and a clock for each step. Runs under locust."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import websocket
from locust.clients import HttpSession
from locust.env import Environment

from load.journeys.realtime import CONNECT, TICKET
from load.objectives import Step

#: Longest wait for an answer, and for an event.
ANSWER_SECONDS = 60
EVENT_SECONDS = 60


class JourneyEnded(Exception):
    """A step failed and is counted; what builds on it is not tried."""


class Person:
    """Somebody on a way through the service.

    Attributes:
        token: the access token, once there is one.
        kept: what a journey has to remember.
        mail_domain: where an address of e-mail may be that nobody reads.
    """

    def __init__(self, client: HttpSession, environment: Environment, address: str, think_seconds: float) -> None:
        """Somebody at `address`, who thinks for about so long before each step."""
        self.token = ""
        self.kept: dict[str, str] = {}
        self.mail_domain = os.environ.get("LOAD_MAIL_DOMAIN", "example.com")
        self._client = client
        self._environment = environment
        # Where nginx believes it (REAL_IP_FROM), each person counts alone, as in life.
        self._headers = {"X-Forwarded-For": address}
        self._think_seconds = think_seconds

    def ask(self, step: Step, method: str, path: str, expected: int = 200, **sent: Any) -> Any:
        """Send a request and return what the answer holds.

        Raises:
            JourneyEnded: another status than the expected one, or no answer.
        """
        self._think()
        with self._client.request(
            method,
            path,
            name=step.name,
            headers=self._all_headers(),
            timeout=ANSWER_SECONDS,
            allow_redirects=False,
            catch_response=True,
            **sent,
        ) as response:
            if response.status_code != expected:
                response.failure(_said(response))
                raise JourneyEnded
            try:
                return response.json() if response.content else None
            except ValueError:
                response.failure("the answer is no JSON")
                raise JourneyEnded from None

    def stream(self, begins: Step, whole: Step, path: str, **sent: Any) -> list[tuple[str, str]]:
        """Ask for server-sent events and return them as (name, data); `begins` is until the first bytes, `whole` until the end.

        Raises:
            JourneyEnded: no stream, or an empty one.
        """
        self._think()
        with (
            self.timing(whole),
            self._client.post(
                path,
                name=begins.name,
                headers=self._all_headers(),
                timeout=ANSWER_SECONDS,
                stream=True,
                catch_response=True,
                **sent,
            ) as response,
        ):
            if response.status_code != 200:
                response.failure(_said(response))
                raise JourneyEnded
            try:
                events = _events(response.iter_lines(decode_unicode=True))
            except OSError as error:
                response.failure(f"the stream broke off: {type(error).__name__}")
                raise JourneyEnded from error
            if not events:
                response.failure("a stream without an event")
                raise JourneyEnded
        return events

    @contextmanager
    def listening(self) -> Iterator[Socket]:
        """A socket that is let in, for as long as the block lasts."""
        ticket = self.ask(TICKET, "POST", "/api/v1/realtime/tickets", 201)["ticket"]
        address = self._client.base_url.replace("http", "ws", 1) + "/ws"
        with self.timing(CONNECT):
            opened = websocket.create_connection(address, timeout=EVENT_SECONDS, header=self._headers)
            socket = Socket(opened)
            socket.say({"type": "hello", "ticket": ticket})
            socket.hear(lambda message: message["type"] == "ready")
        try:
            yield socket
        finally:
            with suppress(OSError, websocket.WebSocketException):
                opened.close(timeout=1)

    @contextmanager
    def timing(self, step: Step) -> Iterator[None]:
        """Count what happens in the block as one step; whatever is raised in it is its failure."""
        began, error = time.monotonic(), None
        try:
            yield
        except JourneyEnded as raised:
            error = raised.__cause__ or raised
            raise
        except (OSError, websocket.WebSocketException) as raised:
            error = raised
            raise JourneyEnded from raised
        finally:
            self._count(step, time.monotonic() - began, error)

    def insist(self, right: bool, otherwise: str, step: Step | None = None) -> None:
        """End the journey unless all is right; `step` has failed then, unless its clock still runs.

        Raises:
            JourneyEnded: it is not.
        """
        if right:
            return
        error = AssertionError(otherwise)
        if step:
            self._count(step, 0, error)
        raise JourneyEnded from error

    def _count(self, step: Step, seconds: float, error: BaseException | None) -> None:
        self._environment.events.request.fire(
            request_type="", name=step.name, response_time=1000 * seconds, response_length=0, exception=error
        )

    def _all_headers(self) -> dict[str, str]:
        return {**self._headers, **({"Authorization": f"Bearer {self.token}"} if self.token else {})}

    def _think(self) -> None:
        time.sleep(self._think_seconds * random.uniform(0.5, 1.5))  # noqa: S311  # nothing to guess here


class Socket:
    """A WebSocket of a person."""

    def __init__(self, opened: websocket.WebSocket) -> None:
        self._opened = opened

    def say(self, message: dict[str, str]) -> None:
        """Send it."""
        self._opened.send(json.dumps(message))

    def hear(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next message that fits.

        Raises:
            OSError, WebSocketException: none came in time, or the socket was closed.
        """
        deadline = time.monotonic() + EVENT_SECONDS
        while time.monotonic() < deadline:
            opcode, data = self._opened.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                raise websocket.WebSocketConnectionClosedException(f"closed: {int.from_bytes(data[:2])}")
            message: dict[str, Any] = json.loads(data)
            if fits(message):
                return message
        raise TimeoutError(f"nothing that fits within {EVENT_SECONDS} s")


def _events(lines: Iterable[str]) -> list[tuple[str, str]]:
    """Name and data of each event."""
    found, name = [], ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((name, line.removeprefix("data: ")))
    return found


def _said(response: Any) -> str:
    """What stands in the list of errors: the status and the problem's own code."""
    if response.status_code == 0:
        return f"no answer: {type(response.error).__name__}"
    try:
        return f"{response.status_code} {response.json()['code']}"
    except (ValueError, KeyError, TypeError):
        return str(response.status_code)
