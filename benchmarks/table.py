"""The table: rows of a measured thing beside the plain thing it is compared with."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BEGIN = "<!-- figures: written by `python benchmarks/run.py --write` -->"
END = "<!-- end of figures -->"
HEADER = ("what", "beside", "ratio", "absolute", "goal")


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        what: the thing measured.
        beside: the plain thing.
        ratio: measured to plain, of medians; None when the machine cannot measure it.
        absolute: both in units of this machine; says nothing about another one.
        goal: what was set out for, in words.
        met: whether it holds; None where no goal was set.
    """

    what: str
    beside: str
    ratio: float | None
    absolute: str
    goal: str = ""
    met: bool | None = None

    def cells(self) -> tuple[str, ...]:
        """The row as texts."""
        ratio = "not measured" if self.ratio is None else f"{self.ratio:.2f}"
        verdict = {True: f"{self.goal}: met", False: f"{self.goal}: **missed**", None: self.goal}[self.met]
        return self.what, self.beside, ratio, self.absolute, verdict


def render(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = [HEADER, ("---", "---", "---:", "---", "---"), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def circumstances(before: float) -> str:
    """What the reader must know of the machine: cores, interpreter, and how busy it was.

    Args:
        before: the load of the last minute when the run began.
    """
    return (
        f"{os.cpu_count()} cores, Python {platform.python_version()}; processes that wanted to run: {before:.1f} when the "
        f"run began, {os.getloadavg()[0]:.1f} when it ended."
    )


def write(readme: Path, rows: Sequence[Row], note: str) -> None:
    """Replace the table and the note below it between the markers of `readme`."""
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{readme} has lost its markers")
    readme.write_text(f"{before}{BEGIN}\n{render(rows)}\n\n{note}\n{END}{after}", encoding="utf-8")
