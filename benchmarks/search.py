"""How well and how fast the example's search finds: beside an exact scan, beside plain pgvector, and half by half.

`inside/search.py` runs with the baked project's Python, on real PostgreSQL filled with a made corpus.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from table import Row

SCRIPT = Path(__file__).resolve().parent / "inside" / "search.py"
GOAL_RECALL = 0.99
PARTS = {"words": "words alone", "vectors": "vectors alone"}
MEASURES = {"ndcg": "nDCG@10", "mrr": "MRR", "recall": "recall@10"}


def measure(project: Path, python: Path, *, quick: bool) -> list[Row]:
    """Quality on the labelled questions, then recall and speed on a large corpus, then what the route adds."""
    options = ["--passages", "10000", "--queries", "20"] if quick else []
    result = subprocess.run(
        [str(python), str(SCRIPT), *options], cwd=project, stdout=subprocess.PIPE, text=True, timeout=1800, check=True
    )
    found = json.loads(result.stdout)
    rows = [row for name, quality in found["quality"].items() for row in _quality(name, quality)]
    for scope, ways in found["scopes"].items():
        rows += _scope(found["passages"], scope, ways)
    route = found["route"]
    return [
        *rows,
        Row(
            "search, route: seconds of a request of one client, the owner of 1 %",
            "its own statement over asyncpg",
            route["route"] / route["statement"],
            f"{1000 * route['route']:.1f} ms; {1000 * route['statement']:.1f} ms",
        ),
    ]


def _quality(questions: str, found: dict[str, Any]) -> list[Row]:
    """Both halves together beside each alone; only the default configuration has a goal."""
    rows = []
    for language in ("simple", "english"):
        both = found[language]["both"]["all"]
        for part, name in PARTS.items():
            alone = found[language][part]["all"]
            rows.append(
                Row(
                    f"search, {found['questions']} {questions} questions, `{language}`: both halves, nDCG@10",
                    name,
                    both["ndcg"] / alone["ndcg"],
                    "; ".join(
                        ", ".join(f"{title} {marks[key]:.3f}" for key, title in MEASURES.items())
                        for marks in (both, alone)
                    ),
                    "better in all three" if language == "simple" else "",
                    all(both[key] > alone[key] for key in MEASURES) if language == "simple" else None,
                )
            )
    return rows


def _scope(passages: int, scope: str, ways: dict[str, Any]) -> list[Row]:
    """Recall, and time beside an exact scan and beside plain pgvector."""
    product, exact, plain, words = (ways[name] for name in ("product", "exact", "plain", "product with words"))
    where = "everything" if scope == "everything" else f"within an owner of {scope}"
    title = f"search, {passages:,} passages, {where}"
    return [
        Row(
            f"{title}: recall@10 (plan: {ways['plan']})",
            "plain pgvector, the planner decides",
            product["recall"] / plain["recall"] if plain["recall"] else None,
            f"{product['recall']:.3f}; {plain['recall']:.3f}",
            f"at least {GOAL_RECALL}",
            product["recall"] >= GOAL_RECALL,
        ),
        *(
            Row(
                f"{title}: seconds of the vector half",
                name,
                product["p50"] / other["p50"],
                f"{_times(product)}; {_times(other)}",
            )
            for name, other in (("exact scan", exact), ("plain pgvector, the planner decides", plain))
        ),
        Row(
            f"{title}: seconds of both halves, three words",
            "exact scan of the vectors alone",
            words["p50"] / exact["p50"],
            f"{_times(words)}; {_times(exact)}",
        ),
    ]


def _times(way: dict[str, float]) -> str:
    return f"median {1000 * way['p50']:.1f} ms, p95 {1000 * way['p95']:.1f} ms, {way['per_second']:.0f} a second"
