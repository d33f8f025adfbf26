"""`make dev`: start the stack, show its logs, restart what changes or crashes, stop when asked."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from devstack import guard
from devstack.console import Console
from devstack.errors import Interrupted, StackError
from devstack.ports import LOOPBACK, USUAL
from devstack.stack import PROJECT, SERVICES, Stack

TICK_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 30.0
# A part that ran this long before it crashed starts again at once.
STEADY_SECONDS = 60.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class _Keeper:
    """What is remembered of a part of the service while it is looked after."""

    busy: threading.Thread | None = None
    retry_at: float | None = None
    wait_seconds: float = 1.0
    started_at: float = 0.0


class Development:
    """Runs a stack in the foreground until a signal comes or a neighbour fails."""

    def __init__(self, stack: Stack, console: Console, env_file: Path, *, reload: bool) -> None:
        self._stack = stack
        self._console = console
        self._env_file = env_file
        self._reload = reload
        self._stopping = threading.Event()
        self._changed = threading.Event()
        self._keepers = {name: _Keeper() for name in stack.names if SERVICES[name].is_app}

    def run(self) -> int:
        """Everything from start to stop; returns the exit code."""
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        began = time.monotonic()
        # From now on, so that what is saved while the stack starts is not missed.
        watcher = self._watch()
        try:
            self._stack.start()
            self._announce(time.monotonic() - began)
            code = self._look_after()
        except Interrupted:
            self._console.say("stopped before it was ready")
            return 130
        else:
            return code
        finally:
            self._stopping.set()
            if watcher:
                watcher.join()
            self._stop()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._stopping.is_set():
            # Asked twice: no more waiting for anybody.
            for process in self._stack.processes.values():
                with contextlib.suppress(StackError):
                    guard.kill_family(guard.family(process.pid), process.pid)
        # By another thread: the one that was interrupted may hold the lock of the very event that is set here, and would wait for itself.
        threading.Thread(target=self._end, name="end", daemon=True).start()

    def _end(self) -> None:
        self._stopping.set()
        self._stack.interrupt()

    def _announce(self, seconds: float) -> None:
        say, stack = self._console.say, self._stack
        say(f"ready in {seconds:.1f} s")
        if {"nginx", "api"} & set(stack.names):
            say(f"  {stack.url}  the service{' (API description: /docs)' if 'api' in stack.names else ''}")
        for name, port in stack.ports.items():
            usual = USUAL[name]
            say(f"  {name:8} {LOOPBACK}:{port}{'' if port == usual else f'  (the usual {usual} was taken)'}")
        say(f"  data and logs: {os.path.relpath(stack.data)}   Ctrl-C stops")

    def _watch(self) -> threading.Thread | None:
        if not self._reload or not self._keepers:
            return None

        def watch() -> None:
            # Imported here: without reload nothing needs it.
            from watchfiles import PythonFilter, watch

            for changes in watch(
                PROJECT / "app", watch_filter=PythonFilter(), stop_event=self._stopping, rust_timeout=500
            ):
                names = sorted({os.path.relpath(path, PROJECT) for _, path in changes})
                self._console.say(f"changed: {', '.join(names)}")
                self._changed.set()

        thread = threading.Thread(target=watch, name="watch", daemon=True)
        thread.start()
        return thread

    def _look_after(self) -> int:
        env_file_then = _modified(self._env_file)
        for keeper in self._keepers.values():
            keeper.started_at = time.monotonic()
        while not self._stopping.wait(TICK_SECONDS):
            for name, process in self._stack.processes.items():
                if name not in self._keepers and not process.alive:
                    self._console.shout(f"{name} ended ({process.exit_reason}), so the stack ends. Its last lines:")
                    self._console.shout(process.tail())
                    return 1
            if not self._stack.guard_alive:
                self._console.shout("the guard that cleans up after a kill has ended, so the stack ends")
                return 1
            if self._reload and (env_file_now := _modified(self._env_file)) != env_file_then:
                env_file_then = env_file_now
                self._console.say(f"changed: {self._env_file.name} (new passwords or ports need a new `make dev`)")
                self._changed.set()
            if self._changed.is_set() and not self._any_busy():
                self._changed.clear()
                self._restart_all()
            for name, keeper in self._keepers.items():
                self._keep(name, keeper)
        return 0

    def _any_busy(self) -> bool:
        return any(keeper.busy and keeper.busy.is_alive() for keeper in self._keepers.values())

    def _keep(self, name: str, keeper: _Keeper) -> None:
        """Start a part again that crashed, later each time it crashes soon."""
        process = self._stack.processes[name]
        if (keeper.busy and keeper.busy.is_alive()) or process.alive:
            return
        now = time.monotonic()
        if keeper.retry_at is None:
            if now - keeper.started_at > STEADY_SECONDS:
                keeper.wait_seconds = 1.0
            keeper.retry_at = now + keeper.wait_seconds
            again = (
                f"it starts again in {keeper.wait_seconds:.0f} s{', or when a file changes' if self._reload else ''}"
            )
            reason = f"crashed ({process.exit_reason})" if process.wanted else "does not start"
            self._console.shout(f"{name} {reason}; {again}")
            keeper.wait_seconds = min(keeper.wait_seconds * 2, LONGEST_WAIT_SECONDS)
        elif now >= keeper.retry_at:
            self._in_background(name, keeper, [process.stop, process.start])

    def _restart_all(self) -> None:
        for name, keeper in self._keepers.items():
            keeper.wait_seconds = 1.0
            process = self._stack.processes[name]
            self._in_background(name, keeper, [process.stop, process.start])

    def _in_background(self, name: str, keeper: _Keeper, actions: Iterable[Callable[[], None]]) -> None:
        def work() -> None:
            began = time.monotonic()
            try:
                for action in actions:
                    action()
            except Interrupted:
                return
            except StackError as error:
                self._console.shout(str(error))
            else:
                keeper.started_at = time.monotonic()
                self._console.say(f"{name} is ready again after {keeper.started_at - began:.1f} s")

        keeper.retry_at = None
        keeper.busy = threading.Thread(target=work, name=f"restart {name}", daemon=True)
        keeper.busy.start()

    def _stop(self) -> None:
        began = time.monotonic()
        self._console.say("stopping")
        self._stack.interrupt()
        for keeper in self._keepers.values():
            if keeper.busy:
                keeper.busy.join()
        self._stack.stop()
        self._console.say(f"stopped in {time.monotonic() - began:.1f} s; nothing is left running")


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
