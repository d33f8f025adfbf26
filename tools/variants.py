"""Name the combinations of answers that continuous integration bakes and runs, as a matrix for its workflow.

python tools/variants.py          a few, in which every pair of answers meets once
python tools/variants.py --all    every combination
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping
from pathlib import Path

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


def pairwise() -> list[Answers]:
    """Greedily the fewest combinations in which every two answers of different options are chosen together."""
    missing = {pair for answers in every() for pair in itertools.combinations(answers, 2)}
    chosen: list[Answers] = []
    while missing:
        best = max(every(), key=lambda answers: len(missing & set(itertools.combinations(answers, 2))))
        chosen.append(best)
        missing -= set(itertools.combinations(best, 2))
    return chosen


def matrix(variants: list[Answers]) -> list[dict[str, str]]:
    """One row a variant: its name, its answers as the command line takes them, and a Python in turn."""
    defaults = {name: answers[0] for name, answers in OPTIONS.items()}
    rows = []
    for answers, python in zip(variants, itertools.cycle(reversed(PYTHON_VERSIONS)), strict=False):
        special = [f"{name}={answer}" for name, answer in answers if answer != defaults[name]]
        said = " ".join(f"{name}={answer}" for name, answer in answers)
        rows.append({"name": " ".join(special) or "default", "answers": said, "python": python})
    return rows


if __name__ == "__main__":
    print(json.dumps(matrix(every() if "--all" in sys.argv else pairwise())))
