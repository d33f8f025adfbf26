"""Old backups go, the last good ones stay, and no clock decides alone."""

from datetime import UTC, datetime, timedelta

from ops.backup.config import Keep
from ops.backup.drill.frame import Drill, Result, insist
from ops.backup.drill.rehearsal import Rehearsal
from ops.backup.dump import run


def steps(drill: Drill, rehearsal: Rehearsal) -> None:
    """All of it."""
    config = rehearsal.config

    def ids() -> list[str]:
        return [backup.manifest.id for backup in rehearsal.store().backups("dump")]

    def old_ones_go() -> Result:
        made = [run(config).manifest.id for _ in range(4)]
        rehearsal.age(dict(zip(made, (90, 60, 40, 1), strict=True)))
        outcome = run(config)
        insist(ids() == [made[2], made[3], outcome.manifest.id], f"kept {ids()}")
        insist(outcome.let_go is not None, "the retention failed")
        return "of 5 dumps the 2 beyond 30 days went, the newest 3 stayed, one of 40 days among them", None

    def clock_ahead() -> Result:
        before = ids()
        newest = run(config).manifest
        rehearsal.rewrite_manifest(newest.id, created_at=datetime.now(UTC) + timedelta(days=40))
        outcome = run(rehearsal.with_(keep={"dump": Keep(30, 1)}))
        # What is old by both clocks may go; what only our clock calls old may not.
        young = [*before[1:], newest.id, outcome.manifest.id]
        insist(ids()[-len(young) :] == young, f"kept {ids()}")
        return "ours was 40 days ahead, the store's was not: nothing went that both do not call old", None

    def both_clocks() -> Result:
        rehearsal.age(dict.fromkeys(ids(), 40))
        before = ids()
        outcome = run(rehearsal.with_(keep={"dump": Keep(30, 1)}))
        insist(ids() == [*before, outcome.manifest.id], f"kept {ids()}")
        return "all looked 40 days old at once: a clock jumped, nothing went", None

    drill.step("old ones go, the last good stay", old_ones_go)
    drill.step("a clock that moves 40 days", clock_ahead)
    drill.step("both clocks move 40 days", both_clocks)
