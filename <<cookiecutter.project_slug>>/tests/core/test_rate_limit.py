"""Limits: the same for all processes together, and never a reason not to serve."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from app.core.cache import Cache
from app.core.circuit import State
from app.core.errors import MEDIA_TYPE
from app.core.rate_limit import SLICES, Limit, Limiter, RateLimited, network

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.core.resources import Resources
    from app.core.security import Principal
    from app.core.settings import Settings
    from tests.core.conftest import OpenApp, SettingsWith, Without


async def passed(limiter: Limiter, limit: Limit, who: str, times: int) -> int:
    """How many of so many times were let through."""
    count = 0
    for _ in range(times):
        try:
            await limiter.take(limit, who)
        except RateLimited:
            continue
        count += 1
    return count


async def asked_redis(resources: "Resources") -> int:
    """How many scripts Redis has run."""
    found = await resources.cache.redis.info("commandstats")
    return int(found.get("cmdstat_evalsha", {}).get("calls", 0))


async def test_exactly_so_many(resources: "Resources") -> None:
    """Of each name and each person; who is refused is told when to come back."""
    limit = Limit("test", 5, 3600)
    assert await passed(resources.limiter, limit, "one", 20) == 5
    assert await passed(resources.limiter, limit, "other", 20) == 5
    assert await passed(resources.limiter, Limit("further", 3, 3600), "one", 20) == 3
    with pytest.raises(RateLimited) as refused:
        await resources.limiter.take(limit, "one")
    headers = refused.value.headers
    seconds = int(headers["Retry-After"])
    assert 0 < seconds <= 7200
    assert headers["RateLimit-Policy"] == '"test";q=5;w=3600'
    assert headers["RateLimit"] == f'"test";r=0;t={seconds}'


@pytest.mark.parametrize("amount", [20, 100, 300])
async def test_two_processes_share_a_limit(resources: "Resources", settings: "Settings", amount: int) -> None:
    """Each takes slices: together never more, and at most a tenth less; nine requests of ten ask nobody."""
    limit = Limit("shared", amount, 3600, sliced=True)
    cache = Cache(settings.cache)
    one, other = Limiter(resources.cache), Limiter(cache)
    before = await asked_redis(resources)
    first, second = await asyncio.gather(
        passed(one, limit, "somebody", amount), passed(other, limit, "somebody", amount)
    )
    assert 0.9 * amount <= first + second <= amount
    assert await asked_redis(resources) - before <= SLICES + 2 + 2
    await cache.close()


async def test_many_at_once_are_counted_right(resources: "Resources") -> None:
    """Also where they all ask before the first answer."""
    limit = Limit("burst", 40, 3600, sliced=True)
    results = await asyncio.gather(
        *(resources.limiter.take(limit, "somebody") for _ in range(100)), return_exceptions=True
    )
    assert 36 <= sum(result is None for result in results) <= 40


async def test_a_burst_takes_no_more_than_it_needs(resources: "Resources") -> None:
    """However many come at once: what is used up is what they asked for and at most one slice, and two questions are enough."""
    limit = Limit("rush", 300, 3600, sliced=True)
    before = await asked_redis(resources)
    await asyncio.gather(*(resources.limiter.take(limit, "somebody") for _ in range(50)))
    assert await asked_redis(resources) - before <= 2
    used = sum(int(count) for count in await resources.cache.redis.hvals("limit:rush:somebody"))
    assert 50 <= used <= 50 + 300 // SLICES
    assert await passed(resources.limiter, limit, "somebody", 300) == 250, "nothing of it is lost"


async def test_a_window_slides(resources: "Resources", eventually: Callable[..., Any]) -> None:
    """Who has used up the limit may ask again when told, not sooner, and never twice as much in one length of it."""
    limit = Limit("sliding", 10, 1)
    assert await passed(resources.limiter, limit, "somebody", 10) == 10
    with pytest.raises(RateLimited) as refused:
        await resources.limiter.take(limit, "somebody")
    assert refused.value.headers["Retry-After"] in ("1", "2")
    began = time.monotonic()
    count = 0
    while time.monotonic() - began < 1:
        count += await passed(resources.limiter, limit, "somebody", 1)
        await asyncio.sleep(0.02)
    assert 1 <= count <= 11

    async def again() -> bool:
        return await passed(resources.limiter, limit, "somebody", 1) == 1

    await eventually(again, 5)


async def test_a_dead_redis_does_not_lift_the_limit(settings_with: "SettingsWith", dead_port: int) -> None:
    """Each process counts by itself, at once."""
    cache = Cache(settings_with(CACHE_URL=f"redis://:x@127.0.0.1:{dead_port}/0").cache)
    limiter = Limiter(cache)
    began = time.monotonic()
    for sliced in (True, False):
        assert await passed(limiter, Limit(f"alone-{sliced}", 30, 3600, sliced=sliced), "somebody", 100) == 30
    assert time.monotonic() - began < 1
    await cache.close()


async def test_a_silent_redis_costs_a_few_their_deadline(settings: "Settings", hung: "Without") -> None:
    """Then the circuit is open, and everybody is served at once."""
    cache = Cache(settings.cache)
    limiter = Limiter(cache)
    limit = Limit("silent", 1000, 3600)
    with hung("cache"):
        await asyncio.gather(*(limiter.take(limit, str(number)) for number in range(6)))
        assert cache.circuit.state == State.OPEN
        began = time.monotonic()
        assert await passed(limiter, limit, "somebody", 100) == 100
        assert time.monotonic() - began < 0.4
    await cache.close()


async def test_a_burst_waits_for_a_silent_redis_together(settings: "Settings", hung: "Without") -> None:
    """Fewer questions than open the circuit: nobody stands in a queue of people who each wait for a deadline."""
    cache = Cache(settings.cache)
    limiter = Limiter(cache)
    limit = Limit("silent", 300, 3600, sliced=True)
    with hung("cache"):
        await asyncio.gather(*(limiter.take(limit, "somebody") for _ in range(100)))
        assert cache.circuit.state == State.CLOSED
    await cache.close()


async def test_everybody_signed_in_has_a_limit(
    make_app: "Callable[[Settings], FastAPI]",
    visit: "OpenApp",
    settings_with: "SettingsWith",
    resources: "Resources",
    headers_for: "Callable[[Principal], dict[str, str]]",
    principal: "Principal",
) -> None:
    """A problem document with the headers; somebody else does not notice, and 0 lifts it."""
    from uuid import uuid4

    from app.core.security import Principal

    async with visit(make_app(settings_with(LIMITS_PER_USER="5", LIMITS_SENSITIVE="1000"))) as client:
        mine = headers_for(principal)
        answers = [await client.post("/api/v1/realtime/tickets", headers=mine) for _ in range(8)]
        assert [answer.status_code for answer in answers] == [201] * 5 + [429] * 3
        refused = answers[-1]
        assert refused.headers["content-type"] == MEDIA_TYPE
        assert refused.json()["code"] == "too_many_requests"
        assert refused.headers["ratelimit-policy"] == '"user";q=5;w=60'
        assert int(refused.headers["retry-after"]) > 0
        other = headers_for(Principal(uuid4(), frozenset()))
        assert (await client.post("/api/v1/realtime/tickets", headers=other)).status_code == 201
    await resources.cache.redis.flushall()
    async with visit(make_app(settings_with(LIMITS_PER_USER="0", LIMITS_SENSITIVE="3"))) as client:
        statuses = [(await client.post("/api/v1/realtime/tickets", headers=mine)).status_code for _ in range(5)]
        assert statuses == [201] * 3 + [429] * 2


async def test_every_address_has_a_limit_where_nothing_stands_in_front(
    make_app: "Callable[[Settings], FastAPI]",
    visit: "OpenApp",
    settings_with: "SettingsWith",
    resources: "Resources",
) -> None:
    """Every route but those that the platform asks; an address of somebody else is not touched by it."""
    app = make_app(settings_with(LIMITS_PER_CLIENT="5"))
    async with visit(app) as client:
        answers = [await client.get("/api/v1/nothing") for _ in range(7)]
        assert [answer.status_code for answer in answers] == [404] * 5 + [429] * 2
        refused = answers[-1]
        assert refused.headers["content-type"] == MEDIA_TYPE
        assert refused.headers["x-request-id"] == refused.json()["request_id"]
        assert refused.headers["ratelimit-policy"] == '"client";q=5;w=60'
        assert (await client.get("/health")).status_code == 200
        transport = httpx.ASGITransport(app, client=("192.0.2.7", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as other:
            # Written by the client, so it says nothing: whom to believe is the server's setting.
            forged = {"X-Forwarded-For": "127.0.0.1"}
            assert (await other.get("/api/v1/nothing", headers=forged)).status_code == 404


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_an_address_is_a_subscriber(address: str, expected: str) -> None:
    """Of IPv6 everybody has 2**64."""
    assert network(address) == expected
