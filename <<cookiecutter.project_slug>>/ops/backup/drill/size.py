"""`make drill SIZE=1GB`: how much is lost and how long it takes, measured at a size, and reckoned up to 10 GB."""

import logging
import os
import tempfile
import time
from datetime import timedelta
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


def _measure(drill: Drill, rehearsal: Rehearsal, size: int) -> bool:
    server, config = rehearsal.stack.processes["postgres"], rehearsal.config

    def fill() -> Result:
        rehearsal.fill()
        rehearsal.grow(int(size * (1 - LATER)))
        return "half of it compresses to nothing, half not at all, as text and vectors do", rehearsal.bytes()

    with rehearsal.receiving():
        drill.step(f"write {size * (1 - LATER) / GB:.1f} GB", fill)
        rehearsal.flush(600)
        drill.step("physical backup", lambda: ("checked, read back", bases.run(config).manifest.size))

        def later() -> Result:
            rehearsal.grow(int(size * LATER))
            return "in the log alone", int(size * LATER)

        drill.step(f"write {size * LATER / GB:.1f} GB more", later)
        # How long the last change takes to be safe, once its segment has ended.
        last = drill.step("store the log", lambda: _flush(rehearsal))
        counted = rehearsal.count()
        total = rehearsal.folder_bytes()
        moment = rehearsal.now()
        rehearsal.stack.sql("DROP TABLE rehearsal.bulk", rehearsal.database)
        rehearsal.flush(600)
    server.stop()

    def recover() -> Result:
        result = recovering.restore(config, rehearsal.cluster, Target(moment), force=True, fresh=False)
        spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.seconds.items())
        return f"{result.segments} files of the log; {spent}", result.base.size

    whole = drill.step("recover to the second before", recover)

    def start() -> Result:
        server.start()
        insist(rehearsal.count() == counted, "the rows differ")
        return f"{counted:,} rows, as before", None

    started = drill.step("start, and count every row", start)
    met = _arithmetic(total, whole + started, last)
    drill.step("the fresh backup, with the service up again", lambda: ("", bases.run(config).manifest.size))
    drill.step("dump, for comparison", lambda: ("checked, read back", dumps.run(config).manifest.size))
    drill.step("restore the dump", lambda: _restore_dump(rehearsal))
    return met


def _restore_dump(rehearsal: Rehearsal) -> Result:
    result = restoring.restore(rehearsal.config, force=True)
    rehearsal.stack.sql(f'DROP DATABASE "{result.kept}" WITH (FORCE)')
    return "loaded, indexed, counted", result.manifest.size


def _flush(rehearsal: Rehearsal) -> Result:
    rehearsal.flush(600)
    return "every segment read back", None


def _arithmetic(total: int, seconds: float, last: float) -> bool:
    at_goal = seconds * GOAL_BYTES / total
    rpo = ARCHIVE_TIMEOUT + timedelta(seconds=last)
    print(
        f"\nmeasured on {time.strftime('%F')}: a cluster of {total / GB:.2f} GB, load {os.getloadavg()[0]:.1f} at the end"
    )
    print(
        f"RTO  {seconds:.1f} s x 10 / {total / GB:.2f} = {at_goal:.0f} s = {at_goal / 60:.1f} min for 10 GB (goal 15 min)"
    )
    print(
        f"RPO  archive_timeout {ARCHIVE_TIMEOUT.seconds} s + {last:.1f} s until the last segments are stored = ", end=""
    )
    print(f"{rpo.total_seconds():.0f} s = {rpo.total_seconds() / 60:.1f} min (goal 5 min)")
    good = at_goal <= RTO_GOAL.total_seconds() and rpo <= RPO_GOAL
    print("both goals are met" if good else "A GOAL IS MISSED")
    return good
