"""The timetable: what is due, what is made up for, what never runs twice at once; and what Prometheus is told of it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from app.core.settings import Backup, SettingsError, Storage
from ops.backup import state
from ops.backup.config import Config, Keep
from ops.backup.errors import BUSY_CODE, BackupError
from ops.backup.manifest import Manifest, Part
from ops.backup.metrics import DRILL, Figures, Server, figures
from ops.backup.retention import expired
from ops.backup.schedule import Limits, Scheduler
from ops.backup.state import Known
from ops.backup.store import Backup as Stored
from ops.backup.timetable import Job, jobs

ROOT = Path(__file__).resolve().parents[2]
NOON = datetime(2026, 11, 21, 12, 0, 30, tzinfo=UTC)  # a Saturday
HOUR, DAY, QUARTER = timedelta(hours=1), timedelta(days=1), timedelta(minutes=15)
LIMITS = Limits(retry=QUARTER, longest=HOUR, drain=timedelta(seconds=20))
DAILY = Job("dump", "0 3 * * *")
HOURLY = Job("objects", "20 * * * *", follows="dump")


def at(hour: int, minute: int = 0, day: int = 21) -> datetime:
    """A time of that day."""
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("job", "made", "failed", "due"),
    [
        (DAILY, {}, None, True),  # never yet
        (DAILY, {"dump": at(3, 5)}, None, False),
        (DAILY, {"dump": at(3, 5, day=20)}, None, True),  # nothing ran at 3: made up for
        (DAILY, {"dump": at(2, 59)}, None, True),  # by hand, before its time
        (DAILY, {"dump": at(3, 5, day=20)}, at(11, 50), False),  # in vain ten minutes ago
        (DAILY, {"dump": at(3, 5, day=20)}, at(11, 40), True),
        (DAILY, {"dump": at(3, 5, day=20)}, at(13), True),  # by a clock that was wrong
        (DAILY, {"dump": at(12, 30)}, None, False),
        (DAILY, {"dump": at(12, day=30)}, None, True),  # the same
        (HOURLY, {"objects": at(11, 25)}, None, False),
        (HOURLY, {"objects": at(11, 25), "dump": at(11, 10)}, None, False),
        (HOURLY, {"objects": at(11, 25), "dump": at(11, 40)}, None, True),  # the other half of the pair
        (Job("prove", "0 5 * * 0", needs="dump"), {}, None, False),
        (Job("prove", "0 5 * * 0", needs="dump"), {"dump": at(3)}, None, True),
        (Job("redis", "0 12 * * *"), {"redis": at(11, 59)}, None, True),  # its minute has come
    ],
)
def test_what_is_due(job: Job, made: Mapping[str, datetime], failed: datetime | None, due: bool) -> None:
    """Read from what there is, so it does not matter who made it, nor what ran meanwhile."""
    assert job.due(NOON, made, failed, QUARTER) is due


@pytest.mark.parametrize(
    ("times", "longest"), [("0 3 * * *", DAY), ("5 * * * *", HOUR), ("0 4 1 * *", 31 * DAY), ("0 6 * * 1-5", 3 * DAY)]
)
def test_how_late_is_late(times: str, longest: timedelta) -> None:
    """The longest wait: over a weekend, in a long month."""
    assert Job("x", times).interval(NOON) == longest


def test_the_timetable_is_set_and_checked() -> None:
    """Every fault at once; what has no times is not run."""
    physical = Backup(replication_password=SecretStr("given"))
    assert [job.name for job in jobs(physical)] == ["dump", "base", "redis", "objects", "logs", "prove"]
    assert "base" not in [job.name for job in jobs(Backup())], "nobody could make one"
    assert "base" not in [job.name for job in jobs(Backup(base_at=""))]
    assert "redis" not in [job.name for job in jobs(Backup(redis_at="off"))], "empty would be unset, and so the default"
    with pytest.raises(SettingsError, match=r"(?s)BACKUP_DUMP_AT: '61 \* \* \* \*' is no time of cron.*BACKUP_LOGS_AT"):
        jobs(Backup(dump_at="61 * * * *", logs_at="monthly"))


# The loop, with commands that are files: what ran, how often, and how it ended


class Desk:
    """A scheduler whose commands note themselves and end as they are told, and a store that knows what they made."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.made: dict[str, Known] = {}
        self.away = False
        script = folder / "command.py"
        script.write_text(
            "import os, pathlib, sys, time\n"
            "folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]\n"
            "with (folder / f'{name}.ran').open('a') as file: file.write('x')\n"
            "while (folder / f'{name}.wait').exists(): time.sleep(0.01)\n"
            "code = folder / f'{name}.code'\n"
            "sys.exit(int(code.read_text()) if code.exists() else 0)\n"
        )

        def refresh(looking: state.State) -> None:
            if self.away:
                raise BackupError("the store is away")
            looking.kinds = dict(self.made)

        monkeypatch.setattr(state.State, "refresh", refresh)
        monkeypatch.setattr("ops.backup.schedule.LOOK_SECONDS", 0.0)
        self.command = (sys.executable, "-S", "-E", str(script), str(folder))

    def scheduler(self, *planned: Job, limits: Limits = LIMITS, watch: bool = False) -> Scheduler:
        """One more scheduler."""
        config = Config(dsn="", admin_dsn="", store=Storage(), prefix="", keep={})
        self.made.setdefault("proof", Known())
        return Scheduler(config, planned, limits, self.command, watch=watch)

    def ran(self, name: str) -> int:
        """How often a command ran."""
        file = self.folder / f"{name}.ran"
        return len(file.read_text()) if file.exists() else 0

    def ends(self, name: str, code: int) -> None:
        """From now on it ends so."""
        (self.folder / f"{name}.code").write_text(str(code))

    def hold(self, name: str) -> Path:
        """It waits for as long as this file is there."""
        file = self.folder / f"{name}.wait"
        file.touch()
        return file


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Empty."""
    return Desk(tmp_path, monkeypatch)


def turn_until(scheduler: Scheduler, reached: Callable[[], bool], now: datetime = NOON) -> None:
    """Turn the loop until something is so."""
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        scheduler.turn(now)
        time.sleep(0.01)


def test_a_failed_job_is_tried_again_later_and_stops_no_other(desk: Desk) -> None:
    """The alarm's figure goes up with it, and down with the next good one."""
    desk.ends("dump", 1)
    scheduler = desk.scheduler(DAILY, Job("redis", "5 * * * *"))

    def failed() -> object:
        return scheduler.figures.by_kind.get("dump", {}).get("backup_last_attempt_failed")

    turn_until(scheduler, lambda: failed() == 1.0 and desk.ran("redis") > 0)
    desk.made["redis"] = Known(made=NOON)
    turns = 20
    for _ in range(turns):
        scheduler.turn(NOON + timedelta(minutes=1))
    assert desk.ran("dump") == 1
    desk.ends("dump", 0)
    turn_until(scheduler, lambda: desk.ran("dump") == 2, NOON + 2 * QUARTER)
    desk.made["dump"] = Known(made=NOON + 2 * QUARTER)
    turn_until(scheduler, lambda: failed() == 0.0, NOON + 2 * QUARTER)


def test_a_job_runs_once_at_a_time_and_heavy_ones_one_after_the_other(desk: Desk) -> None:
    """A long dump holds the physical backup up, not the snapshot of the broker."""
    scheduler = desk.scheduler(
        Job("dump", "0 3 * * *", heavy=True), Job("base", "0 2 * * *", heavy=True), Job("redis", "5 * * * *")
    )
    held = desk.hold("dump")
    turn_until(scheduler, lambda: desk.ran("dump") == 1 and desk.ran("redis") == 1)
    desk.made["redis"] = Known(made=NOON)
    for _ in range(20):
        scheduler.turn(NOON)
    assert (desk.ran("dump"), desk.ran("base")) == (1, 0)
    held.unlink()
    desk.made["dump"] = Known(made=NOON)
    turn_until(scheduler, lambda: desk.ran("base") == 1)


def test_of_two_schedulers_the_second_sees_that_it_is_done(desk: Desk) -> None:
    """While the first is at it the lock sends the second away, which is no failure and not tried every second."""
    first, second = desk.scheduler(DAILY), desk.scheduler(DAILY)
    desk.ends("dump", BUSY_CODE)
    turn_until(second, lambda: desk.ran("dump") == 1)
    turn_until(second, lambda: not second._running)
    assert second.figures.by_kind["dump"]["backup_last_attempt_failed"] == 0.0
    desk.ends("dump", 0)
    turn_until(first, lambda: desk.ran("dump") == 2)
    desk.made["dump"] = Known(made=NOON)
    for _ in range(20):
        first.turn(NOON)
        second.turn(NOON)
    assert desk.ran("dump") == 2


def test_while_the_store_is_away_nothing_looks_due(desk: Desk) -> None:
    """At first nothing is known; later what was known counts on."""
    desk.away = True
    scheduler = desk.scheduler(DAILY)
    for _ in range(5):
        scheduler.turn(NOON)
    assert desk.ran("dump") == 0
    desk.away = False
    turn_until(scheduler, lambda: desk.ran("dump") == 1)


def test_a_watch_runs_nothing(desk: Desk) -> None:
    """Where CronJobs have the timetable, it still says how it stands."""
    scheduler = desk.scheduler(DAILY, watch=True)
    for _ in range(5):
        scheduler.turn(NOON)
    assert desk.ran("dump") == 0
    assert scheduler.figures.by_kind["dump"]["backup_last_success_timestamp_seconds"] == 0.0


def test_what_takes_too_long_is_ended_with_what_it_started(desk: Desk) -> None:
    """And counts as failed."""
    desk.hold("dump")
    scheduler = desk.scheduler(DAILY, limits=Limits(QUARTER, timedelta(seconds=0.3), timedelta()))
    turn_until(scheduler, lambda: "dump" in scheduler._failed)
    assert desk.ran("dump") == 1


@pytest.mark.parametrize(("drain", "whole"), [(20, True), (0, False)])
def test_the_end_waits_for_what_runs(desk: Desk, drain: float, whole: bool) -> None:
    """For as long as it is told to; what is not over by then is ended too."""
    held = desk.hold("dump")
    scheduler = desk.scheduler(DAILY, limits=Limits(QUARTER, HOUR, timedelta(seconds=drain)))
    thread = threading.Thread(target=scheduler.run)
    thread.start()
    deadline = time.monotonic() + 30
    while desk.ran("dump") < 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process = next(iter(scheduler._running.values())).process
    scheduler.stop()
    if whole:
        held.unlink()
    thread.join(30)
    assert not thread.is_alive()
    assert process.returncode == (0 if whole else -signal.SIGTERM)


# What Prometheus is told


def test_metrics_and_health_are_served() -> None:
    """On one port; unknown paths are unknown, and a loop that hangs is unhealthy."""
    told = Figures()
    told.by_kind = {"dump": figures("dump", Known(NOON, 10, 30, 1.5, 7, 1, "a clock jumped"), True, 86400)}
    told.drill = dict.fromkeys(DRILL, 1.0)
    alive = [True, False]
    server = Server("127.0.0.1", 0, told, lambda: alive.pop(0))
    try:
        base = f"http://127.0.0.1:{server.port}"
        families = {family.name: family for family in text_string_to_metric_families(httpx.get(f"{base}/metrics").text)}
        for path, status in (("/health", 200), ("/health", 503), ("/etc", 404)):
            assert httpx.get(f"{base}{path}").status_code == status
    finally:
        server.close()
    values = {name: family.samples[0].value for name, family in families.items()}
    assert values == {
        "backup_last_success_timestamp_seconds": NOON.timestamp(),
        "backup_last_attempt_failed": 1.0,
        "backup_interval_seconds": 86400.0,
        "backup_last_size_bytes": 10.0,
        "backup_previous_size_bytes": 30.0,
        "backup_duration_seconds": 1.5,
        "backup_kept": 7.0,
        "backup_damaged": 1.0,
        "backup_retention_held": 1.0,
        **dict.fromkeys(DRILL, 1.0),
    }


def test_the_memory_is_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart the figures are what they were: they come from the manifests."""

    def stored(sequence: int, days: float, size: int, fault: str = "", **details: object) -> Stored:
        made = NOON - days * DAY
        manifest = Manifest("objects", f"{sequence:06d}-x", sequence, made, (Part("p", size, ""),), 2.5, details)
        return Stored(manifest, made, fault)

    listed = (NOON - DAY - HOUR).isoformat()
    kinds = {
        "objects": [
            stored(1, 2, 5, object_bytes=100),
            stored(2, 1, 6, object_bytes=40, listed_at=listed),
            stored(3, 0, 7, "missing"),
        ],
        "dump": [stored(1, 60, 5), stored(2, 10, 6), stored(3, 0, 6), stored(4, 0, 6)],
    }
    config = Config(dsn="", admin_dsn="", store=Storage(), prefix="", keep={"dump": Keep(5, 1), "objects": Keep(5, 1)})
    looking = state.State(config)
    monkeypatch.setattr(looking._store, "backups", lambda kind: kinds.get(kind, []))
    monkeypatch.setattr(looking._store, "unreadable", lambda _kind: [])
    monkeypatch.setattr(looking._store, "open", lambda: None)
    looking.refresh()
    known = looking.kinds["objects"]
    assert (known.made, known.size, known.size_before, known.kept, known.damaged) == (NOON - DAY - HOUR, 40, 100, 2, 1)
    assert not known.held
    kinds["dump"].pop()
    assert expired(kinds["dump"], Keep(5, 1)).warning
    looking.refresh()
    assert "clock" in looking.kinds["dump"].held
    assert looking.kinds["base"] == Known()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command itself, with a store that is away."""
    env = os.environ | {
        "ENV_FILE": "",
        "BACKUP_S3_ENDPOINT_URL": "http://127.0.0.1:1",
        "BACKUP_ENCRYPTION": "off",
        "METRICS_BACKUP_PORT": "0",
    }
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "ops.backup", "schedule"], cwd=ROOT, env=env, stdout=log, stderr=log
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        log.close()


def test_the_service_starts_and_ends_when_it_is_told(service: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """SIGTERM is how containers end."""
    deadline = time.monotonic() + 60
    while b"backup_job_planned" not in (tmp_path / "log").read_bytes():
        assert service.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    service.send_signal(signal.SIGTERM)
    assert service.wait(60) == 0
