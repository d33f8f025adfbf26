"""`schedule`: runs the other commands by the timetable, each as a process of its own, and tells Prometheus how it went.

What is due is read from the store, so it does not matter who ran it last, nor how often this process was restarted, nor
that a second one runs elsewhere: the lock of each kind lets one of them through, and the other sees that it is done.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog

from ops.backup.config import Config
from ops.backup.errors import BUSY_CODE, BackupError
from ops.backup.metrics import Figures, Heartbeat, Server, figures
from ops.backup.state import Known, State
from ops.backup.timetable import Job

log = structlog.get_logger(__name__)

TICK_SECONDS = 1.0
# How often the store is asked what others made meanwhile.
LOOK_SECONDS = 60.0
# And how soon to ask again for a lock that somebody else has.
ELSEWHERE_SECONDS = 60.0
# A look may wait for the store through all its attempts.
STUCK_SECONDS = 600.0
KILL_SECONDS = 10.0
# What `prove` leaves in the store.
PROOF = "proof"


@dataclass(frozen=True)
class Limits:
    """How long things may take.

    Attributes:
        retry: until what failed is tried again.
        longest: that a run may take.
        drain: that the end waits for runs under way.
    """

    retry: timedelta
    longest: timedelta
    drain: timedelta


@dataclass
class _Run:
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def end(self) -> None:
        """It and what it started: first kindly."""
        for how, wait in ((signal.SIGTERM, KILL_SECONDS), (signal.SIGKILL, None)):
            try:
                os.killpg(self.process.pid, how)
                self.process.wait(wait)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue


class Scheduler:
    """The loop."""

    def __init__(
        self,
        config: Config,
        jobs: Sequence[Job],
        limits: Limits,
        command: Sequence[str] = (sys.executable, "-m", "ops.backup"),
        env: Mapping[str, str] | None = None,
        *,
        watch: bool = False,
    ) -> None:
        """Plan it.

        Args:
            config: where the backups are.
            jobs: the timetable.
            limits: of the runs.
            command: a job's name is added to it.
            env: of the runs; this process's own without it.
            watch: run nothing, only say how it stands: where something else has the timetable.
        """
        self.figures = Figures()
        self.heartbeat = Heartbeat(STUCK_SECONDS)
        self._jobs = jobs
        self._watch = watch
        self._limits = limits
        self._command = list(command)
        self._env = env
        self._state = State(config)
        self._running: dict[str, _Run] = {}
        self._failed: dict[str, datetime] = {}
        self._elsewhere: dict[str, float] = {}
        self._looked = -LOOK_SECONDS
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Begin nothing more, and end when what runs has ended. Safe in a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Until `stop`."""
        now = datetime.now(UTC)
        for job in self._jobs:
            log.info("backup_job_planned", job=job.name, times=job.times, next=job.next(now).isoformat())
        while not self._stopping.wait(TICK_SECONDS):
            self.turn(datetime.now(UTC))
        self._drain()

    def turn(self, now: datetime) -> None:
        """Once round: what has ended, what is due."""
        ended = [name for name, run in self._running.items() if self._has_ended(name, run, now)]
        for name in ended:
            del self._running[name]
        if ended or time.monotonic() - self._looked >= LOOK_SECONDS:
            self._look(now)
        heavy = any(job.heavy for job in self._jobs if job.name in self._running)
        made = self._made()
        for job in self._jobs:
            if job.name in self._running or (job.heavy and heavy) or self._is_elsewhere(job.name):
                continue
            if self._knows and not self._watch and job.due(now, made, self._failed.get(job.name), self._limits.retry):
                self._start(job)
                heavy = heavy or job.heavy
        self.heartbeat.beat()

    def _is_elsewhere(self, name: str) -> bool:
        """Whether somebody else was at it a moment ago."""
        return time.monotonic() - self._elsewhere.get(name, -ELSEWHERE_SECONDS) < ELSEWHERE_SECONDS

    @property
    def _knows(self) -> bool:
        """Whether the store has ever said what there is; without that, everything would look due."""
        return bool(self._state.kinds)

    def _made(self) -> dict[str, datetime]:
        made = {str(kind): known.made for kind, known in self._state.kinds.items() if known.made}
        if PROOF in made:
            made["prove"] = made.pop(PROOF)
        return made

    def _start(self, job: Job) -> None:
        log.info("backup_job_started", job=job.name)
        # A group of its own: what it starts ends with it.
        process = subprocess.Popen(
            [*self._command, job.name], env=self._env, stdin=subprocess.DEVNULL, start_new_session=True
        )
        self._running[job.name] = _Run(process)

    def _has_ended(self, name: str, run: _Run, now: datetime) -> bool:
        code = run.process.poll()
        if code is None and timedelta(seconds=run.seconds) > self._limits.longest:
            log.error("backup_job_too_long", job=name, seconds=round(run.seconds, 1))
            run.end()
            code = run.process.poll()
        if code is None:
            return False
        self._note(name, code, run.seconds, now)
        return True

    def _note(self, name: str, code: int, seconds: float, now: datetime) -> None:
        if code == 0:
            self._failed.pop(name, None)
            log.info("backup_job_ended", job=name, seconds=round(seconds, 3))
        elif code == BUSY_CODE:
            # What they make is seen by a later look; if nothing comes of it, it is due again.
            self._elsewhere[name] = time.monotonic()
            log.info("backup_job_elsewhere", job=name)
        else:
            self._failed[name] = now
            log.error(
                "backup_job_failed", job=name, code=code, seconds=round(seconds, 3), retry_after=str(self._limits.retry)
            )

    def _look(self, now: datetime) -> None:
        self._looked = time.monotonic()
        try:
            self._state.refresh()
        except BackupError as error:
            log.error("backup_store_away", reason=str(error))
        known = self._state.kinds
        self.figures.by_kind = {
            job.name: figures(
                job.name, known.get(job.name, Known()), job.name in self._failed, job.interval(now).total_seconds()
            )
            for job in self._jobs
            if job.name != "prove"
        }
        self._look_at_proof(now)

    def _look_at_proof(self, now: datetime) -> None:
        job = next((job for job in self._jobs if job.name == "prove"), None)
        if not job:
            return
        found = self._state.kinds.get(PROOF, Known())
        self.figures.drill = {
            "backup_drill_last_success_timestamp_seconds": found.made.timestamp() if found.made else 0.0,
            "backup_drill_failed": float("prove" in self._failed),
            "backup_drill_interval_seconds": job.interval(now).total_seconds(),
        }

    def _drain(self) -> None:
        """Let runs under way come to their end, for a while."""
        if self._running:
            log.info("backup_draining", jobs=sorted(self._running), seconds=self._limits.drain.total_seconds())
        deadline = time.monotonic() + self._limits.drain.total_seconds()
        for name, run in self._running.items():
            try:
                code = run.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("backup_job_cut_off", job=name, seconds=round(run.seconds, 1))
                run.end()
            else:
                self._note(name, code, run.seconds, datetime.now(UTC))


def serve(scheduler: Scheduler, host: str, port: int) -> None:
    """Run it until SIGTERM or SIGINT, with its metrics on a port; 0 is none."""
    server = Server(host, port, scheduler.figures, scheduler.heartbeat.alive) if port else None
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: scheduler.stop())
        scheduler.run()
    finally:
        if server:
            server.close()
