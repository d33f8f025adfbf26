"""Two beats: one ticks, the other waits and takes over."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis

from app.core.beat import LIFE_SECONDS, BeatLock, LockedScheduler
from app.core.tasks import Queue, celery_app

if TYPE_CHECKING:
    from app.core.resources import Resources
    from app.core.settings import Settings
    from tests.core.conftest import RunService, Service, Without

Until = Callable[..., Any]


@pytest.fixture
def lock(settings: "Settings", resources: "Resources") -> Iterator[Callable[[float], BeatLock]]:
    """Makes locks of a given life, as many beats would."""
    made: list[BeatLock] = []

    def make(life: float = LIFE_SECONDS) -> BeatLock:
        made.append(BeatLock(settings.broker.address(), life))
        return made[-1]

    yield make
    for each in made:
        each.release()


def test_one_at_a_time(lock: Callable[..., BeatLock]) -> None:
    """The second has it only once the first has let it go, and the first keeps it by renewing."""
    first, second = lock(), lock()
    assert [first.renew(), second.renew(), second.renew(), first.renew()] == [True, False, False, True]
    assert (first.held, second.held) == (True, False)
    first.release()
    assert second.renew()
    assert not first.renew()


def test_what_was_not_renewed_is_lost(lock: Callable[..., BeatLock], until: Until) -> None:
    """A process that was held still knows by its own clock that its time is over, and does not take the lock back."""
    first, second = lock(0.3), lock(5.0)
    assert first.renew()
    until(second.renew, 5)
    assert not first.held
    assert not first.renew()
    assert second.held


def test_without_the_broker_it_is_held_no_longer_than_sure(
    lock: Callable[..., BeatLock], hung: "Without", until: Until
) -> None:
    """The lock cannot be renewed: it counts until its life is over, and not a moment longer."""
    mine = lock(2.0)
    assert mine.renew()
    with hung("broker"):
        assert mine.renew(), "one answer that does not come loses nothing"
        until(lambda: not mine.held, 5)
        assert not mine.renew()
    until(mine.renew, 5)


def test_a_tick_without_the_lock_is_dropped(
    settings: "Settings", resources: "Resources", lock: Callable[..., BeatLock], tmp_path: Path
) -> None:
    """Between looking at the lock and sending, a process may have been held still for any time."""
    app = celery_app(settings)
    app.conf.beat_schedule = {"x": {"task": "probe.tick", "schedule": 3600.0, "options": {"queue": "medium"}}}
    scheduler = LockedScheduler(app, schedule_filename=str(tmp_path / "schedule"))
    try:
        (entry,) = scheduler.schedule.values()
        scheduler.apply_entry(entry)
        assert scheduler.tick() >= 0
        scheduler.apply_entry(entry)
    finally:
        scheduler.close()
    with Redis.from_url(settings.broker.address()) as redis:
        assert redis.llen("medium") == 1


def test_the_second_takes_over(
    run_service: "RunService", resources: "Resources", probe: ModuleType, tmp_path: Path, until: Until
) -> None:
    """`kill -9` of the one that ticks, and a stop of the next: each time another one ticks within seconds."""

    def start(number: int) -> "Service":
        return run_service("beat", "--schedule", str(tmp_path / f"schedule-{number}"))

    def holds(service: "Service") -> bool:
        return "beat_lock_taken" in service.log.read_text()

    def ticks() -> int:
        return sum(redis.llen(queue) for queue in Queue)

    with Redis.from_url(resources.settings.broker.address()) as redis:
        first, second = start(1), start(2)
        until(lambda: ticks() >= 2)
        one, other = (first, second) if holds(first) else (second, first)
        until(lambda: "beat_waits" in other.log.read_text())
        assert not holds(other)
        third = start(3)
        until(lambda: "beat_waits" in third.log.read_text())
        os.kill(one.process.pid, signal.SIGKILL)
        one.process.wait(10)
        sent, began = ticks(), time.monotonic()
        until(lambda: ticks() > sent)
        assert time.monotonic() - began < LIFE_SECONDS + 4
        assert holds(other) != holds(third)
        heir, last = (other, third) if holds(other) else (third, other)
        heir.process.terminate()
        heir.process.wait(10)
        sent, began = ticks(), time.monotonic()
        until(lambda: ticks() > sent)
        assert time.monotonic() - began < LIFE_SECONDS
        assert holds(last)
