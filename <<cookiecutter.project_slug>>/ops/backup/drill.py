"""`make drill`: lose a database on purpose and get it back; then everything that must be refused."""

import logging
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from devstack import Stack, StackError
from ops.backup.config import Keep
from ops.backup.dump import run
from ops.backup.errors import BackupError, Damaged, Refused
from ops.backup.rehearsal import PARTS, Rehearsal
from ops.backup.restore import dump as restoring


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

    def step(self, name: str, work: Callable[[], tuple[str, int | None]]) -> None:
        """Do something that must succeed.

        Raises:
            DrillFailed: it did not, so that what follows would mean nothing.
        """
        began = time.monotonic()
        try:
            result, size = work()
        except (BackupError, StackError, DrillFailed, OSError) as error:
            self._note(Line(name, time.monotonic() - began, None, f"FAILED: {error}", good=False))
            raise DrillFailed(name) from error
        self._note(Line(name, time.monotonic() - began, size, result, good=True))

    def refused(self, name: str, kind: type[BackupError], rehearsal: Rehearsal, work: Callable[[], object]) -> None:
        """Do something that must be refused with the live data untouched."""
        before, databases = rehearsal.look(), rehearsal.databases()
        began = time.monotonic()
        try:
            work()
        except kind as error:
            untouched = rehearsal.look() == before and rehearsal.databases() == databases
            reason = str(error).splitlines()[0]
            result = f"refused, live data untouched ({reason})" if untouched else "REFUSED, BUT LIVE DATA CHANGED"
            self._note(Line(name, time.monotonic() - began, None, result, good=untouched))
        except BackupError as error:
            self._note(Line(name, time.monotonic() - began, None, f"FAILED OTHERWISE: {error}", good=False))
        else:
            self._note(Line(name, time.monotonic() - began, None, "NOT REFUSED", good=False))

    def _note(self, line: Line) -> None:
        self.lines.append(line)
        size = f"{line.size:,}" if line.size is not None else ""
        print(
            f"{'ok ' if line.good else 'BAD'} {line.step:44} {line.seconds:7.2f} s {size:>12}  {line.result}",
            flush=True,
        )


def drill(rows: int) -> bool:
    """Run all of it on servers of its own; returns whether everything ended as it must."""
    began = time.monotonic()
    # The table tells it all; only what goes wrong may interrupt it.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    drill = Drill()
    print(f"    {'step':44} {'time':>9} {'bytes':>12}  result")
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        stack = Stack(Path(folder), PARTS)
        try:
            drill.step("start a throw-away PostgreSQL and store", lambda: _start(stack))
            _way_there_and_back(drill, Rehearsal(stack), rows)
            _refusals(drill, Rehearsal(stack))
            _retention(drill, Rehearsal(stack, prefix="retention/"))
        except DrillFailed as error:
            print(f"the drill ends here: `{error}` failed", file=sys.stderr)
        finally:
            stack.stop()
    print(f"{'the drill is passed' if drill.good else 'THE DRILL FAILED'} after {time.monotonic() - began:.1f} s")
    return drill.good


def _start(stack: Stack) -> tuple[str, None]:
    stack.start()
    return "own data, own ports: nothing of yours is touched", None


def _way_there_and_back(drill: Drill, rehearsal: Rehearsal, rows: int) -> None:
    def migrate() -> tuple[str, None]:
        rehearsal.stack.run("-m", "app.cli", "migrate")
        return "the service's own tables", None

    def fill() -> tuple[str, None]:
        rehearsal.fill(rows)
        return f"{rows + max(1, rows // 100):,} rows with vectors, bytes, nulls, unicode", None

    def back_up() -> tuple[str, int]:
        manifest = run(rehearsal.config).manifest
        return f"{manifest.id}, checked, read back", manifest.size

    def destroy() -> tuple[str, None]:
        rehearsal.destroy()
        _insist(rehearsal.database not in rehearsal.databases(), "the database is still there")
        return f"database {rehearsal.database} dropped", None

    def restore() -> tuple[str, int]:
        result = restoring.restore(rehearsal.config)
        _insist(result.kept is None, "something was kept of a database that was gone")
        return "into a new database, counted, renamed", result.manifest.size

    drill.step("migrate", migrate)
    drill.step("write rows", fill)
    before = rehearsal.look()
    drill.step("back up", back_up)
    drill.step("destroy the database", destroy)
    drill.step("restore", restore)

    def compare() -> tuple[str, None]:
        after = rehearsal.look()
        _insist(after == before, "the rows differ")
        return f"all {sum(map(len, after.rows.values())):,} rows of {len(after.rows)} tables are equal", None

    drill.step("compare every row", compare)


def _refusals(drill: Drill, rehearsal: Rehearsal) -> None:
    config = rehearsal.config
    rehearsal.write_later()
    drill.refused("live database, without FORCE", Refused, rehearsal, lambda: restoring.restore(config))
    harms: list[tuple[str, Callable[[str], None]]] = [
        ("truncated dump", rehearsal.truncate_dump),
        ("corrupted dump (one byte)", rehearsal.corrupt_dump),
        ("empty dump", rehearsal.empty_dump),
        ("missing dump", rehearsal.lose_dump),
        ("half uploaded (no manifest)", rehearsal.lose_manifest),
    ]
    for name, harm in harms:
        broken = run(config).manifest.id
        harm(broken)

        def restore(broken: str = broken) -> object:
            return restoring.restore(config, broken, force=True)

        drill.refused(name, Damaged, rehearsal, restore)
        rehearsal.store().delete(*(f"dump/{broken}{end}" for end in (".json", ".dump")))
    drill.refused("unknown backup", Damaged, rehearsal, lambda: restoring.restore(config, "no-such", force=True))
    nowhere = rehearsal.with_(prefix="nothing/")
    drill.refused("no backup at all", BackupError, rehearsal, lambda: restoring.restore(nowhere, force=True))

    def forced() -> tuple[str, int]:
        live = rehearsal.look()
        manifest = run(config).manifest
        rehearsal.ask(lambda connection: connection.execute("DELETE FROM rehearsal.person WHERE name = 'late'"))
        result = restoring.restore(config, force=True)
        _insist(rehearsal.look() == live, "the rows differ")
        _insist(result.kept in rehearsal.databases(), "the former database is gone")
        return f"restored; the former one is kept as {result.kept}", manifest.size

    drill.step("live database, with FORCE", forced)


def _retention(drill: Drill, rehearsal: Rehearsal) -> None:
    config = rehearsal.config

    def ids() -> list[str]:
        return [backup.manifest.id for backup in rehearsal.store().backups("dump")]

    def old_ones_go() -> tuple[str, None]:
        made = [run(config).manifest.id for _ in range(4)]
        for days, name in zip((90, 60, 40, 1), made, strict=True):
            rehearsal.age(name, days)
        outcome = run(config)
        _insist(ids() == [made[2], made[3], outcome.manifest.id], f"kept {ids()}")
        return (
            f"of 5 backups the {len(outcome.let_go.deleted) if outcome.let_go else 0} beyond 30 days went, the newest 3 stayed",
            None,
        )

    def last_ones_stay() -> tuple[str, None]:
        for name in ids():
            rehearsal.age(name, 400)
        before = ids()
        outcome = run(rehearsal.with_(keep={"dump": Keep(30, 2)}))
        _insist(ids() == [*before, outcome.manifest.id], f"kept {ids()}")
        return "all looked 400 days old at once: a clock jumped, nothing went", None

    drill.step("retention: old ones go, the last good stay", old_ones_go)
    drill.step("retention: a clock that jumps deletes nothing", last_ones_stay)


def _insist(condition: bool, otherwise: str) -> None:
    if not condition:
        raise DrillFailed(otherwise)
