"""`make drill SIZE=1GB`: how much is lost and how long it takes, measured at a size, and reckoned up to 10 GB."""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from devstack import Stack
from ops.backup import base as bases
from ops.backup import dump as dumps
from ops.backup.drill.frame import Drill, Result, insist
from ops.backup.drill.rehearsal import PARTS, Rehearsal
from ops.backup.restore import base as recovering
from ops.backup.restore import dump as restoring
from ops.backup.restore.base import Target

GB = 1_000_000_000
GOAL_BYTES = 10 * GB
RTO_GOAL = timedelta(minutes=15)
RPO_GOAL = timedelta(minutes=5)
# As in ops/postgres/postgresql.conf: how long a change may wait for its segment to end.
ARCHIVE_TIMEOUT = timedelta(seconds=240)
# Of the whole size, written after the base: it is in the log alone.
LATER = 0.1


def measure(size: int) -> bool:
    """Print the table and the arithmetic; returns whether the goals are met."""
    # The table tells it all.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    drill = Drill()
    drill.head()
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        # Durable: what is measured must include the waits for the disk.
        stack = Stack(Path(folder), PARTS, durable=True)
        stack.start()
        try:
            rehearsal = Rehearsal(stack, rows=1000)
            print(f"    load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
            return _measure(drill, rehearsal, size)
        finally:
            stack.stop()


@dataclass(frozen=True)
class Lost:
    """What a cluster held when it was lost.

    Attributes:
        rows: of all tables.
        size: bytes of its files, without the log.
        moment: up to which it is wanted back.
    """

    rows: int
    size: int
    moment: datetime


def _measure(drill: Drill, rehearsal: Rehearsal, size: int) -> bool:
    config = rehearsal.config

    def grow(share: float, result: str) -> Callable[[], Result]:
        def work() -> Result:
            rehearsal.grow(int(size * share))
            return result, int(size * share)

        return work

    def stored() -> Result:
        rehearsal.flush(600)
        return "every segment read back", None

    def one_row() -> Result:
        rehearsal.load(1)
        rehearsal.flush(600)
        return "it ends its segment, which is read back from the store", None

    # First a cluster of next to nothing: what takes its time at any size.
    rehearsal.fill()
    with rehearsal.receiving():
        rehearsal.flush(600)
        drill.step("physical backup, small", lambda: _base(rehearsal))
        rehearsal.load(1)
        small = _lose(rehearsal)
    fixed = _back(drill, rehearsal, small)
    with rehearsal.receiving():
        drill.step(f"write {size * (1 - LATER) / GB:.2f} GB", grow(1 - LATER, "half of it random, half compressible"))
        drill.step("store its log", stored)
        drill.step("physical backup", lambda: _base(rehearsal))
        drill.step(f"write {size * LATER / GB:.2f} GB more", grow(LATER, "in the log alone"))
        burst = drill.step("store its log", stored)
        last = drill.step("one row more, until it is in the store", one_row)
        large = _lose(rehearsal)
    whole = _back(drill, rehearsal, large)
    met = _arithmetic((small.size, fixed), (large.size, whole), max(burst, last))
    drill.step("the fresh backup, with the service up again", lambda: _base(rehearsal))
    drill.step("dump, for comparison", lambda: ("checked, read back", dumps.run(config).manifest.size))
    drill.step("restore the dump", lambda: _restore_dump(rehearsal))
    return met


def _base(rehearsal: Rehearsal) -> Result:
    return "checked, read back", bases.run(rehearsal.config).manifest.size


def _lose(rehearsal: Rehearsal) -> Lost:
    """Drop a table; the log up to then, and of the loss itself, is in the store."""
    lost = Lost(rehearsal.count(), rehearsal.folder_bytes(), rehearsal.now())
    rehearsal.stack.sql("DROP TABLE rehearsal.thing", rehearsal.database)
    rehearsal.flush(600)
    return lost


def _back(drill: Drill, rehearsal: Rehearsal, lost: Lost) -> float:
    """Recover it without a fresh backup, and start; returns the seconds until every row is there again."""
    server = rehearsal.stack.processes["postgres"]
    server.stop()

    def recover() -> Result:
        result = recovering.restore(rehearsal.config, rehearsal.cluster, Target(lost.moment), force=True, fresh=False)
        assert result.kept
        shutil.rmtree(result.kept)
        spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.seconds.items())
        return f"{result.segments} files of the log; {spent}", result.base.size

    def start() -> Result:
        server.start()
        insist(rehearsal.count() == lost.rows, "the rows differ")
        return f"{lost.rows:,} rows, as before", lost.size

    return drill.step("recover to the second before", recover) + drill.step("start, and count every row", start)


def _restore_dump(rehearsal: Rehearsal) -> Result:
    result = restoring.restore(rehearsal.config, force=True)
    rehearsal.stack.sql(f'DROP DATABASE "{result.kept}" WITH (FORCE)')
    return "loaded, indexed, counted", result.manifest.size


def _arithmetic(small: tuple[int, float], large: tuple[int, float], stored: float) -> bool:
    """Print the reckoning; returns whether the goals are met.

    Args:
        small, large: bytes of a cluster and the seconds until it was back: what does not grow with the size is in both.
        stored: seconds until the log was in the store, at worst.
    """
    fixed, measured = small[1], large[1]
    a_gb = max(0.0, measured - fixed) / ((large[0] - small[0]) / GB)
    more = (GOAL_BYTES - small[0]) / GB
    at_goal = fixed + a_gb * more
    rpo = ARCHIVE_TIMEOUT + timedelta(seconds=stored)
    print(f"\nmeasured on {time.strftime('%F')}, load {os.getloadavg()[0]:.1f} at the end:")
    print(
        f"     a cluster of {small[0] / GB:.2f} GB was back in {fixed:.1f} s, one of {large[0] / GB:.2f} GB in {measured:.1f} s:"
    )
    print(
        f"     ({measured:.1f} - {fixed:.1f}) s / ({large[0] / GB:.2f} - {small[0] / GB:.2f}) GB = {a_gb:.1f} s for each further GB"
    )
    print(
        f"RTO  {fixed:.1f} s + {a_gb:.1f} s x {more:.2f} = {at_goal:.0f} s = {at_goal / 60:.1f} min for 10 GB (goal 15 min)"
    )
    print(
        f"RPO  archive_timeout {ARCHIVE_TIMEOUT.seconds} s + {stored:.1f} s until the last segments are stored = ",
        end="",
    )
    print(f"{rpo.total_seconds():.0f} s = {rpo.total_seconds() / 60:.1f} min (goal 5 min)")
    good = at_goal <= RTO_GOAL.total_seconds() and rpo <= RPO_GOAL
    print("both goals are met" if good else "A GOAL IS MISSED")
    return good
