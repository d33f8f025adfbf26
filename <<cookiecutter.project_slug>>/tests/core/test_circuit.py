"""The circuit breaker: it opens, refuses at once, tries with one call alone, and closes by itself."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY

from app.core.circuit import Circuit, CircuitOpen, State

Eventually = Callable[..., Awaitable[Any]]

OPEN_SECONDS = 0.1


class Neighbour:
    """Something to call: away, or not, or never answering.

    Attributes:
        fault: raised by every call while it is set.
        calls: how often it was asked.
        gate: closed, it holds a call until it is opened.
    """

    def __init__(self) -> None:
        self.fault: BaseException | None = None
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def ask(self, circuit: Circuit) -> str:
        """One guarded call."""
        async with circuit.guard():
            self.calls += 1
            await self.gate.wait()
            if self.fault:
                raise self.fault
            return "answer"


@pytest.fixture
def neighbour() -> Neighbour:
    """A neighbour that works."""
    return Neighbour()


@pytest.fixture
def circuit() -> Circuit:
    """A circuit that opens after three failures, for a short time."""
    return Circuit("test", failures=3, open_seconds=OPEN_SECONDS)


def gauge() -> float | None:
    """What the metric says."""
    return REGISTRY.get_sample_value("circuit_open", {"name": "test"})


def state_of(circuit: Circuit) -> State:
    """The state now; the type checker takes a property for a constant."""
    return circuit.state


async def opened(circuit: Circuit, neighbour: Neighbour) -> None:
    """Fail until it is open."""
    neighbour.fault = ConnectionRefusedError("nobody there")
    while state_of(circuit) is State.CLOSED:
        with pytest.raises(ConnectionRefusedError):
            await neighbour.ask(circuit)


async def test_it_opens_after_failures_in_a_row_and_then_asks_nobody(circuit: Circuit, neighbour: Neighbour) -> None:
    """The call that is refused costs nothing and says when to come again."""
    await opened(circuit, neighbour)
    assert (neighbour.calls, gauge()) == (3, 1)
    with pytest.raises(CircuitOpen, match="circuit 'test' is open") as caught:
        await neighbour.ask(circuit)
    assert neighbour.calls == 3
    assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "1"})
    assert "test" not in caught.value.detail


async def test_a_success_between_begins_the_count_anew(circuit: Circuit, neighbour: Neighbour) -> None:
    """Now and then a failure is no outage."""
    for _ in range(4):
        neighbour.fault = OSError()
        for _ in range(2):
            with pytest.raises(OSError):  # noqa: PT011  # it is the very one raised above
                await neighbour.ask(circuit)
        neighbour.fault = None
        await neighbour.ask(circuit)
    assert state_of(circuit) is State.CLOSED


async def test_an_error_that_is_an_answer_does_not_open_it(circuit: Circuit, neighbour: Neighbour) -> None:
    """Who says no is there."""
    neighbour.fault = ValueError("no")
    for _ in range(5):
        with pytest.raises(ValueError, match="no"):
            await neighbour.ask(circuit)
    assert state_of(circuit) is State.CLOSED


async def test_it_closes_by_itself(circuit: Circuit, neighbour: Neighbour, eventually: Eventually) -> None:
    """The first call after the wait is the probe; its success opens the way for all."""
    await opened(circuit, neighbour)
    neighbour.fault = None
    await eventually(lambda: state_of(circuit) is State.HALF_OPEN, 5)
    assert await neighbour.ask(circuit) == "answer"
    assert (state_of(circuit), gauge()) == (State.CLOSED, 0)


async def test_a_failed_probe_keeps_it_open_for_as_long_again(
    circuit: Circuit, neighbour: Neighbour, eventually: Eventually
) -> None:
    """One failure is enough then, not three."""
    await opened(circuit, neighbour)
    await eventually(lambda: state_of(circuit) is State.HALF_OPEN, 5)
    began = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        await neighbour.ask(circuit)
    with pytest.raises(CircuitOpen):
        await neighbour.ask(circuit)
    await eventually(lambda: state_of(circuit) is State.HALF_OPEN, 5)
    assert time.monotonic() - began >= OPEN_SECONDS


async def test_one_probe_at_a_time(circuit: Circuit, neighbour: Neighbour, eventually: Eventually) -> None:
    """A neighbour that comes back is not met by everybody at once."""
    await opened(circuit, neighbour)
    await eventually(lambda: state_of(circuit) is State.HALF_OPEN, 5)
    neighbour.fault, neighbour.calls = None, 0
    neighbour.gate.clear()
    calls = [asyncio.create_task(neighbour.ask(circuit)) for _ in range(20)]
    await asyncio.wait(calls, timeout=0.05)
    assert neighbour.calls == 1
    neighbour.gate.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert answers.count("answer") == 1
    assert sum(isinstance(answer, CircuitOpen) for answer in answers) == 19
    assert await neighbour.ask(circuit) == "answer"


async def test_a_cancelled_probe_does_not_leave_it_stuck(
    circuit: Circuit, neighbour: Neighbour, eventually: Eventually
) -> None:
    """Its caller has gone, which says nothing of the neighbour: the next call is the probe."""
    await opened(circuit, neighbour)
    await eventually(lambda: state_of(circuit) is State.HALF_OPEN, 5)
    neighbour.fault = None
    neighbour.gate.clear()
    probe = asyncio.create_task(neighbour.ask(circuit))
    await eventually(lambda: neighbour.calls == 4, 5)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert state_of(circuit) is State.HALF_OPEN
    neighbour.gate.set()
    assert await neighbour.ask(circuit) == "answer"
    assert state_of(circuit) is State.CLOSED


async def test_a_cancelled_call_is_no_failure(circuit: Circuit, neighbour: Neighbour) -> None:
    """People who leave do not open a circuit."""
    neighbour.gate.clear()
    for _ in range(4):
        call = asyncio.create_task(neighbour.ask(circuit))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert (neighbour.calls, state_of(circuit)) == (4, State.CLOSED)


async def test_what_began_before_says_nothing_of_the_time_after(circuit: Circuit, neighbour: Neighbour) -> None:
    """A slow call that ends while the circuit is open neither closes it nor keeps it open."""
    slow, late = Neighbour(), Neighbour()
    slow.gate.clear()
    late.gate.clear()
    late.fault = OSError("late")
    calls = [asyncio.create_task(slow.ask(circuit)), asyncio.create_task(late.ask(circuit))]
    await asyncio.sleep(0)
    await opened(circuit, neighbour)
    slow.gate.set()
    late.gate.set()
    assert await calls[0] == "answer"
    with pytest.raises(OSError, match="late"):
        await calls[1]
    assert state_of(circuit) is State.OPEN


async def test_a_long_call_can_say_early_that_all_is_well(
    circuit: Circuit, neighbour: Neighbour, eventually: Eventually
) -> None:
    """The probe's first piece lets the others in; what breaks later in it counts as one failure."""
    await opened(circuit, neighbour)
    await eventually(lambda: state_of(circuit) is State.HALF_OPEN, 5)
    neighbour.fault = None

    async def stream() -> None:
        async with circuit.guard() as guard:
            guard.succeeded()
            assert state_of(circuit) is State.CLOSED
            assert await neighbour.ask(circuit) == "answer"
            raise OSError("cut")

    with pytest.raises(OSError, match="cut"):
        await stream()
    assert state_of(circuit) is State.CLOSED
    neighbour.fault = OSError("again")
    for _ in range(2):
        with pytest.raises(OSError, match="again"):
            await neighbour.ask(circuit)
    assert state_of(circuit) is State.OPEN


async def test_what_always_breaks_off_later_opens_it_all_the_same(circuit: Circuit) -> None:
    """A first piece each time is no success."""

    async def stream() -> None:
        async with circuit.guard() as guard:
            guard.succeeded()
            raise OSError("cut")

    for _ in range(3):
        with pytest.raises(OSError, match="cut"):
            await stream()
    assert state_of(circuit) is State.OPEN


async def test_a_failure_that_nobody_raises_counts_once(circuit: Circuit) -> None:
    """Who answers an error with something else says so."""
    for count in range(3):
        assert state_of(circuit) is State.CLOSED, count
        async with circuit.guard() as guard:
            guard.failed(OSError("cut"))
    assert state_of(circuit) is State.OPEN
