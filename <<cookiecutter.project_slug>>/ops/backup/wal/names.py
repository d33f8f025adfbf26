"""Positions in the write-ahead log, the segments that hold them, and the timelines they are on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

SEGMENT = re.compile(r"[0-9A-F]{24}")
HISTORY = re.compile(r"([0-9A-F]{8})\.history")


def read_lsn(text: str) -> int:
    """A position as PostgreSQL writes it, 0/3000148, as a number of bytes."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def write_lsn(lsn: int) -> str:
    """The other way."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


@dataclass(frozen=True, order=True)
class Segment:
    """One file of the log.

    Attributes:
        number: counted from the beginning of the log, through all timelines.
        size: bytes of every segment of this server.
    """

    timeline: int
    number: int
    size: int

    @classmethod
    def holding(cls, timeline: int, lsn: int, size: int) -> Self:
        """The one with this position in it."""
        return cls(timeline, lsn // size, size)

    @classmethod
    def named(cls, name: str, size: int) -> Self:
        """By the name of its file."""
        per_log = (1 << 32) // size
        return cls(int(name[:8], 16), int(name[8:16], 16) * per_log + int(name[16:24], 16), size)

    @property
    def name(self) -> str:
        """Name of its file."""
        per_log = (1 << 32) // self.size
        return f"{self.timeline:08X}{self.number // per_log:08X}{self.number % per_log:08X}"

    @property
    def start(self) -> int:
        """Its first position."""
        return self.number * self.size

    @property
    def end(self) -> int:
        """The first position behind it."""
        return self.start + self.size

    @property
    def next(self) -> "Segment":
        """The one behind it on its timeline."""
        return Segment(self.timeline, self.number + 1, self.size)


@dataclass(frozen=True)
class Timeline:
    """A timeline with where it comes from.

    Attributes:
        parents: timeline and the position where it was left, oldest first.
    """

    number: int
    parents: Sequence[tuple[int, int]] = ()

    @classmethod
    def read(cls, number: int, history: str) -> Self:
        """Out of its history file."""
        rows = [line.split() for line in history.splitlines() if line.strip() and not line.startswith("#")]
        return cls(number, tuple((int(row[0]), read_lsn(row[1])) for row in rows))

    def at(self, number: int, size: int) -> Segment:
        """The segment of that number on the way to this timeline; where it changes within one, the later one."""
        for parent, left_at in self.parents:
            if left_at >= (number + 1) * size:
                return Segment(parent, number, size)
        return Segment(self.number, number, size)

    def passes(self, timeline: int, lsn: int = 0) -> bool:
        """Whether that timeline leads to this one, and had not been left yet at a position."""
        return timeline == self.number or any(parent == timeline and lsn <= left_at for parent, left_at in self.parents)
