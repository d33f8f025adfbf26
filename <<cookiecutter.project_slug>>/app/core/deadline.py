"""A deadline for every request, whatever it waits for: nobody hangs.

Neighbours have deadlines of their own, which are shorter; this one holds for their sum, and for what was forgotten. One
timer of the process looks after all requests: a timer for each would cost more than the rest of the middleware.
"""

import asyncio
import math
import time

import structlog

from app.core import metrics
from app.core.errors import Unavailable

log = structlog.get_logger(__name__)

NEVER = math.inf
TICK_SECONDS = 0.25
# A loop that comes this late to its timer has been held by code that does not await.
BLOCKED_SECONDS = 1.0


class DeadlineExceeded(Unavailable):
    """No answer within HTTP_REQUEST_SECONDS."""

    detail = "This took too long. Try again shortly."


class Deadline:
    """One request's.

    Attributes:
        due: when it ends, by the monotonic clock.
        over: whether it has ended, and the request with it.
        begun: whether the answer has.
    """

    __slots__ = ("begun", "due", "over", "task")

    def __init__(self, task: "asyncio.Task[object] | None", due: float) -> None:
        self.task = task
        self.due = due
        self.over = False
        self.begun = False

    def answered(self) -> None:
        """The answer has begun, and takes as long as it takes."""
        self.begun = True
        self.due = NEVER

    def move(self, due: float) -> None:
        """It ends at another time, unless the answer has begun."""
        if not self.begun:
            self.due = due


class Deadlines:
    """The requests under way. Also notices when the event loop itself is held up, as only code that blocks does.

    Args:
        seconds: how long a request may take, unless its deadline is moved.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._under_way: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> Deadline:
        """The current task serves a request from now on."""
        deadline = Deadline(asyncio.current_task(), time.monotonic() + self._seconds)
        self._under_way.add(deadline)
        if self._timer is None:
            self._start_timer()
        return deadline

    def end(self, deadline: Deadline) -> None:
        """It has served it."""
        self._under_way.discard(deadline)
        if deadline.over and deadline.task:
            deadline.task.uncancel()

    def _start_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick, time.monotonic() + TICK_SECONDS)

    def _tick(self, expected: float) -> None:
        now = time.monotonic()
        late = max(0.0, now - expected)
        metrics.LOOP_LAG_SECONDS.labels("api").observe(late)
        if late > BLOCKED_SECONDS:
            log.warning("event_loop_blocked", seconds=round(late, 2))
        for deadline in self._under_way:
            if now > deadline.due and deadline.task:
                deadline.over = True
                deadline.due = NEVER
                deadline.task.cancel()
        self._timer = None
        if self._under_way:
            self._start_timer()
