"""How far something long has come, for whoever waits for it: a line every few seconds, on a terminal only."""

import sys
import time

SECONDS = 2.0


class Progress:
    """Counts steps and bytes, and says now and then how many are left and for how long."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._steps = self._bytes = self._of_steps = self._of_bytes = 0
        self._began = self._said = time.monotonic()

    def begin(self, steps: int, size: int) -> None:
        """So much lies ahead."""
        self._steps = self._bytes = 0
        self._of_steps, self._of_bytes = steps, size
        self._began = self._said = time.monotonic()

    def step(self, size: int) -> None:
        """One more is done."""
        self._steps += 1
        self._bytes += size
        now = time.monotonic()
        if now - self._said >= SECONDS and sys.stderr.isatty():
            self._said = now
            print(f"\r{self.line(now - self._began)}\x1b[K", end="", file=sys.stderr, flush=True)
            if self._steps == self._of_steps:
                print(file=sys.stderr)

    def line(self, seconds: float) -> str:
        """What is said after so many seconds."""
        speed = self._bytes / seconds if seconds else 0.0
        left = f", {(self._of_bytes - self._bytes) / speed:,.0f} s left" if speed else ""
        return (
            f"{self._what}: {self._steps:,} of {self._of_steps:,},"
            f" {self._bytes / 1e6:,.1f} of {self._of_bytes / 1e6:,.1f} MB, {speed / 1e6:.1f} MB/s{left}"
        )
