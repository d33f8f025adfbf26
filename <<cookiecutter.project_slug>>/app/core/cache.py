"""Redis as a cache. It may be empty or away at any time: every read has an answer without it."""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError, TimeoutError  # noqa: A004  # redis-py's names for them

from app.core import metrics
from app.core.circuit import Circuit
from app.core.settings import Cache as CacheSettings

log = structlog.get_logger(__name__)

# How redis-py says that the server does not answer.
AWAY = (RedisError, OSError)
# A cache that is slower than this is worse than none.
DEADLINE_SECONDS = 0.5
# A connection that Redis closed meanwhile shows when it is used; a new one is tried, once and at once. By default
# redis-py waits and tries for seconds, and repeats what ran into its deadline.
ONE_RETRY = Retry(NoBackoff(), 1, supported_errors=(ConnectionError,))


class Cache:
    """Values of JSON by name."""

    name = "cache"

    def __init__(self, settings: CacheSettings) -> None:
        self._ttl = settings.ttl_seconds
        # One for all that lies in this Redis: a silent one costs a few of us their deadline, and then nobody.
        self.circuit = Circuit("cache", counts=(ConnectionError, TimeoutError, OSError))
        self.redis: Redis = Redis.from_url(
            settings.address(),
            socket_timeout=DEADLINE_SECONDS,
            socket_connect_timeout=DEADLINE_SECONDS,
            retry=ONE_RETRY,
        )

    async def get_or_set(self, key: str, make: Callable[[], Awaitable[Any]], ttl_seconds: int | None = None) -> Any:
        """The cached value of `key`, or what `make` returns, kept for `ttl_seconds` (CACHE_TTL_SECONDS unless given).

        The value must survive JSON. When Redis does not answer, `make` is called every time.
        """
        try:
            found = await self.redis.get(key)
        except (RedisError, OSError) as error:
            metrics.CACHE.labels("error").inc()
            log.warning("cache_away", error=repr(error))
            return await make()
        if found is not None:
            metrics.CACHE.labels("hit").inc()
            return orjson.loads(found)
        metrics.CACHE.labels("miss").inc()
        value = await make()
        try:
            await self.redis.set(key, orjson.dumps(value), ex=ttl_seconds or self._ttl)
        except (RedisError, OSError) as error:
            log.warning("cache_away", error=repr(error))
        return value

    async def check(self) -> None:
        """Raise when Redis does not answer."""
        await self.redis.ping()

    async def close(self) -> None:
        """Close every connection."""
        await self.redis.aclose()
