"""The cache: faster when it is there, no worse when it is not."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from app.core.cache import Cache, cached
from app.core.circuit import State

if TYPE_CHECKING:
    from app.core.resources import Resources
    from app.core.settings import Settings
    from tests.core.conftest import SettingsWith, Without

# So that a change of the keys is noticed: it empties every cache at the next deploy.
KNOWN = "3a44dc33bb74410a358339c3c2701d34"


class Maker:
    """Makes a value, and knows how often it was asked."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.calls = 0

    async def __call__(self) -> Any:
        """Make it."""
        self.calls += 1
        return self.value


class Slow(Maker):
    """Says when it has begun, and goes on when it is told."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> Any:
        """Make it."""
        self.calls += 1
        self.begun.set()
        await self.go.wait()
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


async def test_a_silent_redis_costs_a_few_their_deadline(settings: "Settings", hung: "Without") -> None:
    """Half a second, and only until the circuit opens; then nobody waits for it, and later it is used again."""
    cache = Cache(settings.cache)
    make = Maker(7)
    with hung("cache"):
        began = time.monotonic()
        assert await asyncio.gather(*(cache.get_or_set("one", make) for _ in range(20))) == [7] * 20
        assert make.calls == 1
        await asyncio.gather(*(cache.get_or_set(f"x{number}", make) for number in range(10)))
        assert time.monotonic() - began < 4
        assert cache.circuit.state == State.OPEN
        began = time.monotonic()
        for number in range(50):
            await cache.get_or_set(f"y{number}", make)
        assert time.monotonic() - began < 0.5
    await cache.close()


async def test_a_restart_of_redis_is_not_noticed(resources: "Resources", without: "Without") -> None:
    """Connections that the pool held are replaced; the first request after the restart is served from the cache."""
    await resources.cache.get_or_set("x", Maker(1))
    await asyncio.to_thread(_restart, without)
    await resources.cache.get_or_set("x", Maker(2))
    assert await resources.cache.get_or_set("x", Maker(3)) == 2


async def test_many_at_once_make_it_once(settings: "Settings", resources: "Resources") -> None:
    """In a process and among processes: each `Cache` here is one of them."""
    make = Slow(1)
    other = Cache(settings.cache)
    asked = [cache.get_or_set("x", make) for cache in (resources.cache, other) for _ in range(20)]
    waiting = asyncio.gather(*asked)
    await make.begun.wait()
    await asyncio.sleep(0.05)  # the other process has looked meanwhile
    make.go.set()
    assert await waiting == [1] * 40
    assert make.calls == 1
    await other.close()


async def test_who_gives_up_waiting_does_not_end_it_for_others(resources: "Resources") -> None:
    """The first one to ask is not the owner of the work."""
    make = Slow(1)
    first = asyncio.create_task(resources.cache.get_or_set("x", make))
    await make.begun.wait()
    second = asyncio.create_task(resources.cache.get_or_set("x", make))
    await asyncio.sleep(0)
    first.cancel()
    make.go.set()
    assert await second == 1
    assert make.calls == 1


async def test_a_maker_that_died_is_not_waited_for(settings: "Settings", resources: "Resources") -> None:
    """One that failed lets the next one try at once; the lock of one that was killed ends by itself."""
    make = Slow(1)
    other = Cache(settings.cache)

    async def fail() -> None:
        make.begun.set()
        await make.go.wait()
        raise ValueError("mine")

    failing = asyncio.create_task(resources.cache.get_or_set("x", fail))
    await make.begun.wait()
    asked = asyncio.create_task(other.get_or_set("x", Maker(2)))
    await asyncio.sleep(0.02)
    make.go.set()
    with pytest.raises(ValueError, match="mine"):
        await failing
    assert await asked == 2
    assert await resources.cache.redis.set("y:lock", "a killed one", nx=True, px=200)
    assert await other.get_or_set("y", Maker(3)) == 3
    await other.close()


async def test_what_was_made_before_forgetting_is_not_kept(resources: "Resources") -> None:
    """Who asks after it gets a new value, though the old one comes later."""
    make = Slow("old")
    first = asyncio.create_task(resources.cache.get_or_set("x", make))
    await make.begun.wait()
    await resources.cache.forget("x")
    assert await resources.cache.get_or_set("x", Maker("new")) == "new"
    make.go.set()
    assert await first == "old"
    assert await resources.cache.get_or_set("x", Maker("newer")) == "new"


async def test_a_decorated_function(resources: "Resources") -> None:
    """One value for the same arguments, however they are given; another for others."""
    calls: list[tuple[int, str]] = []

    @cached("test.price", ttl_seconds=60)
    async def price(resources: "Resources", number: int, unit: str = "EUR") -> tuple[int, str]:
        calls.append((number, unit))
        return number, unit

    for _ in range(2):
        # A list and not a tuple, the first time as well: it comes back from JSON.
        assert await price(resources, 1) == [1, "EUR"]  # type: ignore[comparison-overlap]
        await price(resources, 1, "EUR")
        await price(resources, unit="EUR", number=1)
        await price(resources, 1, unit="USD")
        await price(resources, 2)
    assert calls == [(1, "EUR"), (1, "USD"), (2, "EUR")]
    assert price.key(1) == "cache:test.price:v1:" + price.key(1).rpartition(":")[2]
    await price.forget(resources, 1)
    await price(resources, 1)
    await price(resources, 2)
    assert calls[3:] == [(1, "EUR")]
    await price.forget_all(resources)
    await price(resources, 1)
    await price(resources, 2)
    assert calls[4:] == [(1, "EUR"), (2, "EUR")]
    # A generation that was evicted must not bring back values from before.
    await resources.cache.redis.delete("cache:test.price:v1:generation")
    await price(resources, 1)
    assert calls[6:] == [(1, "EUR")]


def test_keys_are_stable() -> None:
    """The same in every process and after every restart; another version is another namespace."""

    async def function(_: "Resources", what: Any) -> Any:
        return what

    key = cached("test.any")(function).key({"b": 1, "a": [None, True]})
    assert key == "cache:test.any:v1:" + KNOWN
    assert key == cached("test.any")(function).key({"a": [None, True], "b": 1})
    assert key != cached("test.any", version=2)(function).key({"b": 1, "a": [None, True]})
    with pytest.raises(TypeError):
        cached("test.any")(function).key(object())


async def test_lives_differ(resources: "Resources") -> None:
    """What was kept in the same moment does not end in the same one."""
    for number in range(20):
        await resources.cache.get_or_set(f"x{number}", Maker(1), ttl_seconds=1000)
    lives = {await resources.cache.redis.ttl(f"x{number}") for number in range(20)}
    assert len(lives) > 5
    assert min(lives) >= 890
    assert max(lives) <= 1000


async def test_what_cannot_be_read_is_made_again(resources: "Resources") -> None:
    """As what another program left under the name."""
    await resources.cache.redis.set("x", "what is this")
    assert await resources.cache.get_or_set("x", Maker(1)) == 1


def _restart(without: "Without") -> None:
    with without("cache"):
        pass
