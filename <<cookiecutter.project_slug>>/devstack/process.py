"""One child of the stack: started in its own process group, watched, and ended with everything it started."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from devstack import guard
from devstack.errors import Interrupted, StackError

# The child tells the guard its number through standard input, before it turns into the program: there is no moment
# in which the program runs and the guard does not know it. Afterwards the pipe is no longer open in the child.
LAUNCHER = 'echo "+$$ $1" >&0; shift; exec "$@" </dev/null'
POLL_SECONDS = 0.02
TAIL_LINES = 15
COLOURS = re.compile(rb"\x1b\[[0-9;]*m")

Sink = Callable[[str, str], None]


class Guard:
    """The process that ends the children should this one be killed (see `devstack.guard`)."""

    def __init__(self, files: Sequence[Path], lock_fd: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, *map(str, files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(lock_fd,),
        )

    @property
    def pid(self) -> int:
        """The guard's process number."""
        return self._process.pid

    @property
    def pipe(self) -> IO[bytes]:
        """Where children announce themselves."""
        assert self._process.stdin is not None
        return self._process.stdin

    def forget(self, pid: int) -> None:
        """The child is gone: its number may belong to somebody else from now on."""
        os.write(self.pipe.fileno(), f"-{pid}\n".encode())

    def close(self) -> None:
        """Let the guard go; it ends what is still announced first."""
        with contextlib.suppress(OSError):
            self.pipe.close()
        self._process.wait()


def wait_until(
    condition: Callable[[], bool],
    *,
    seconds: float,
    abort: threading.Event,
    still_running: Callable[[], bool] = lambda: True,
) -> bool:
    """Poll until the condition holds; False when the time is over or the process ended."""
    deadline = time.monotonic() + seconds
    while True:
        if abort.is_set():
            raise Interrupted("the start was interrupted")
        running = still_running()
        if condition():
            return True
        if not running or time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)


@dataclass
class Process:
    """A program of the stack. `start`, `stop`, `kill` and `restart` may be repeated in any order."""

    name: str
    command: Callable[[], Sequence[str]]
    environment: Callable[[], Mapping[str, str]]
    cwd: Path
    log: Path
    guard: Guard
    ready: Callable[[], bool]
    abort: threading.Event
    sink: Sink | None = None
    before_start: Callable[[], None] = lambda: None
    stop_signal: signal.Signals = signal.SIGTERM
    # Generous: a machine that is busy with tests starts Python slowly.
    start_seconds: float = 90.0
    stop_seconds: float = 15.0
    _popen: subprocess.Popen[bytes] | None = None
    _pump: threading.Thread | None = None
    _log_start: int = 0
    # Whether it should run now: what tells a crash from a stop that was asked for.
    wanted: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def pid(self) -> int:
        """The process number; also that of its process group."""
        if self._popen is None:
            raise StackError(f"{self.name} was not started")
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it runs at this moment."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def exit_reason(self) -> str:
        """How it ended, in words."""
        code = self._popen.poll() if self._popen else None
        if code is None:
            return "still running"
        return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"

    def start(self) -> None:
        """Start it and wait until it is ready to serve."""
        self.spawn()
        self.wait_ready()

    def spawn(self) -> None:
        """Start it without waiting."""
        with self._lock:
            if self.alive:
                raise StackError(f"{self.name} runs already")
            self.before_start()
            self.wanted = True
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("ab") as log:
                self._log_start = log.tell()
                self._popen = subprocess.Popen(
                    ["/bin/sh", "-c", LAUNCHER, "sh", str(int(self.stop_signal)), *self.command()],
                    stdin=self.guard.pipe,
                    stdout=subprocess.PIPE if self.sink else log,
                    stderr=subprocess.STDOUT,
                    cwd=self.cwd,
                    env=dict(self.environment()),
                    process_group=0,
                )
            if self.sink:
                self._pump = threading.Thread(
                    target=self._forward,
                    args=(self._popen.stdout, self.sink),
                    name=f"log of {self.name}",
                    daemon=True,
                )
                self._pump.start()

    def run_to_end(self) -> None:
        """Start it and wait until it has done its work.

        Raises:
            StackError: it failed or did not end in time.
        """
        self.spawn()
        try:
            ended = wait_until(lambda: not self.alive, seconds=self.start_seconds, abort=self.abort)
            reason = self.exit_reason
        finally:
            self.stop()
        if reason != "exit code 0":
            what = f"failed ({reason})" if ended else "did not end in time"
            raise StackError(f"{self.name} {what}. Its last lines:\n{self.tail()}", f"read {self.log}")

    def wait_ready(self) -> None:
        """Wait until it serves; says what it wrote last if it does not."""
        if wait_until(self.ready, seconds=self.start_seconds, abort=self.abort, still_running=lambda: self.alive):
            return
        what = "was not ready in time" if self.alive else f"ended at once ({self.exit_reason})"
        self.stop()
        raise StackError(f"{self.name} {what}. Its last lines:\n{self.tail()}", f"read {self.log}")

    def stop(self) -> None:
        """Ask it to end, wait, then leave nothing of it behind."""
        self._end(self.stop_signal, self.stop_seconds)

    def kill(self) -> None:
        """SIGKILL, to it and everything it started, as a crash of the machine would."""
        self._end(signal.SIGKILL, self.stop_seconds)

    def restart(self) -> None:
        """Stop, start, wait until ready."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Hold it and all that it started still, as a hung process would be, until `resume`."""
        self._send_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let what is paused go on."""
        self._send_all(signal.SIGCONT)

    def _send_all(self, number: signal.Signals) -> None:
        # Not the group: each of PostgreSQL's backends leads one of its own.
        for pid in guard.family(self.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def _end(self, number: signal.Signals, seconds: float) -> None:
        with self._lock:
            self.wanted = False
            if self._popen is None:
                return
            pid = self._popen.pid
            members = guard.family(pid)
            if self._popen.poll() is None:
                # The leader alone is asked: Celery's children, for one, take SIGTERM as their own end.
                if number == signal.SIGKILL:
                    guard.kill_family(members, pid)
                else:
                    self._popen.send_signal(number)
                    self._send_all(signal.SIGCONT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._popen.wait(seconds)
            guard.kill_family(members | guard.family(pid), pid)
            self._popen.wait()
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline and (
                guard.group_alive(pid) or any(guard.alive(member, then) for member, then in members.items())
            ):
                time.sleep(POLL_SECONDS)
            if self._pump:
                self._pump.join(timeout=5)
            self.guard.forget(pid)
            self._popen = None

    def tail(self) -> str:
        """What it wrote last, since its latest start."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            lines = []
        return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:]) or "    (nothing)"

    def logged(self, text: str) -> bool:
        """Whether the text was written since the latest start."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                return text.encode() in log.read()
        except OSError:
            return False

    def _forward(self, stream: IO[bytes], sink: Sink) -> None:
        with stream, self.log.open("ab", buffering=0) as log:
            for line in stream:
                log.write(COLOURS.sub(b"", line))
                sink(self.name, line.decode(errors="replace").rstrip("\n"))
