"""`logs`: an archive of each month that is over: the audit trail, Loki's lines, a folder of log files.

What containers write to their standard output is kept by Docker for some days (ops/compose/base.yaml) and belongs to nobody
but root, so it is no source of this. Where logs have to be kept for long, Loki collects them, or whatever the machine has
writes them to BACKUP_LOGS_DIR; the audit trail is in the database, and so in any case here.
"""

import asyncio
import gzip
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

import asyncpg
import httpx
import structlog

from ops.backup import retention
from ops.backup.choose import LOOK, choose
from ops.backup.config import Config
from ops.backup.errors import BackupError
from ops.backup.lock import only_one
from ops.backup.making import Making
from ops.backup.manifest import Manifest
from ops.backup.outcome import Outcome, made
from ops.backup.postgres import Address, connected
from ops.backup.scratch import is_full, scratch
from ops.backup.store import Store

log = structlog.get_logger(__name__)

KIND: Final = "logs"
# Loki's own limit of one answer.
PAGE = 5000
LOKI_SECONDS = 60
# As many months are made up for at most; Loki and the audit trail keep no more anyway.
MONTHS = 12

AUDIT = """
SELECT to_jsonb(entry)::text FROM audit_log entry
 WHERE created_at >= $1 AND created_at < $2 ORDER BY created_at, id
"""


@dataclass(frozen=True, order=True)
class Month:
    """A month of UTC."""

    year: int
    number: int

    @classmethod
    def of(cls, text: str) -> "Month":
        """Out of 2026-10.

        Raises:
            BackupError: that is none.
        """
        try:
            found = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
        except ValueError as error:
            raise BackupError(f"{text!r} is no month", "write it as 2026-10") from error
        return cls(found.year, found.month)

    @classmethod
    def before(cls, now: datetime) -> "Month":
        """The last one that is over."""
        return cls(now.year, now.month).previous

    @property
    def previous(self) -> "Month":
        """The one before."""
        return Month(self.year - 1, 12) if self.number == 1 else Month(self.year, self.number - 1)

    @property
    def following(self) -> "Month":
        """The next one."""
        return Month(self.year + 1, 1) if self.number == 12 else Month(self.year, self.number + 1)

    @property
    def begin(self) -> datetime:
        """Its first moment."""
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """The first moment that is no longer in it."""
        return self.following.begin

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.number:02d}"


def run(config: Config, now: datetime | None = None, wanted: str | None = None) -> list[Outcome]:
    """Archive the months that are over and not archived yet, or the one that is named.

    Raises:
        Busy: another run is under way.
        BackupError: a month could not be archived; what was archived before stays.
    """
    store = Store(config)
    store.open()
    with only_one(config, KIND):
        months = [Month.of(wanted)] if wanted else _missing(store, now or datetime.now(UTC))
        return [made(_archive(config, store, month), lambda: retention.let_go(config, store, KIND)) for month in months]


def restore(config: Config, wanted: str, target: Path) -> list[Path]:
    """Write the archives of a month into a folder; several where it was archived more than once.

    Raises:
        Damaged: an archive is not what was written.
        BackupError: there is none of that month, or the folder is not empty.
    """
    store = Store(config)
    store.open()
    month = str(Month.of(wanted))
    found = [backup.manifest for backup in store.backups(KIND) if backup.manifest.details.get("month") == month]
    if not found:
        raise BackupError(f"there is no archive of {month}", LOOK)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for part in found[-1].parts:
        file = target / part.name.rpartition("/")[2]
        if file.exists():
            raise BackupError(f"{file} is there already", "name an empty folder")
        store.fetch(part, file)
        written.append(file)
    return written


def verify(config: Config, wanted: str | None = None) -> Manifest:
    """Read an archive to its end.

    Raises:
        Damaged: it is not what was written.
    """
    store = Store(config)
    store.open()
    manifest = choose(store, KIND, wanted)
    for part in manifest.parts:
        store.check(part)
    return manifest


def _missing(store: Store, now: datetime) -> list[Month]:
    last = Month.before(now)
    done = [
        Month.of(str(backup.manifest.details.get("month")))
        for backup in store.backups(KIND)
        if not backup.fault and backup.manifest.details.get("month")
    ]
    if not done:
        return [last]
    month, found = max(done).following, []
    while month <= last:
        found.append(month)
        month = month.following
    # A month that is archived already leaves nothing to do, yet a run that makes nothing would look like none.
    return found[-MONTHS:] or [last]


def _archive(config: Config, store: Store, month: Month) -> Manifest:
    making = Making(store, KIND)
    counts: dict[str, int] = {}
    with scratch("logs") as folder:
        for name, suffix, collect in (
            ("audit", "audit.jsonl.gz", _audit),
            ("loki", "loki.jsonl.gz", _loki),
            ("files", "files.tar.gz", _files),
        ):
            file = folder / suffix
            count = collect(config, month, file)
            if count is None:
                continue
            counts[name] = count
            making.send(suffix, file)
    return making.commit({"month": str(month), "counts": counts})


def _audit(config: Config, month: Month, file: Path) -> int | None:
    async def read() -> int:
        count = 0
        async with connected(Address(config.dsn)) as connection, connection.transaction(readonly=True):
            with _lines(file) as out:
                async for (line,) in connection.cursor(AUDIT, month.begin, month.end, prefetch=1000):
                    out.write(line.encode() + b"\n")
                    count += 1
        return count

    try:
        return asyncio.run(read())
    except asyncpg.UndefinedTableError:
        log.warning("backup_audit_missing", month=str(month))
        return None
    except asyncpg.PostgresError as error:
        raise BackupError(f"the audit trail could not be read: {error}", "check DATABASE_…") from error


def _loki(config: Config, month: Month, file: Path) -> int | None:
    if not config.logs.loki:
        return None
    count = 0
    try:
        with httpx.Client(base_url=config.logs.loki, timeout=LOKI_SECONDS) as client, _lines(file) as out:
            for entry in _entries(client, config.logs.query, month):
                out.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
                count += 1
    except (httpx.HTTPError, KeyError, ValueError) as error:
        raise BackupError(
            f"Loki at {config.logs.loki} gave no whole month: {error!r}", "check BACKUP_LOKI_…"
        ) from error
    return count


def _entries(client: httpx.Client, query: str, month: Month) -> Iterator[dict[str, object]]:
    """Every line of the month by its time; a page begins with the last moment of the one before, which is not told twice."""
    start, end = (int(moment.timestamp()) * 1_000_000_000 for moment in (month.begin, month.end))
    told: set[str] = set()
    while True:
        answer = client.get(
            "/loki/api/v1/query_range",
            params={"query": query, "start": start, "end": end, "limit": PAGE, "direction": "forward"},
        ).raise_for_status()
        found = [
            (int(moment), {"at": moment, "labels": stream["stream"], "line": line})
            for stream in answer.json()["data"]["result"]
            for moment, line, *_ in stream["values"]
        ]
        found.sort(key=lambda entry: entry[0])
        fresh = [(moment, entry) for moment, entry in found if json.dumps(entry, sort_keys=True) not in told]
        yield from (entry for _, entry in fresh)
        if len(found) < PAGE:
            return
        if not fresh:
            raise ValueError(f"more than {PAGE} lines of one moment")
        start = found[-1][0]
        told = {json.dumps(entry, sort_keys=True) for moment, entry in found if moment == start} | (
            told if fresh[0][0] == start else set()
        )


def _files(config: Config, month: Month, file: Path) -> int | None:
    """Files that were last written in that month, as a rotation leaves them."""
    root = config.logs.folder
    if root is None:
        return None
    if not root.is_dir():
        raise BackupError(f"there is no folder {root}", "set BACKUP_LOGS_DIR to one, or to nothing")
    begin, end = month.begin.timestamp(), month.end.timestamp()
    chosen = sorted(path for path in root.rglob("*") if path.is_file() and begin <= path.stat().st_mtime < end)
    try:
        with tarfile.open(file, "w:gz") as archive:
            for path in chosen:
                archive.add(path, str(path.relative_to(root)))
    except OSError as error:
        if is_full(error):
            raise
        raise BackupError(
            f"a log file could not be read: {error}", "let the backup's user read BACKUP_LOGS_DIR"
        ) from error
    return len(chosen)


@contextmanager
def _lines(file: Path) -> Iterator[IO[bytes]]:
    with file.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
        yield packed  # type: ignore[misc]  # as good as a file for writing
