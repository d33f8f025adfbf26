"""Somebody connects to hear of events, and stays a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from load.objectives import Step

if TYPE_CHECKING:
    from load.person import Person

TICKET = Step("realtime: ticket")
CONNECT = Step("realtime: connect")
PING = Step("realtime: ping")
STEPS = (TICKET, CONNECT, PING)


def walk(person: Person) -> None:
    """A socket, a sign of life, and away."""
    with person.listening() as socket, person.timing(PING):
        socket.say({"type": "ping"})
        socket.hear(lambda message: message["type"] == "pong")
