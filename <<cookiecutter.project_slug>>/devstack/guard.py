"""End the processes of a devstack whose own process was killed.

A devstack that dies of SIGKILL cannot stop its children, and the kernel's parent-death signal does not do it either:
it is cleared when PostgreSQL changes its user, does not reach grandchildren, and fires when the *thread* that started
a child ends. So every devstack has this small process at its side. Children announce themselves on its standard input
before they become what they are to be (see `process.LAUNCHER`); when that pipe reports its end, the devstack is gone
and whatever is still announced is ended. The guard also holds the folder's lock, so that the next devstack waits
until the last one is really gone.

Runs as a file with `python -I -S`: it needs nothing but the standard library and must start at once.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HAS_PROC = Path("/proc/self/stat").exists()
GRACE_SECONDS = 5.0


class _Stat(NamedTuple):
    state: str
    parent: int
    group: int
    started: str


def _stat(pid: int) -> _Stat | None:
    """What the kernel says of a process, or None where it or /proc is missing."""
    try:
        # The command in parentheses may itself hold spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return _Stat(fields[0], int(fields[1]), int(fields[2]), fields[19])


def _all_stats() -> Iterator[tuple[int, _Stat]]:
    for entry in Path("/proc").glob("[0-9]*"):
        if stat := _stat(int(entry.name)):
            yield int(entry.name), stat


def identity(pid: int) -> str:
    """What tells this process from a later one with the same number; empty where the system cannot say."""
    stat = _stat(pid)
    return stat.started if stat else ""


def alive(pid: int, identity_then: str = "") -> bool:
    """Whether the process still runs (a zombie does not), and is the one that was meant."""
    stat = _stat(pid)
    if stat is not None:
        return stat.state not in "ZX" and identity_then in ("", stat.started)
    if HAS_PROC:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def family(pid: int) -> dict[int, str]:
    """The process and its descendants with their identities.

    Process groups are not enough: each PostgreSQL backend leads a session of its own.
    """
    children: dict[int, list[int]] = {}
    for candidate, stat in _all_stats():
        children.setdefault(stat.parent, []).append(candidate)
    found, queue = {}, [pid]
    while queue:
        current = queue.pop()
        found[current] = identity(current)
        queue += children.get(current, [])
    return found


def kill_family(members: dict[int, str], group: int) -> None:
    """SIGKILL for a process group and for the recorded descendants that left it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    for pid, identity_then in members.items():
        if alive(pid, identity_then):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def group_alive(group: int) -> bool:
    """Whether a member of the process group still runs (a zombie does not)."""
    if HAS_PROC:
        return any(stat.group == group and stat.state not in "ZX" for _, stat in _all_stats())
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def end_all(announced: dict[int, int]) -> None:
    """Ask every announced process to stop, then make it."""
    members = {pid: family(pid) for pid in announced}
    for pid, stop_signal in announced.items():
        # A paused process would never see the request.
        for number in (signal.SIGCONT, stop_signal):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number) if number == signal.SIGCONT else os.kill(pid, number)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and any(
        alive(pid, then) for tree in members.values() for pid, then in tree.items()
    ):
        time.sleep(0.05)
    for pid, tree in members.items():
        kill_family({**tree, **family(pid)}, pid)


def main(*files: str) -> None:
    """Read `+pid signal` and `-pid` lines until the devstack closes the pipe or dies, then clean up.

    Args:
        files: what the devstack would have removed at its end.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    announced: dict[int, int] = {}
    for line in sys.stdin:
        pid, _, stop_signal = line[1:].strip().partition(" ")
        if line.startswith("+"):
            announced[int(pid)] = int(stop_signal)
        else:
            announced.pop(int(pid), None)
    if announced:
        end_all(announced)
        for file in files:
            Path(file).unlink(missing_ok=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
