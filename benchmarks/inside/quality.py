"""How well the search finds: questions with known answers, by words alone, by vectors alone, and by both.

Both sets lie in benchmarks/questions: passages of an invented port's handbook and questions in five kinds, written for this
benchmark and under this repository's licence. Two rules of the fusion were added after a look at the results of `questions.txt`;
`held-out.txt` was written afterwards, and nothing was chosen by it. Kinds: `plain` uses the passage's words, `forms` other forms
of them and typing errors, `paraphrase` mostly other words, `code` exact marks, `name` rare names.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

QUESTIONS = Path(__file__).resolve().parent.parent / "questions"
SETS = {"labelled": "questions.txt", "held-out": "held-out.txt"}
DEPTH = 10


@dataclass(frozen=True)
class Question:
    """What is asked, and which passages answer it."""

    kind: str
    text: str
    relevant: frozenset[str]


def passages() -> dict[str, tuple[str, str]]:
    """Name → heading and text."""
    rows = [line.split(" | ", 2) for line in (QUESTIONS / "passages.txt").read_text().splitlines()]
    return {name: (heading, text) for name, heading, text in rows}


def questions(name: str) -> list[Question]:
    """All questions of one of the SETS."""
    rows = [line.rsplit(" | ", 1) for line in (QUESTIONS / SETS[name]).read_text().splitlines()]
    return [
        Question(*left.split(" | ", 1), frozenset(relevant.split(", ")))  # type: ignore[call-arg]
        for left, relevant in rows
    ]


@dataclass(frozen=True)
class Marks:
    """Means over questions, each from 0 to 1."""

    ndcg: float
    mrr: float
    recall: float

    def __str__(self) -> str:
        return f"nDCG@10 {self.ndcg:.3f}, MRR {self.mrr:.3f}, recall@10 {self.recall:.3f}"


def marks(found: Sequence[tuple[Question, Sequence[str]]]) -> Marks:
    """How good rankings are."""
    return Marks(
        *(mean(values) for values in zip(*(_marks(question, ranking) for question, ranking in found), strict=True))
    )


def by_kind(found: Sequence[tuple[Question, Sequence[str]]]) -> dict[str, Marks]:
    """The same for each kind of question."""
    kinds: dict[str, list[tuple[Question, Sequence[str]]]] = defaultdict(list)
    for entry in found:
        kinds[entry[0].kind].append(entry)
    return {kind: marks(entries) for kind, entries in kinds.items()}


def ndcg(question: Question, ranking: Sequence[str]) -> float:
    """Discounted gain of the first ten over the best possible."""
    gain = sum(1 / math.log2(rank + 1) for rank, name in enumerate(ranking[:DEPTH], 1) if name in question.relevant)
    best = sum(1 / math.log2(rank + 1) for rank in range(1, min(DEPTH, len(question.relevant)) + 1))
    return gain / best


def _marks(question: Question, ranking: Sequence[str]) -> tuple[float, float, float]:
    first = next((rank for rank, name in enumerate(ranking[:DEPTH], 1) if name in question.relevant), None)
    return (
        ndcg(question, ranking),
        1 / first if first else 0.0,
        len(question.relevant & set(ranking[:DEPTH])) / len(question.relevant),
    )
