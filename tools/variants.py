"""Name the combinations of answers that continuous integration bakes and runs, as a matrix for its workflow.

python tools/variants.py          a few, in which every two answers meet, and each with every Python
python tools/variants.py --all    every combination on every Python
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
PYTHON_VERSIONS = ("3.11", "3.12", "3.13", "3.14")

Answers = tuple[tuple[str, str], ...]
# The licence changes one file and no code.
OPTIONS: dict[str, list[str]] = {name: answers for name, answers in QUESTIONS["_choices"].items() if name != "license"}


def makes_sense(answers: Mapping[str, str]) -> bool:
    """Whether the bake takes these answers together: no row of `_senseless` holds of them."""
    return not any(
        all(answers[name] in choices for name, choices in row.items() if name != "why")
        for row in QUESTIONS["_senseless"]
    )


def every() -> list[Answers]:
    """Every combination that makes sense, the default first."""
    products = (tuple(zip(OPTIONS, answers, strict=True)) for answers in itertools.product(*OPTIONS.values()))
    return [answers for answers in products if makes_sense(dict(answers))]


def pairwise(rows: Sequence[Answers] | None = None) -> list[Answers]:
    """The fewest of the combinations in which every two answers that can meet are chosen together."""
    return _fewest(every() if rows is None else rows, lambda answers: set(itertools.combinations(answers, 2)))


def each_once(rows: Sequence[Answers] | None = None) -> list[Answers]:
    """The fewest of the combinations in which every answer is chosen, the first of them included."""
    return _fewest(every() if rows is None else rows, set)


def _fewest(rows: Sequence[Answers], shows: Callable[[Answers], set[Any]]) -> list[Answers]:
    """Greedily, from the first on, until all is shown that the combinations show."""
    missing = {part for answers in rows for part in shows(answers)}
    chosen: list[Answers] = []
    best = rows[0]
    while missing:
        chosen.append(best)
        missing -= shows(best)
        best = max(rows, key=lambda answers: len(missing & shows(answers)))
    return chosen


def on_every_python() -> list[Answers]:
    """Every combination that makes sense, on each Python."""
    return [(*answers, ("python_version", python)) for answers in every() for python in PYTHON_VERSIONS]


def matrix(rows: Sequence[Answers]) -> list[dict[str, str]]:
    """One row a variant: its name, its Python, and its answers as the command line takes them."""
    found = []
    for answers in rows:
        special = [f"{name}={answer}" for name, answer in answers if name in OPTIONS and answer != OPTIONS[name][0]]
        python = dict(answers)["python_version"]
        said = " ".join(f"{name}={answer}" for name, answer in answers)
        found.append({"name": " ".join([*(special or ["default"]), python]), "answers": said, "python": python})
    return found


if __name__ == "__main__":
    print(json.dumps(matrix(on_every_python() if "--all" in sys.argv else pairwise(on_every_python()))))
