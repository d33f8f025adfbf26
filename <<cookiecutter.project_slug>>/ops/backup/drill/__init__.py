"""`make drill`: lose everything on purpose and get it back, on servers of its own; then everything that must be refused.

A module for each kind, each with `steps(drill, rehearsal)`; this is the order in which they run, in one stack.
"""

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from devstack import Stack
from ops.backup.drill import base, dump, full, objects, pair, redis, retention
from ops.backup.drill.frame import Drill, DrillFailed, Result
from ops.backup.drill.rehearsal import PARTS, Rehearsal

Steps = Callable[[Drill, Rehearsal], None]
CHAPTERS: Mapping[str, Steps] = {
    "dump: the database as one file": dump.steps,
    "base and log: the cluster as it was at any second": base.steps,
    "redis: the broker": redis.steps,
    "objects: a bucket": objects.steps,
    "pair: rows and their objects": pair.steps,
    "retention": retention.steps,
    "full disks": full.steps,
}


def drill(rows: int) -> bool:
    """Run all of it on servers of its own; returns whether everything ended as it must."""
    began = time.monotonic()
    # The table tells it all; only what goes wrong may interrupt it.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    drill = Drill()
    drill.head()
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        stack = Stack(Path(folder), PARTS)

        def start() -> Result:
            stack.start()
            return "own data, own ports: nothing of yours is touched", None

        try:
            drill.step("start throw-away servers", start)
            for number, (name, steps) in enumerate(CHAPTERS.items()):
                drill.chapter(name)
                with Rehearsal(stack, prefix=f"drill-{number}/", rows=rows) as rehearsal:
                    steps(drill, rehearsal)
        except DrillFailed as error:
            print(f"the drill ends here: `{error}` failed", file=sys.stderr)
        finally:
            stack.stop()
    seconds = time.monotonic() - began
    print(f"{'the drill is passed' if drill.good else 'THE DRILL FAILED'}: {len(drill.lines)} steps in {seconds:.1f} s")
    return drill.good
