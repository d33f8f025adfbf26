"""What every step of the drill has in common: it is timed, has a verdict, and is a line of the table."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from devstack import StackError
from ops.backup.errors import BackupError

T = TypeVar("T")
# What a step found, in words, and how many bytes went through the store, where that means something.
Result = tuple[str, int | None]


class DrillFailed(Exception):
    """A step did not end as it must."""


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    step: str
    seconds: float
    size: int | None
    result: str
    good: bool


class Drill:
    """The steps, each timed, each with its verdict."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    @property
    def good(self) -> bool:
        """Whether every step so far ended as it must."""
        return all(line.good for line in self.lines)

    def head(self) -> None:
        """The first row."""
        print(f"    {'step':52} {'time':>9} {'bytes':>14}  result", flush=True)

    def chapter(self, name: str) -> None:
        """A row between two kinds."""
        print(f"--- {name}", flush=True)

    def step(self, name: str, work: Callable[[], Result]) -> float:
        """Do something that must succeed. Returns how long it took.

        Raises:
            DrillFailed: it did not, so that what follows would mean nothing.
        """
        began = time.monotonic()
        try:
            result, size = work()
        except (BackupError, StackError, DrillFailed, OSError) as error:
            self._note(Line(name, time.monotonic() - began, None, f"FAILED: {error}", good=False))
            raise DrillFailed(name) from error
        seconds = time.monotonic() - began
        self._note(Line(name, seconds, size, result, good=True))
        return seconds

    def refused(
        self, name: str, kind: type[BackupError], look: Callable[[], object], work: Callable[[], object]
    ) -> None:
        """Do something that must be refused.

        Args:
            name: of the step.
            kind: of the refusal.
            look: says how the live data are; the same before and after, or it counts as failed.
            work: what must be refused.
        """
        before = look()
        began = time.monotonic()
        try:
            work()
        except kind as error:
            untouched = look() == before
            reason = str(error).splitlines()[0]
            result = f"refused, live data untouched ({reason})" if untouched else "REFUSED, BUT LIVE DATA CHANGED"
            self._note(Line(name, time.monotonic() - began, None, result, good=untouched))
        except (BackupError, StackError, OSError) as error:
            self._note(Line(name, time.monotonic() - began, None, f"FAILED OTHERWISE: {error}", good=False))
        else:
            self._note(Line(name, time.monotonic() - began, None, "NOT REFUSED", good=False))

    def _note(self, line: Line) -> None:
        self.lines.append(line)
        size = f"{line.size:,}" if line.size is not None else ""
        result = line.result if len(line.result) < 140 or not line.good else f"{line.result[:137]}…)"
        print(f"{'ok ' if line.good else 'BAD'} {line.step:52} {line.seconds:7.2f} s {size:>14}  {result}", flush=True)


def insist(condition: bool, otherwise: str) -> None:
    """A step's own check."""
    if not condition:
        raise DrillFailed(otherwise)
