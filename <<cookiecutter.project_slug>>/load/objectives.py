"""What is promised of each step, and whether a run has kept it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: The promise of docs/runbook/slo.md and of the alarm ApiSlow, for whatever answers a request.
P95_SECONDS = 0.8
FAILED_PERCENT = 0.1


@dataclass(frozen=True)
class Step:
    """Something that a person does and waits for.

    Attributes:
        name: how the table calls it: "<who>: <what>".
        p95: seconds within which 95 % of them must be done.
    """

    name: str
    p95: float = P95_SECONDS


@dataclass(frozen=True)
class Measured:
    """What a run has seen of one step. Times are seconds."""

    name: str
    requests: int
    failures: int
    p50: float
    p95: float
    p99: float
    per_second: float


@dataclass(frozen=True)
class Report:
    """What a run has seen.

    Attributes:
        measured: each step that was taken at least once.
        errors: what went wrong, in words, and how often; the most frequent first.
        faults: what broke in the journeys themselves.
    """

    measured: Sequence[Measured]
    errors: Sequence[tuple[str, int]] = ()
    faults: Sequence[str] = ()


@dataclass(frozen=True)
class Limits:
    """How strict the verdict is.

    Attributes:
        failed_percent: share of all requests that may fail.
        slack: by which every promised time is multiplied; above 1 on a machine that is not like production.
    """

    failed_percent: float = FAILED_PERCENT
    slack: float = 1.0


def verdict(report: Report, steps: Iterable[Step], limits: Limits) -> list[str]:
    """Every promise that was broken, in words for a person; empty when all were kept."""
    measured = {each.name: each for each in report.measured}
    broken = [f"a journey is wrong: {fault}" for fault in report.faults]
    requests = sum(each.requests for each in report.measured)
    failures = sum(each.failures for each in report.measured)
    if requests and 100 * failures / requests > limits.failed_percent:
        share = 100 * failures / requests
        broken.append(f"{share:.2f} % of {requests} requests failed; {limits.failed_percent:g} % may")
    for step in steps:
        found, promised = measured.get(step.name), step.p95 * limits.slack
        if found is None:
            broken.append(f"{step.name}: never done; the run was too short, or what comes before it failed")
        elif found.p95 > promised:
            broken.append(f"{step.name}: p95 is {found.p95:.3f} s; {promised:g} s are promised")
    return broken


def table(report: Report, steps: Iterable[Step], limits: Limits) -> str:
    """The steps in the order in which they are taken, for a terminal."""
    promised = {step.name: step.p95 * limits.slack for step in steps}
    order = {name: number for number, name in enumerate(promised)}
    width = max([len(each.name) for each in report.measured] or [4])
    lines = [
        f"{'step':<{width}} {'requests':>8} {'failed':>6} {'p50 s':>7} {'p95 s':>7} {'p99 s':>7} {'promised':>8} {'1/s':>6}"
    ]
    for each in sorted(report.measured, key=lambda each: (order.get(each.name, len(order)), each.name)):
        limit = promised.get(each.name)
        mark = "" if limit is None or each.p95 <= limit else "  <- too slow"
        lines.append(
            f"{each.name:<{width}} {each.requests:>8} {each.failures:>6} {each.p50:>7.3f} {each.p95:>7.3f} {each.p99:>7.3f}"
            f" {'' if limit is None else f'{limit:g}':>8} {each.per_second:>6.1f}{mark}"
        )
    return "\n".join(lines)
