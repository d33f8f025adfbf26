"""Celery beat that may run twice: only the one with the lock ticks.

The lock is a key in the broker that its owner renews every second. When the owner dies it runs out, and a beat that
waits takes over; when the owner ends in an orderly way it is free at once. Not a lock of PostgreSQL: those belong to a
session, which poolers in transaction mode do not keep.
"""

import time
from typing import Any

import structlog
from celery import Celery
from celery.beat import PersistentScheduler, ScheduleEntry
from redis import Redis
from redis.exceptions import LockError, RedisError

log = structlog.get_logger(__name__)

KEY = "beat-lock"
# How long a dead beat is missed. A living one has renewed four times by then.
LIFE_SECONDS = 5.0
TIMEOUT_SECONDS = 1.0
# How often the lock is renewed, or asked for.
BEAT_INTERVAL_SECONDS = 1.0


class BeatLock:
    """Held by one beat at a time.

    Args:
        url: address of the broker.
        life: seconds after which it is lost unless renewed.
    """

    def __init__(self, url: str, life: float = LIFE_SECONDS) -> None:
        self._life = life
        self._redis = Redis.from_url(url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS)
        self._lock = self._redis.lock(KEY, timeout=life, blocking=False, thread_local=False)
        self._until = 0.0
        self._waiting = False

    @property
    def held(self) -> bool:
        """Whether it is certainly ours at this moment. By our own clock, so that a process that was held still knows."""
        return time.monotonic() < self._until

    def renew(self) -> bool:
        """Keep the lock, or try to get it; returns whether it is ours."""
        began = time.monotonic()
        try:
            if self._until:
                self._lock.reacquire()
            elif not self._lock.acquire():
                self._wait()
                return False
            else:
                log.info("beat_lock_taken")
        except LockError:  # it ran out, and may be another's by now
            log.warning("beat_lock_lost")
            self._until = 0.0
            return False
        except (RedisError, OSError) as error:
            log.warning("beat_lock_not_renewed", error=repr(error))
            return self.held
        self._waiting = False
        self._until = began + self._life
        return True

    def release(self) -> None:
        """Let the next one have it."""
        if self.held:
            try:
                self._lock.release()
            except (RedisError, OSError) as error:
                log.warning("beat_lock_not_released", error=repr(error))
        self._until = 0.0
        self._redis.close()

    def _wait(self) -> None:
        if not self._waiting:
            log.info("beat_waits", reason="another beat has the lock")
        self._waiting = True


class LockedScheduler(PersistentScheduler):
    """Celery's scheduler, for the beat that has the lock; another one waits."""

    def __init__(self, app: Celery, *args: Any, **kwargs: Any) -> None:
        # The setting itself: the address of a connection has lost what it says of certificates.
        self._lock = BeatLock(app.conf.broker_url)
        super().__init__(app, *args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send at most one task that is due; returns the seconds until the next look."""
        if not self._lock.renew():
            return BEAT_INTERVAL_SECONDS
        seconds: float = super().tick(*args, **kwargs)
        return seconds

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:
        """Send a task; not when this process was held still since it last renewed the lock."""
        if self._lock.held:
            super().apply_entry(entry, producer)
        else:
            log.warning("beat_tick_dropped", entry=entry.name)

    def close(self) -> None:
        """Write the schedule down and free the lock."""
        super().close()
        self._lock.release()
