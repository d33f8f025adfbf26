"""Redis as a cache. It may be empty or away at any time: every read has an answer without it.

    @cached("rates.of_day", ttl_seconds=600)
    async def rates(resources: Resources, day: date, currency: str = "EUR") -> dict[str, float]: ...

    await rates(resources, day)               # from the cache, or made and kept
    await rates.forget(resources, day)        # this one is made again
    await rates.forget_all(resources)         # all of them are

What is asked for by many at once is made once: within a process they wait for the same call, and among processes a short
lock decides who makes it. A value that was made before `forget` and comes after it is not kept. What a function returns
is kept, None as well ("there is none" is an answer too; give it a short life); what it raises is not.
"""

import asyncio
import functools
import hashlib
import inspect
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

import orjson
import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError, TimeoutError  # noqa: A004  # redis-py's names for them

from app.core import metrics
from app.core.circuit import Circuit, CircuitOpen
from app.core.settings import Cache as CacheSettings

if TYPE_CHECKING:
    from app.core.resources import Resources

log = structlog.get_logger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

# How redis-py says that the server does not answer.
AWAY = (RedisError, OSError)
# A cache that is slower than this is worse than none.
DEADLINE_SECONDS = 0.5
# Of one process. Who finds none free waits for one, at most the deadline; redis-py's own pool would refuse at once.
MAX_CONNECTIONS = 50
# A connection that Redis closed meanwhile shows when it is used; a new one is tried, once and at once. By default
# redis-py waits and tries for seconds, and repeats what ran into its deadline.
ONE_RETRY = Retry(NoBackoff(), 1, supported_errors=(ConnectionError,))
# How long another process may take to make a value before somebody else tries, and how long one is waited for.
LOCK_SECONDS = 10
WAIT_SECONDS = 3.0
_FIRST_LOOK_SECONDS = 0.01
_LAST_LOOK_SECONDS = 0.2
# What was kept together would end together, and be made again all at once.
_SHORTEST_LIFE = 0.9

# Keeps a value only while its maker holds the lock: `forget` takes the lock away, and so does whoever waited too long.
_KEEP = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
    return 0
end
redis.call('DEL', KEYS[2])
if ARGV[2] ~= '' then
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1
"""


class Cache:
    """Values of JSON by name."""

    name = "cache"

    def __init__(self, settings: CacheSettings) -> None:
        self._ttl = settings.ttl_seconds
        # One for all that lies in this Redis: a silent one costs a few of us their deadline, and then nobody.
        self.circuit = Circuit("cache", counts=(ConnectionError, TimeoutError, OSError))
        self.redis: Redis = Redis.from_pool(
            BlockingConnectionPool.from_url(
                settings.address(),
                max_connections=MAX_CONNECTIONS,
                timeout=DEADLINE_SECONDS,
                socket_timeout=DEADLINE_SECONDS,
                socket_connect_timeout=DEADLINE_SECONDS,
                retry=ONE_RETRY,
            )
        )
        self._keep = self.redis.register_script(_KEEP)
        self._under_way: dict[str, asyncio.Task[bytes]] = {}

    async def get_or_set(
        self,
        key: str,
        make: Callable[[], Awaitable[Any]],
        ttl_seconds: float | None = None,
        namespace: str | None = None,
    ) -> Any:
        """The cached value of `key`, or what `make` returns, kept for `ttl_seconds` (CACHE_TTL_SECONDS unless given).

        When Redis does not answer, `make` is called: once for all who ask at the same time.

        Args:
            key: whole name of the value.
            make: returns what survives JSON. Everybody gets it as it comes back from there.
            ttl_seconds: a little less for each, so that they do not end together.
            namespace: `forget_all` of it makes the value be made again.
        """
        flight = self._under_way.get(key)
        if flight is None:
            flight = asyncio.create_task(self._found_or_made(key, make, ttl_seconds or self._ttl, namespace))
            self._under_way[key] = flight
            flight.add_done_callback(functools.partial(self._landed, key))
        # Whoever gives up waiting does not end it for the others.
        return orjson.loads(await asyncio.shield(flight))

    async def forget(self, key: str) -> None:
        """Have the value made again, also when somebody is making it now. Without Redis it lives on until its end."""
        self._under_way.pop(key, None)
        await self._try(lambda: self.redis.delete(key, _lock(key)))

    async def forget_all(self, namespace: str) -> None:
        """Have every value of the namespace made again. Without Redis they live on until their ends."""
        # What is under way has the old generation and will not be found.
        self._under_way.clear()
        await self._try(lambda: self.redis.set(_generation(namespace), secrets.token_hex(8)))

    async def check(self) -> None:
        """Raise when Redis does not answer."""
        await self.redis.ping()

    async def close(self) -> None:
        """Close every connection."""
        for flight in list(self._under_way.values()):
            flight.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        await self.redis.aclose()

    def _landed(self, key: str, flight: asyncio.Task[bytes]) -> None:
        if self._under_way.get(key) is flight:
            del self._under_way[key]
        if not flight.cancelled():
            flight.exception()  # seen, if everybody who waited has gone

    async def _found_or_made(
        self, key: str, make: Callable[[], Awaitable[Any]], ttl_seconds: float, namespace: str | None
    ) -> bytes:
        looked = await self._look(key, namespace)
        if looked is None:
            metrics.CACHE.labels("error").inc()
            return orjson.dumps(await make())
        generation, found = looked
        if found is not None:
            metrics.CACHE.labels("hit").inc()
            return found
        metrics.CACHE.labels("miss").inc()
        token = secrets.token_hex(8)
        if not await self._try(lambda: self.redis.set(_lock(key), token, nx=True, ex=LOCK_SECONDS)):
            found = await self._wait_for(key, namespace)
            return orjson.dumps(await make()) if found is None else found
        made, life = b"", 0
        try:
            made = orjson.dumps(await make())
            life = max(1, int(ttl_seconds * 1000 * random.uniform(_SHORTEST_LIFE, 1)))  # noqa: S311  # spreads, hides nothing
            return made
        finally:
            value = generation + b" " + made if made else b""
            await self._try(lambda: self._keep(keys=[key, _lock(key)], args=[token, value, life]))

    async def _look(self, key: str, namespace: str | None) -> tuple[bytes, bytes | None] | None:
        """Generation and value; the value is None when there is none of that generation. None: Redis is away."""
        if namespace is None:
            found = await self._try(lambda: self.redis.mget(key))
            generation, value = b"-", found[0] if found else None
        else:
            found = await self._try(lambda: self.redis.mget(key, _generation(namespace)))
            value, generation = found or (None, b"")
        if found is None:
            return None
        if generation is None:  # the first ever, or evicted: what lies there is of an unknown age
            generation = secrets.token_hex(8).encode()
            await self._try(lambda: self.redis.set(_generation(str(namespace)), generation, nx=True))
        begins = generation + b" "
        return generation, value.removeprefix(begins) if value and value.startswith(begins) else None

    async def _wait_for(self, key: str, namespace: str | None) -> bytes | None:
        """What another process is making; None when it takes too long or has failed."""
        pause, loop = _FIRST_LOOK_SECONDS, asyncio.get_running_loop()
        until = loop.time() + WAIT_SECONDS
        while loop.time() < until:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_LOOK_SECONDS)
            looked = await self._look(key, namespace)
            if looked is None or looked[1] is not None:
                return looked[1] if looked else None
            if not await self._try(lambda: self.redis.exists(_lock(key))):
                return None
        return None

    async def _try(self, command: Callable[[], Awaitable[Any]]) -> Any:
        """What the command returns, or None when Redis does not answer."""
        try:
            async with self.circuit.guard():
                return await command()
        except CircuitOpen:
            return None
        except AWAY as error:
            log.warning("cache_away", error=repr(error))
            return None


class Cached(Generic[P, R]):
    """A function whose results are cached; made by `cached`."""

    def __init__(
        self,
        function: Callable[Concatenate["Resources", P], Awaitable[R]],
        namespace: str,
        ttl_seconds: float | None,
    ) -> None:
        self.function = function
        self.namespace = namespace
        self._ttl = ttl_seconds
        self._signature = inspect.signature(function)

    async def __call__(self, resources: "Resources", *args: P.args, **kwargs: P.kwargs) -> R:
        """The result from the cache, or of the function, as it comes back from JSON."""
        found: R = await resources.cache.get_or_set(
            self.key(*args, **kwargs),
            lambda: self.function(resources, *args, **kwargs),
            self._ttl,
            namespace=self.namespace,
        )
        return found

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Where the result lies: the same however the arguments are given, and in every process.

        Raises:
            TypeError: an argument is nothing that JSON knows.
        """
        bound = self._signature.bind(None, *args, **kwargs)
        bound.apply_defaults()
        given = orjson.dumps(list(bound.arguments.items())[1:], option=orjson.OPT_SORT_KEYS)
        return f"cache:{self.namespace}:{hashlib.sha256(given).hexdigest()[:32]}"

    async def forget(self, resources: "Resources", *args: P.args, **kwargs: P.kwargs) -> None:
        """Have the result for these arguments made again; call it after the commit of what it depends on."""
        await resources.cache.forget(self.key(*args, **kwargs))

    async def forget_all(self, resources: "Resources") -> None:
        """Have every result made again."""
        await resources.cache.forget_all(self.namespace)


def cached(
    name: str, *, ttl_seconds: float | None = None, version: int = 1
) -> Callable[[Callable[Concatenate["Resources", P], Awaitable[R]]], Cached[P, R]]:
    """Keep the results of a function of resources and arguments that JSON knows.

    Args:
        name: `thing.what`; never that of another function.
        ttl_seconds: how long a result lives; CACHE_TTL_SECONDS unless given.
        version: another number when the form of the result changes: during a deploy both forms are in use.
    """

    def declare(function: Callable[Concatenate["Resources", P], Awaitable[R]]) -> Cached[P, R]:
        return Cached(function, f"{name}:v{version}", ttl_seconds)

    return declare


def _lock(key: str) -> str:
    return f"{key}:lock"


def _generation(namespace: str) -> str:
    return f"cache:{namespace}:generation"
