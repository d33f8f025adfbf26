"""`make load`: put people on the service for a while, print what each step took, and fail when a promise was broken.

Ends with 0 when every promise was kept, 1 when one was broken, and 2 when there was nothing to judge.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from devstack import StackError
from load import journeys, service
from load.objectives import FAILED_PERCENT, Limits, Measured, Report, table, verdict

#: Where `make load` installs locust.
PYTHON = Path(sys.prefix) / "load" / "bin" / "python"
#: How long the last people may take to finish what they have begun.
LAST_SECONDS = 90
KEPT = 5


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m load", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--url", default="", help="a service that runs already; without it a stack of our own is started")
    made.add_argument("--force", action="store_true", help="also when that is this project's production")
    made.add_argument("--users", type=int, default=8, metavar="N", help="people at the same time (8)")
    made.add_argument(
        "--spawn", type=float, default=2, metavar="N", help="so many come each second, until all are there (2)"
    )
    made.add_argument("--duration", default="30s", metavar="TIME", help="for so long people come: 30s, 10m, 1h (30s)")
    made.add_argument("--think", type=float, default=1, metavar="SECONDS", help="mean pause before each step (1)")
    made.add_argument(
        "--slack",
        type=float,
        default=1,
        metavar="FACTOR",
        help="multiplies every promised time: 2 on half the machine (1)",
    )
    made.add_argument(
        "--failures", type=float, default=FAILED_PERCENT, metavar="PERCENT", help=f"may fail ({FAILED_PERCENT:g})"
    )
    return made


def run(url: str, tokens: Sequence[str], arguments: argparse.Namespace) -> Report:
    """Run locust to its end.

    Raises:
        service.Refused: it could not be run.
    """
    with TemporaryDirectory(prefix="load-") as folder:
        written = Path(folder) / "report.json"
        environment = {
            **os.environ,
            "PYTHONPATH": str(service.ROOT),
            "LOAD_REPORT": str(written),
            "LOAD_THINK_SECONDS": str(arguments.think),
            "LOAD_TOKENS": ",".join(tokens),
        }
        command = [
            *(str(PYTHON), "-m", "locust", "--locustfile", str(service.ROOT / "load" / "locustfile.py")),
            *("--headless", "--skip-log-setup", "--host", url),
            *("--users", str(arguments.users), "--spawn-rate", str(arguments.spawn)),
            *("--run-time", arguments.duration, "--stop-timeout", str(LAST_SECONDS)),
        ]
        # Without its own logging it prints warnings alone, and no table of its own.
        ended = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=False)
        if ended.returncode or not written.exists():
            raise service.Refused(
                f"locust ended with {ended.returncode} and without a report; what it says stands above"
            )
        found = json.loads(written.read_text("utf-8"))
    return Report([Measured(**each) for each in found["measured"]], found["errors"], found["faults"])


def tell(report: Report, broken: Sequence[str]) -> None:
    """Print what went wrong, and the verdict."""
    for text, times in report.errors[:KEPT]:
        print(f"load: {times} × {text}")
    if any(" 429" in text for text, _ in report.errors):
        print("load: 429 is the limit of an address: let the service believe ours (REAL_IP_FROM), see docs/load.md")
    for fault in broken:
        print(f"load: broken: {fault}", file=sys.stderr)
    if not broken:
        print("load: every promise was kept")


def main(given: Sequence[str] | None = None) -> int:
    """Run and judge; returns the exit code."""
    arguments = parser().parse_args(given)
    limits = Limits(arguments.failures, arguments.slack)
    known = journeys.found()
    tokens = [token for token in os.environ.get("LOAD_TOKENS", "").split(",") if token]
    nobody = journeys.entry(known) is None
    try:
        if not PYTHON.exists():
            raise service.Refused(f"locust is not installed in {PYTHON.parents[1]}: run `make load`")
        if arguments.url and nobody and not tokens:
            raise service.Refused(
                "people come from another service: LOAD_TOKENS=… are access tokens of some, comma-separated"
            )
        where: AbstractContextManager[tuple[str, list[str]]]
        if arguments.url:
            where = nullcontext((service.running(arguments.url, force=arguments.force), tokens))
        else:
            where = service.own(tokens=nobody)
        with where as (url, theirs):
            print(f"load: {arguments.users} people for {arguments.duration} at {url}", flush=True)
            report = run(url, theirs, arguments)
    except (service.Refused, StackError) as error:
        print(f"load: {error}", file=sys.stderr)
        return 2
    steps = journeys.steps(known, tokens=bool(theirs))
    print(table(report, steps, limits))
    broken = verdict(report, steps, limits)
    tell(report, broken)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
