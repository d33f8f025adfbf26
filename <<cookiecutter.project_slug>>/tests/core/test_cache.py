"""The cache: faster when it is there, no worse when it is not."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from app.core.cache import Cache

if TYPE_CHECKING:
    from app.core.resources import Resources
    from tests.core.conftest import SettingsWith, Without


class Maker:
    """Makes a value, and knows how often it was asked."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.calls = 0

    async def __call__(self) -> Any:
        """Make it."""
        self.calls += 1
        return self.value


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, "ü"]}, [], 0, "", None, False])
async def test_made_once(resources: "Resources", value: Any) -> None:
    """The second reader gets the same value, also where it is nothing."""
    make = Maker(value)
    for _ in range(3):
        assert await resources.cache.get_or_set("x", make) == value
    assert make.calls == 1


async def test_names_are_apart(resources: "Resources") -> None:
    """Each name has a value of its own."""
    assert await resources.cache.get_or_set("one", Maker(1)) == 1
    assert await resources.cache.get_or_set("other", Maker(2)) == 2


async def test_values_do_not_live_for_ever(resources: "Resources", eventually: Callable[..., Any]) -> None:
    """Each has an end: the caller's, or CACHE_TTL_SECONDS; after it the value is made again."""
    await resources.cache.get_or_set("usual", Maker(1))
    assert 0 < await resources.cache.redis.ttl("usual") <= resources.settings.cache.ttl_seconds
    make = Maker(1)
    await resources.cache.get_or_set("short", make, ttl_seconds=1)
    assert 0 <= await resources.cache.redis.ttl("short") <= 1

    async def made_again() -> bool:
        await resources.cache.get_or_set("short", make, ttl_seconds=1)
        return make.calls == 2

    await eventually(made_again)


async def test_an_error_of_the_maker_is_the_callers(resources: "Resources") -> None:
    """And nothing is kept of it."""

    async def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await resources.cache.get_or_set("x", fail)
    assert await resources.cache.get_or_set("x", Maker(1)) == 1


async def test_a_dead_redis_costs_no_time(settings_with: "SettingsWith", dead_port: int) -> None:
    """The value is made each time, at once."""
    cache = Cache(settings_with(CACHE_URL=f"redis://:x@127.0.0.1:{dead_port}/0").cache)
    make = Maker(7)
    began = time.monotonic()
    for _ in range(10):
        assert await cache.get_or_set("x", make) == 7
    assert make.calls == 10
    assert time.monotonic() - began < 1
    await cache.close()


async def test_a_silent_redis_costs_its_deadline(resources: "Resources", hung: "Without") -> None:
    """Half a second, not the seconds that the client would try again for; requests at the same time do not add up."""
    await resources.cache.get_or_set("x", Maker(1))
    make = Maker(7)
    with hung("cache"):
        began = time.monotonic()
        assert await asyncio.gather(*(resources.cache.get_or_set("x", make) for _ in range(20))) == [7] * 20
        assert time.monotonic() - began < 2
    assert make.calls == 20
    assert await resources.cache.get_or_set("x", make) == 1


async def test_a_restart_of_redis_is_not_noticed(resources: "Resources", without: "Without") -> None:
    """Connections that the pool held are replaced; the first request after the restart is served from the cache."""
    await resources.cache.get_or_set("x", Maker(1))
    await asyncio.to_thread(_restart, without)
    await resources.cache.get_or_set("x", Maker(2))
    assert await resources.cache.get_or_set("x", Maker(3)) == 2


def _restart(without: "Without") -> None:
    with without("cache"):
        pass
