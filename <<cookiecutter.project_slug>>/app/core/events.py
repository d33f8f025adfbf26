"""Events: what somebody who is connected should know at once, as that their file has been read.

    await resources.events.publish(user_id, "invoice.paid", {"id": str(invoice.id)})

Every process may publish, the worker's too; `realtime` brings the event to all sockets of that person. An event is a hint
that something has changed, and the database is where it stands: so an event may be lost, but whoever missed one is told.

Kept in the cache's Redis, and not in the broker's: what is evicted there costs a client one more request, and a flood of
events cannot fill the server that tasks need. A person has a stream of the newest events, from which a socket that comes
back takes what it missed, and a channel, over which the processes that hold the person's sockets hear of a new one.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.core import metrics
from app.core.cache import AWAY, Cache
from app.core.circuit import CircuitOpen
from app.core.settings import Ws

log = structlog.get_logger(__name__)

MAX_BYTES = 4096
DISCONNECT = b"disconnect"
_KIND = re.compile(r"[a-z][a-z_]*(\.[a-z][a-z_]*)+")
_POSITION = re.compile(r"(\d{1,16})-(\d{1,16})")

# In one script, so that the order of the channel is the order of the stream. Whoever has neither a stream nor a socket
# has not been here lately: an event would cost memory and reach nobody. (`replicate_commands`: Redis before 7 writes
# after `*` only then.)
_PUBLISH = """
redis.replicate_commands()
if redis.call('EXISTS', KEYS[1]) == 0 and redis.call('PUBSUB', 'NUMSUB', ARGV[1])[2] == 0 then
    return 0
end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[3], '*', 'e', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('PUBLISH', ARGV[1], id .. ' ' .. ARGV[2])
return 1
"""

# A stream begins with a mark, so that everybody has a position in it. Nothing between its first entry and its last is
# ever missing: trimming takes the oldest, and eviction or the end of its life take all. So a reader has missed nothing
# if and only if the first entry is not newer than the reader's position.
_RESUME = """
redis.replicate_commands()
if redis.call('EXISTS', KEYS[1]) == 0 then
    redis.call('XADD', KEYS[1], '*', 'begin', '')
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1]
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]
local missed = {}
if ARGV[1] ~= '' then
    missed = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+')
end
return {first, last, missed, redis.call('GET', KEYS[2])}
"""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a person's stream of events; later ones are greater. What clients know as an event's id."""

    milliseconds: int
    number: int

    @classmethod
    def parse(cls, text: str) -> "Position | None":
        """The position that `text` names, or None."""
        found = _POSITION.fullmatch(text)
        return cls(int(found[1]), int(found[2])) if found else None

    def __str__(self) -> str:
        return f"{self.milliseconds}-{self.number}"


@dataclass(frozen=True, slots=True)
class Event:
    """An event as it lies in the stream: where, and its kind and data as JSON."""

    position: Position
    body: bytes

    def frame(self) -> str:
        """The message that a socket gets."""
        return f'{{"type":"event","id":"{self.position}",{self.body[1:].decode()}'


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a reader missed.

    Attributes:
        complete: False when some of it is gone; `events` is empty then.
        events: oldest first.
        position: the newest event's.
        gate: changes when every socket of the person has to go.
    """

    complete: bool
    events: Sequence[Event]
    position: Position
    gate: str


def channel(user_id: UUID) -> str:
    """Where processes hear of a person's events."""
    return f"events:channel:{user_id}"


def _stream(user_id: UUID) -> str:
    return f"events:stream:{user_id}"


def _gate(user_id: UUID) -> str:
    return f"events:gate:{user_id}"


class Events:
    """Publishing, and reading what was published."""

    def __init__(self, settings: Ws, cache: Cache) -> None:
        self._settings = settings
        self.redis: Redis = cache.redis
        self.circuit = cache.circuit
        self._publish = self.redis.register_script(_PUBLISH)
        self._resume = self.redis.register_script(_RESUME)

    async def publish(self, user_id: UUID, kind: str, data: dict[str, Any]) -> None:
        """Tell every socket of a person, on whatever process. Call it after the commit of what the event tells.

        Never raises because of Redis or of the size: the work is done, and whoever asks for it finds it.

        Args:
            user_id: whose sockets; nobody else's get it.
            kind: `thing.happened`.
            data: small and fit for JSON: ids and states rather than contents. At most 4 KB.
        """
        assert _KIND.fullmatch(kind), kind
        body = orjson.dumps({"kind": kind, "data": data})
        if len(body) > MAX_BYTES:
            metrics.EVENTS.labels("too_large").inc()
            log.error("event_too_large", kind=kind, bytes=len(body))
            return
        try:
            async with self.circuit.guard():
                kept, seconds = self._settings.resume_events, self._settings.resume_seconds
                heard = await self._publish(keys=[_stream(user_id)], args=[channel(user_id), body, kept, seconds])
        except (*AWAY, CircuitOpen) as error:
            metrics.EVENTS.labels("lost").inc()
            log.warning("event_lost", kind=kind, error=repr(error))
        else:
            metrics.EVENTS.labels("sent" if heard else "nobody").inc()

    async def disconnect(self, user_id: UUID) -> None:
        """End every socket of a person and every ticket not yet used: for signing out everywhere, or losing rights.

        Never raises because of Redis. A process that does not hear of it ends the sockets when their tokens expire.
        """
        try:
            async with self.circuit.guard(), self.redis.pipeline(transaction=True) as pipeline:
                pipeline.set(_gate(user_id), f"{time.time():.6f}", ex=86400)
                pipeline.publish(channel(user_id), DISCONNECT)
                await pipeline.execute()
        except (*AWAY, CircuitOpen) as error:
            log.error("sockets_not_ended", user=str(user_id), error=repr(error))

    async def gate(self, user_id: UUID) -> str:
        """When `disconnect` was called last, in seconds since the epoch; empty when it was not within a day.

        Raises:
            RedisError, OSError: Redis is away.
        """
        return _text(await self.redis.get(_gate(user_id)))

    def keep(self, pipeline: Pipeline, user_id: UUID) -> None:
        """Lengthen the life of a person's stream, as part of `pipeline`: whoever is connected needs it later."""
        pipeline.expire(_stream(user_id), self._settings.resume_seconds)

    async def since(self, user_id: UUID, position: Position | None) -> Backlog:
        """What came after `position`; with None only where the newest event stands.

        Raises:
            RedisError, OSError: Redis is away.
        """
        after = str(position) if position else ""
        first, last, missed, gate = await self._resume(
            keys=[_stream(user_id), _gate(user_id)], args=[after, self._settings.resume_seconds]
        )
        oldest, newest = _position(first), _position(last)
        complete = position is None or oldest <= position <= newest
        events = [Event(_position(id_), fields[1]) for id_, fields in missed] if complete else []
        return Backlog(complete, events, newest, _text(gate))


def read_message(message: bytes) -> Event | None:
    """What a process hears on a channel: an event, or None for "disconnect"."""
    if message == DISCONNECT:
        return None
    id_, _, body = message.partition(b" ")
    return Event(_position(id_), body)


def _position(raw: bytes) -> Position:
    found = Position.parse(raw.decode())
    assert found
    return found


def _text(raw: bytes | str | None) -> str:
    return raw.decode() if isinstance(raw, bytes) else raw or ""
