"""How often somebody may ask, over all processes (docs/decisions/0006-rate-limits.md).

    @router.post("/sign-in", dependencies=[limited("sign-in")])     # LIMITS_SENSITIVE a minute of one address
    await resources.limiter.take(Limit("exports", 5), str(user.id)) # anything else

A sliding window, counted in the cache's Redis. Where every request counts a process takes a slice of what is left and
spends it by itself, so that most requests ask nobody. Without Redis each process counts alone, by the same rule.
"""

import asyncio
import ipaddress
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from math import ceil, floor
from typing import TYPE_CHECKING

import structlog
from fastapi import Depends, Request, params
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.cache import AWAY, Cache
from app.core.circuit import CircuitOpen
from app.core.errors import MEDIA_TYPE, TooManyRequests, problem
from app.core.logging import client_address
from app.core.settings import Limits

if TYPE_CHECKING:
    from app.core.resources import Resources

log = structlog.get_logger(__name__)

# A slice is this part of the limit. Two processes can hold two of them back, a tenth of the whole.
SLICES = 20
# As many people and addresses a process remembers; one that is forgotten asks Redis again.
REMEMBERED = 50_000
_UNLIMITED_PATHS = frozenset({"/health", "/health/ready", "/metrics"})

# The time is the server's, so that the clocks of the processes do not matter. A hash, so that it is one key: what was
# used in this window and in the one before. Of the latter counts as much as the sliding window still covers.
_TAKE = """
redis.replicate_commands()
local limit, window, ask = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local number, into = math.floor(now / window), now % window
local counts = redis.call('HMGET', KEYS[1], number, number - 1)
local current, previous = tonumber(counts[1]) or 0, tonumber(counts[2]) or 0
if not counts[1] then
    redis.call('DEL', KEYS[1])
    if previous > 0 then redis.call('HSET', KEYS[1], number - 1, previous) end
end
local used = current + math.floor(previous * (window - into) / window)
local granted = math.max(0, math.min(ask, limit - used))
redis.call('HINCRBY', KEYS[1], number, granted)
redis.call('PEXPIRE', KEYS[1], 2 * window)
return {granted, current, previous, into}
"""


@dataclass(frozen=True, slots=True)
class Limit:
    """So many times in so many seconds.

    Attributes:
        sliced: processes take slices: cheap, and up to a tenth of it may lie unused.
    """

    name: str
    amount: int
    seconds: int = 60
    sliced: bool = False


class RateLimited(TooManyRequests):
    """More often than a limit allows."""

    def __init__(self, limit: Limit, seconds: float) -> None:
        super().__init__(seconds)
        # As the draft "RateLimit header fields for HTTP" of the IETF has it.
        self.headers = {
            **self.headers,
            "RateLimit-Policy": f'"{limit.name}";q={limit.amount};w={limit.seconds}',
            "RateLimit": f'"{limit.name}";r=0;t={max(1, ceil(seconds))}',
        }

    @classmethod
    def code(cls) -> str:
        """As nginx calls it."""
        return TooManyRequests.code()


@dataclass(slots=True)
class _Held:
    """What this process knows of somebody: what it may spend, and until when that, or a refusal, holds."""

    left: int = 0
    refused: bool = False
    until: float = 0.0
    # What it has counted itself while Redis was away.
    number: int = 0
    current: int = 0
    previous: int = 0
    # Who asks for a slice, one at a time, and how many would like to.
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class Limiter:
    """Counts who asks how often."""

    def __init__(self, cache: Cache) -> None:
        self._circuit = cache.circuit
        self._script = cache.redis.register_script(_TAKE)
        self._held: OrderedDict[tuple[str, str], _Held] = OrderedDict()

    async def take(self, limit: Limit, who: str) -> None:
        """Count one time.

        Args:
            limit: which one, and how many; the same name always has the same amount.
            who: an id or an address.

        Raises:
            RateLimited: there is none left.
        """
        held = self._held.get((limit.name, who))
        if held is None:
            held = self._held[limit.name, who] = _Held()
            if len(self._held) > REMEMBERED:
                self._held.popitem(last=False)
        if _spend(limit, held):
            return
        if not limit.sliced:
            await self._fetch(limit, who, held, 1)
            return
        held.waiting += 1
        try:
            # If each took a slice of its own, a burst would use the whole limit up, and most of it for nothing.
            async with held.asking:
                if not _spend(limit, held):
                    # As many as wait, so that nobody waits for more than two questions to a Redis that hangs.
                    await self._fetch(limit, who, held, max(1, limit.amount // SLICES, held.waiting))
        finally:
            held.waiting -= 1

    def forget(self) -> None:
        """What this process holds back, or refuses, counts no longer; Redis is asked again."""
        self._held.clear()

    async def _fetch(self, limit: Limit, who: str, held: _Held, ask: int) -> None:
        """Ask for so many, and spend one of them."""
        now = time.monotonic()
        granted, wait, rest = await self._ask(limit, who, ask, held)
        if not granted:
            held.refused, held.until = True, now + wait
            raise RateLimited(limit, wait)
        # What was granted in this window may not be spent in the next one.
        held.left, held.until = granted - 1, now + rest

    async def _ask(self, limit: Limit, who: str, ask: int, held: _Held) -> tuple[int, float, float]:
        """How many are granted, in how many seconds there will be one if there is none, and how long the window goes on."""
        window = limit.seconds * 1000
        try:
            async with self._circuit.guard():
                granted, current, previous, into = await self._script(
                    keys=[f"limit:{limit.name}:{who}"], args=[limit.amount, window, ask]
                )
        except (*AWAY, CircuitOpen) as error:
            if not isinstance(error, CircuitOpen):
                log.warning("limits_counted_alone", error=repr(error))
            granted, current, previous, into = _count_alone(limit, held, window, ask)
        return granted, _wait(limit, current, previous, into, window) / 1000, (window - into) / 1000


def _spend(limit: Limit, held: _Held) -> bool:
    """Spend one of what is held; False when there is none.

    Raises:
        RateLimited: it is known that there will be none.
    """
    now = time.monotonic()
    if now >= held.until:
        held.left, held.refused = 0, False
    if held.left > 0:
        held.left -= 1
        return True
    if held.refused:
        raise RateLimited(limit, held.until - now)
    return False


def _count_alone(limit: Limit, held: _Held, window: int, ask: int) -> tuple[int, int, int, int]:
    """What the script does, for one process."""
    number, into = divmod(int(time.time() * 1000), window)
    if held.number != number:
        held.previous = held.current if held.number == number - 1 else 0
        held.number, held.current = number, 0
    used = held.current + floor(held.previous * (window - into) / window)
    granted = max(0, min(ask, limit.amount - used))
    current, held.current = held.current, held.current + granted
    return granted, current, held.previous, into


def _wait(limit: Limit, current: int, previous: int, into: int, window: int) -> float:
    """In how many milliseconds there is room for one more, if nobody takes any meanwhile."""
    if current < limit.amount:
        # Of the window before must count less than what is free in this one.
        return max(1.0, window * (1 - (limit.amount - current) / previous) - into) if previous else 1.0
    return window - into + window * (1 - limit.amount / current) + 1


def network(address: str) -> str:
    """The address as far as it tells one subscriber from another: all of IPv4, the first 64 bits of IPv6."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address, 64), strict=False))
    except ValueError:
        return address


def limited(name: str, amount: int | None = None) -> params.Depends:
    """For the `dependencies` of a route: so many requests a minute of one address, LIMITS_SENSITIVE unless given."""

    async def check(request: Request) -> None:
        resources: Resources = request.app.state.resources
        limit = Limit(name, amount or resources.settings.limits.sensitive)
        await resources.limiter.take(limit, network(client_address.get()))

    dependency: params.Depends = Depends(check)
    return dependency


def per_user(settings: Limits) -> Limit:
    """The limit of everybody who is signed in."""
    return Limit("user", settings.per_user, sliced=True)


class PerClient:
    """The limit of every address, where the application stands alone; nginx has one of its own. Plain ASGI."""

    def __init__(self, app: ASGIApp, amount: int) -> None:
        self.app = app
        self._limit = Limit("client", amount, sliced=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _UNLIMITED_PATHS:
            resources: Resources = scope["app"].state.resources
            try:
                await resources.limiter.take(self._limit, network(client_address.get()))
            except RateLimited as error:
                await _refuse(send, error)
                return
        await self.app(scope, receive, send)


async def _refuse(send: Send, error: RateLimited) -> None:
    body = problem(error.status, error.code(), error.detail)
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    headers += [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
