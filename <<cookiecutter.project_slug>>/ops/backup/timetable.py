"""When what is due: cron's words for it, and what makes up for the time in which nothing ran."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from cronsim import CronSim, CronSimError

from app.core.settings import Backup, SettingsError

# A run that seems to lie further ahead than this was made by a clock that was wrong, and counts for nothing.
AHEAD = timedelta(hours=1)


@dataclass(frozen=True)
class Job:
    """One line of the timetable.

    Attributes:
        name: of the command, and of what it makes.
        times: in UTC, as in a crontab.
        heavy: not beside another heavy one: they share the disk and the database.
        follows: due as well when that one has made something since.
        needs: not before that one has ever made something.
    """

    name: str
    times: str
    heavy: bool = False
    follows: str = ""
    needs: str = ""

    def latest(self, now: datetime) -> datetime:
        """The last time of its own that has come."""
        # Backwards it begins before what it is given, and a time that is now has come.
        return next(CronSim(self.times, now + timedelta(minutes=1), reverse=True))

    def next(self, now: datetime) -> datetime:
        """The next one."""
        return next(CronSim(self.times, now))

    def interval(self, now: datetime) -> timedelta:
        """The longest wait between two of its times around now: over a weekend, say, or a month."""
        forward = CronSim(self.times, self.latest(now) - timedelta(seconds=1))
        times = [next(forward) for _ in range(8)]
        return max(later - earlier for earlier, later in pairwise(times))

    def due(self, now: datetime, made: Mapping[str, datetime], failed: datetime | None, retry: timedelta) -> bool:
        """Whether to run it now.

        Whoever ran it, and whenever: a time that passed while nothing was up is made up for, once.

        Args:
            now: by our clock.
            made: when each job last made something.
            failed: when this one was last tried in vain.
            retry: how soon it is tried again then.
        """
        own = made.get(self.name)
        if self.needs and self.needs not in made:
            return False
        wanted = self.latest(now)
        if self.follows in made and made[self.follows] <= now:
            wanted = max(wanted, made[self.follows])
        if own and wanted <= own <= now + AHEAD:
            return False
        return failed is None or not timedelta() <= now - failed < retry


def jobs(settings: Backup) -> list[Job]:
    """The timetable as it is set; what has no times is left out.

    Raises:
        SettingsError: a time cannot be read.
    """
    table = [
        Job("dump", settings.dump_at, heavy=True),
        Job("base", settings.base_at if settings.is_physical else "", heavy=True),
        Job("redis", settings.redis_at),
        # Right after each dump too: the two are a pair, as the objects hold all that the dump names.
        Job("objects", settings.objects_at, follows="dump"),
        Job("logs", settings.logs_at, heavy=True),
        Job("prove", settings.prove_at, heavy=True, needs="dump"),
    ]
    table = [job for job in table if job.times]
    faults = []
    for job in table:
        try:
            job.interval(datetime.now(UTC))
        except (CronSimError, StopIteration) as error:
            faults.append(f"BACKUP_{job.name.upper()}_AT: {job.times!r} is no time of cron: {error}")
    if faults:
        raise SettingsError(faults)
    return table
