"""A circuit breaker: what keeps failing is refused at once for a while, instead of costing its deadline every time.

    circuit = Circuit("sms", counts=(OSError, httpx.TransportError))

    async with circuit.guard():
        await call_the_neighbour()

Closed, it counts failures in a row. After `failures` of them it opens: every guard raises `CircuitOpen` without trying.
After `open_seconds` one call is let through as a probe while the others are still refused; when it succeeds the circuit
closes, when it fails it stays open for as long again. Each process has circuits of its own.
"""

import time
from enum import StrEnum
from math import ceil
from types import TracebackType

import structlog

from app.core import metrics
from app.core.errors import Unavailable

log = structlog.get_logger(__name__)


class CircuitOpen(Unavailable):
    """A neighbour failed so often lately that it was not asked."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__()
        self.headers = {"Retry-After": str(max(1, ceil(seconds)))}
        self.args = (f"circuit {name!r} is open",)


class State(StrEnum):
    """How a circuit is."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Circuit:
    """One neighbour's breaker; safe to share between coroutines of one event loop.

    Args:
        name: of the neighbour, for the log and the metric `circuit_open`.
        failures: so many in a row open it.
        open_seconds: how long nothing is tried then.
        counts: exceptions that say the neighbour is away. Any other one is an answer, so it counts as success.
    """

    def __init__(
        self,
        name: str,
        failures: int = 5,
        open_seconds: float = 5.0,
        *,
        counts: tuple[type[Exception], ...] = (OSError, TimeoutError),
    ) -> None:
        self.name = name
        self.counts = counts
        self._failures = failures
        self._open_seconds = open_seconds
        self._failed = 0
        self._opened_at: float | None = None
        self._probe: Guard | None = None
        # A call that began before the circuit changed tells nothing about the time after.
        self._epoch = 0
        metrics.CIRCUIT_OPEN.labels(name).set(0)

    @property
    def state(self) -> State:
        """Closed, open, or half-open: the next call, or the one that is under way, is the probe."""
        if self._opened_at is None:
            return State.CLOSED
        return State.OPEN if self._seconds_left(self._opened_at) > 0 else State.HALF_OPEN

    def guard(self) -> "Guard":
        """A context for one call.

        Raises:
            CircuitOpen: on entering, when the neighbour is not to be asked now.
        """
        return Guard(self)

    def _seconds_left(self, opened_at: float) -> float:
        return opened_at + self._open_seconds - time.monotonic()

    def _enter(self, guard: "Guard") -> int:
        if self._opened_at is not None:
            left = self._seconds_left(self._opened_at)
            if left > 0 or self._probe is not None:
                raise CircuitOpen(self.name, left)
            self._probe = guard
        return self._epoch

    def _leave(self, guard: "Guard") -> None:
        if self._probe is guard:
            self._probe = None

    def _succeed(self, epoch: int) -> int:
        if epoch != self._epoch:
            return epoch
        self._failed = 0
        if self._opened_at is not None:
            self._change(None)
            log.info("circuit_closed", circuit=self.name)
        return self._epoch

    def _fail(self, epoch: int, error: BaseException) -> None:
        if epoch == self._epoch:
            self._failed += 1
            if self._opened_at is not None or self._failed >= self._failures:
                self._change(time.monotonic())
                log.warning("circuit_opened", circuit=self.name, failures=self._failed, error=type(error).__name__)

    def _change(self, opened_at: float | None) -> None:
        self._epoch += 1
        self._opened_at = opened_at
        metrics.CIRCUIT_OPEN.labels(self.name).set(0 if opened_at is None else 1)


class Guard:
    """One call through a circuit; made by `Circuit.guard`."""

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit
        self._epoch = 0
        self._failed = False

    def succeeded(self) -> None:
        """Say early that the neighbour works, as at the first piece of a long stream: a probe holds up the others.

        For any call but a probe it says nothing: a stream that breaks off later has failed.
        """
        if self._circuit._probe is self:
            # What happens later in the same call belongs to the time after.
            self._epoch = self._circuit._succeed(self._epoch)
            self._circuit._leave(self)

    def failed(self, error: Exception) -> None:
        """Say that the neighbour failed, where nobody lets the exception through to the end of the block."""
        self._failed = True
        self._circuit._fail(self._epoch, error)

    async def __aenter__(self) -> "Guard":
        self._epoch = self._circuit._enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A call that was cancelled tells nothing; the next one is the probe then.
        if self._failed:
            pass
        elif isinstance(error, self._circuit.counts):
            self._circuit._fail(self._epoch, error)
        elif error is None or isinstance(error, Exception):
            self._circuit._succeed(self._epoch)
        self._circuit._leave(self)
