"""Events: kept for who may come back, told apart by person, never at the cost of the work that they tell of."""

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import orjson
import pytest
from prometheus_client import REGISTRY

from app.core.cache import Cache
from app.core.events import MAX_BYTES, Events, Position, channel, read_message

if TYPE_CHECKING:
    from app.core.resources import Resources
    from tests.core.conftest import SettingsWith


def published(outcome: str) -> float:
    """How many events ended so."""
    return REGISTRY.get_sample_value("events_published_total", {"outcome": outcome}) or 0


async def begin(events: Events, user_id: UUID) -> Position:
    """Somebody connects for the first time."""
    return (await events.since(user_id, None)).position


async def test_what_was_missed_comes_in_order_and_once(resources: "Resources") -> None:
    """From any position on, and nothing of another person."""
    one, other = uuid4(), uuid4()
    start = await begin(resources.events, one)
    await begin(resources.events, other)
    for number in range(5):
        await resources.events.publish(one, "thing.made", {"n": number})
    await resources.events.publish(other, "thing.made", {"n": "other"})
    missed = await resources.events.since(one, start)
    frames = [orjson.loads(event.frame()) for event in missed.events]
    assert [frame["data"]["n"] for frame in frames] == [0, 1, 2, 3, 4]
    assert {frame["type"] for frame in frames} == {"event"}
    assert {frame["kind"] for frame in frames} == {"thing.made"}
    assert frames[-1]["id"] == str(missed.position)
    middle = Position.parse(frames[2]["id"])
    rest = await resources.events.since(one, middle)
    assert rest.complete
    assert [orjson.loads(event.frame())["data"]["n"] for event in rest.events] == [3, 4]
    assert (await resources.events.since(one, missed.position)).events == []


async def test_a_gap_is_told(resources: "Resources", settings_with: "SettingsWith") -> None:
    """Whether the oldest went for want of room, everything was evicted, or the position was never ours."""
    events = Events(settings_with(WS_RESUME_EVENTS="3").ws, resources.cache)
    user_id = uuid4()
    start = await begin(events, user_id)
    for _ in range(2):
        await events.publish(user_id, "thing.made", {})
    assert (await events.since(user_id, start)).complete
    await events.publish(user_id, "thing.made", {})
    trimmed = await events.since(user_id, start)
    assert not trimmed.complete
    assert trimmed.events == []
    assert (await events.since(user_id, trimmed.position)).complete
    redis = resources.cache.redis
    # Redis names an event by its millisecond: a stream that is made anew in the same one begins with the same name.
    while (now := await redis.time())[0] * 1000 + now[1] // 1000 <= trimmed.position.milliseconds:
        pass
    await redis.delete(f"events:stream:{user_id}")
    evicted = await events.since(user_id, trimmed.position)
    assert not evicted.complete
    future = Position(evicted.position.milliseconds + 60_000, 0)
    assert not (await events.since(user_id, future)).complete


async def test_events_are_bounded(resources: "Resources") -> None:
    """In number, in life, in size; and whoever was not here lately costs nothing at all."""
    redis, user_id, stranger = resources.cache.redis, uuid4(), uuid4()
    await resources.events.publish(stranger, "thing.made", {})
    assert await redis.exists(f"events:stream:{stranger}") == 0
    start = await begin(resources.events, user_id)
    too_large = published("too_large")
    await resources.events.publish(user_id, "thing.made", {"text": "x" * MAX_BYTES})
    assert published("too_large") == too_large + 1
    assert (await resources.events.since(user_id, start)).events == []
    for _ in range(resources.settings.ws.resume_events + 5):
        await resources.events.publish(user_id, "thing.made", {})
    assert await redis.xlen(f"events:stream:{user_id}") == resources.settings.ws.resume_events
    assert 0 < await redis.ttl(f"events:stream:{user_id}") <= resources.settings.ws.resume_seconds


async def test_who_listens_hears_at_once(resources: "Resources") -> None:
    """Also without a stream, as after an eviction; what is heard is what is kept."""
    user_id = uuid4()
    async with resources.cache.redis.pubsub(ignore_subscribe_messages=True) as listener:
        await listener.subscribe(channel(user_id))
        assert await listener.get_message(timeout=5) is None
        await resources.events.publish(user_id, "thing.made", {"n": 1})
        await resources.events.disconnect(user_id)
        heard = [await listener.get_message(timeout=5) for _ in range(2)]
    event, end = (read_message(message["data"]) for message in heard)
    assert event
    assert orjson.loads(event.frame())["data"] == {"n": 1}
    assert (await resources.events.since(user_id, None)).position == event.position
    assert end is None


async def test_disconnecting_moves_the_gate(resources: "Resources") -> None:
    """So that a ticket from before can be told from one after."""
    user_id = uuid4()
    before = await resources.events.gate(user_id)
    assert (await resources.events.since(user_id, None)).gate == before
    await resources.events.disconnect(user_id)
    after = await resources.events.gate(user_id)
    assert after != before
    assert (await resources.events.since(user_id, None)).gate == after


async def test_a_dead_redis_costs_the_event_and_nothing_else(settings_with: "SettingsWith", dead_port: int) -> None:
    """Neither an error nor time; it is counted."""
    settings = settings_with(CACHE_URL=f"redis://:x@127.0.0.1:{dead_port}/0")
    cache = Cache(settings.cache)
    events = Events(settings.ws, cache)
    lost = published("lost")
    async with asyncio.timeout(2):
        for _ in range(20):
            await events.publish(uuid4(), "thing.made", {})
        await events.disconnect(uuid4())
    assert published("lost") == lost + 20
    await cache.close()


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "1-2-3", "x-1", "1-1\n", "9" * 17 + "-0", "(1-1"])
def test_positions_that_are_none(text: str) -> None:
    """A client's word is not handed to Redis unread."""
    assert Position.parse(text) is None
