"""Tickets: what a socket shows instead of an access token. Each opens one socket, soon after it was made."""

import hashlib
import secrets
from dataclasses import dataclass
from uuid import UUID

import orjson

from app.core.cache import AWAY
from app.core.errors import Unauthorized, Unavailable
from app.core.events import Events

SECONDS = 30


@dataclass(frozen=True, slots=True)
class Ticket:
    """Whom a socket belongs to.

    Attributes:
        user_id: whose events it gets.
        expires_at: end of the access token that the ticket was made with, in seconds since the epoch.
        gate: what `Events.gate` said when the ticket was made.
    """

    user_id: UUID
    expires_at: int
    gate: str


class SignedOut(Unauthorized):
    """The access token lives on, but its person has signed out everywhere since it was made."""

    detail = "You have signed out everywhere. Sign in again."


async def issue(events: Events, user_id: UUID, expires_at: int, issued_at: int | None = None) -> str:
    """A fresh ticket.

    Args:
        events: where it is kept.
        user_id: for whom.
        expires_at: when the access token expires, in seconds since the epoch.
        issued_at: when it was made; unknown, it is taken to be good.

    Raises:
        SignedOut: every socket of the person was ended since.
        Unavailable: Redis is away, so that a socket could not be opened either.
    """
    ticket = secrets.token_urlsafe(32)
    try:
        async with events.circuit.guard():
            gate = await events.gate(user_id)
            if gate and issued_at is not None and issued_at < int(float(gate)):
                raise SignedOut
            value = orjson.dumps([str(user_id), expires_at, gate])
            await events.redis.set(_key(ticket), value, ex=SECONDS)
    except AWAY as error:
        raise Unavailable from error
    return ticket


async def redeem(events: Events, ticket: str) -> Ticket | None:
    """Whom the ticket lets in; None when there is none such, or it was used before.

    Raises:
        RedisError, OSError: Redis is away.
    """
    found = await events.redis.getdel(_key(ticket))
    if not isinstance(found, bytes):
        return None
    user_id, expires_at, gate = orjson.loads(found)
    return Ticket(UUID(user_id), expires_at, gate)


def _key(ticket: str) -> str:
    # Whoever can read Redis can open no socket with what is there.
    return "tickets:" + hashlib.sha256(ticket.encode()).hexdigest()
