"""Workers say that they live by a key in the broker; asking them would hold up an event loop for seconds."""

import time

from redis import Redis as SyncRedis
from redis.asyncio import Redis

PREFIX = "worker-heartbeat:"
LIFE_SECONDS = 120


def write_heartbeat(redis: "SyncRedis", worker: str) -> None:
    """Called by the worker itself, every few seconds."""
    redis.set(PREFIX + worker, repr(time.time()), ex=LIFE_SECONDS)


async def heartbeats(redis: Redis) -> dict[str, float]:
    """When each worker was last heard of, in seconds since the epoch."""
    found: dict[str, float] = {}
    async for key in redis.scan_iter(match=PREFIX + "*"):
        if (value := await redis.get(key)) is not None:
            found[key.decode().removeprefix(PREFIX)] = float(value)
    return found


async def newest_heartbeat(redis: Redis) -> float | None:
    """When any worker was last heard of, or None."""
    return max((await heartbeats(redis)).values(), default=None)
