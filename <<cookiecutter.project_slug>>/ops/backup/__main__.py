"""`python -m ops.backup`: the command line of backup and restore."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import structlog
import typer

from app.core.logging import configure_logging
from app.core.settings import Settings, SettingsError, load_settings
from ops.backup import base as basing
from ops.backup import dump as dumping
from ops.backup.config import Config
from ops.backup.errors import BUSY_CODE, BackupError, Busy
from ops.backup.manifest import KINDS, Kind
from ops.backup.outcome import Outcome
from ops.backup.progress import Progress
from ops.backup.report import Success, write_metrics
from ops.backup.restore import base as recovering
from ops.backup.restore import dump as restoring
from ops.backup.restore.base import SUPERUSER, Target
from ops.backup.store import Store

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
restore = typer.Typer(no_args_is_help=True, help="The way back: a command for each kind of backup.")
cli.add_typer(restore, name="restore")
log = structlog.get_logger(__name__)
From = Annotated[str | None, typer.Option("--from", help="Id of the backup; the newest one without it.")]
At = Annotated[
    str | None, typer.Option("--at", help="As it was then: 2026-11-21T14:59:30, in UTC unless it says otherwise.")
]
Force = Annotated[bool, typer.Option(help="Replace what is live; it is kept aside.")]


def _config() -> Config:
    settings = load_settings()
    # A run that nobody sees in the log did not happen, also where the service itself only logs warnings.
    loud = settings.log.model_copy(update={"level": settings.log.level or "INFO"})
    configure_logging(Settings.model_copy(settings, update={"log": loud}), "backup")
    return Config.from_settings(settings)


@cli.command(name="run", hidden=True)
@cli.command()
def dump() -> None:
    """Dump the database, check it, send it, and let go what is too old."""
    config = _config()
    began = time.monotonic()
    try:
        outcome = dumping.run(config)
    except Busy:
        raise
    except BackupError as error:
        seconds = time.monotonic() - began
        log.error("backup_failed", kind="dump", reason=str(error), seconds=round(seconds, 3))
        if config.metrics_file:
            write_metrics(config.metrics_file, seconds, None)
        raise
    manifest, let_go = outcome.manifest, outcome.let_go
    tables = manifest.details["contents"]["tables"]
    log.info(
        "backup_made",
        kind=manifest.kind,
        backup=manifest.id,
        bytes=manifest.size,
        seconds=manifest.seconds,
        tables=len(tables),
        rows=sum(tables.values()),
        kept=let_go.kept if let_go else None,
        deleted=let_go.deleted if let_go else [],
        damaged=let_go.damaged if let_go else [],
    )
    if config.metrics_file:
        kept = let_go.kept if let_go else None
        write_metrics(config.metrics_file, manifest.seconds, Success(manifest.size, kept))


@cli.command()
def base() -> None:
    """Copy the whole cluster, check the copy, and let go what nothing leads back to any more."""
    config = _config()
    _report("base", lambda: [basing.run(config)])


@cli.command()
def wal(
    flush: Annotated[
        bool, typer.Option("--flush", help="Have the running receiver store everything written so far, and end.")
    ] = False,
) -> None:
    """Receive the write-ahead log and store each segment, until it is told to stop: what leads to any second."""
    from ops.backup.wal import receiver, serve

    if flush:
        asyncio.run(receiver.flush(_config()))
        print("everything written so far is stored")
        return
    settings = load_settings()
    serve.main(_config(), settings.metrics.backup_host, settings.metrics.backup_port)


@cli.command()
def redis() -> None:
    """Take a snapshot of the broker, check it, send it, and let go what is too old."""
    from ops.backup.redis import snapshot

    config = _config()
    _report("redis", lambda: [snapshot.run(config)])


@cli.command()
def objects() -> None:
    """Mirror the objects that are new, note what was deleted, and let go what no moment needs any more."""
    from ops.backup.objects import mirror

    config = _config()
    _report("objects", lambda: [mirror.run(config, Progress("objects"))])


@cli.command()
def pair() -> None:
    """Dump the database and then mirror the objects: no row of the dump is without its object."""
    # Before it as well: what is deleted in the meantime is lost to a bucket that keeps no versions.
    objects()
    dump()
    objects()


@cli.command()
def logs(
    month: Annotated[str | None, typer.Option(help="This one, as 2026-10; else all that are missing.")] = None,
) -> None:
    """Archive the months that are over: the audit trail, and what BACKUP_LOKI_URL and BACKUP_LOGS_DIR name."""
    from ops.backup import logs as archive

    config = _config()
    _report("logs", lambda: archive.run(config, wanted=month))


@cli.command()
def prove() -> None:
    """Restore the newest backup of each kind to a scratch place, compare it, and store the result."""
    from ops.backup import proof

    config = _config()
    _report("proof", lambda: [proof.run(config)])


@cli.command()
def schedule(
    watch: Annotated[
        bool, typer.Option(help="Run nothing: something else does, and this only has the metrics.")
    ] = False,
) -> None:
    """Run all of these by the timetable (BACKUP_…_AT), until SIGTERM; metrics are on METRICS_BACKUP_PORT."""
    from ops.backup.schedule import Limits, Scheduler, serve
    from ops.backup.timetable import jobs

    settings, config = load_settings(), _config()
    backup = settings.backup
    limits = Limits(
        retry=timedelta(minutes=backup.retry_minutes),
        longest=timedelta(hours=backup.longest_hours),
        drain=timedelta(seconds=backup.drain_seconds),
    )
    scheduler = Scheduler(config, jobs(backup), limits, watch=watch)
    serve(scheduler, settings.metrics.backup_host, settings.metrics.backup_port)


def _report(kind: Kind, work: Callable[[], Sequence[Outcome]]) -> None:
    """Run a backup, and leave a line in the log whatever comes of it."""
    began = time.monotonic()
    try:
        made = work()
    except Busy:
        raise
    except BackupError as error:
        log.error("backup_failed", kind=kind, reason=str(error), seconds=round(time.monotonic() - began, 3))
        raise
    for outcome in made:
        manifest, let_go = outcome.manifest, outcome.let_go
        log.info(
            "backup_made",
            kind=kind,
            backup=manifest.id,
            bytes=manifest.size,
            seconds=manifest.seconds,
            kept=let_go.kept if let_go else None,
            deleted=let_go.deleted if let_go else [],
            damaged=let_go.damaged if let_go else [],
            **manifest.details,
        )


@cli.command(name="list")
def list_(
    kind: Annotated[str, typer.Option(help=f"Only this kind: {', '.join(KINDS)}.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show every backup by kind, oldest first."""
    if kind and kind not in KINDS:
        raise BackupError(f"there is no kind {kind}", f"the kinds are {', '.join(KINDS)}")
    store = Store(_config())
    store.open()
    kinds: list[Kind] = [known for known in KINDS if kind in ("", known)]
    found = [backup for known in kinds for backup in store.backups(known)]
    if as_json:
        print(json.dumps([json.loads(backup.manifest.to_json()) | {"fault": backup.fault} for backup in found]))
        return
    unreadable = [reason for known in kinds for reason in store.unreadable(known)]
    for backup in found:
        manifest = backup.manifest
        print(f"{manifest.kind:8} {manifest.id}  {manifest.size:>16,} bytes  {backup.fault or 'ok'}")
    for reason in unreadable:
        print(f"unreadable: {reason}")
    if not found and not unreadable:
        print("there is no backup yet: make backup")


@cli.command()
def verify(
    kind: Annotated[str, typer.Argument(help="dump, base, redis, objects or logs.")] = "dump", wanted: From = None
) -> None:
    """Fetch a backup and read it to its end, without restoring it. Of objects, every one in the mirror."""
    from ops.backup import logs as archive
    from ops.backup.objects import mirror
    from ops.backup.redis import snapshot

    known = {
        "dump": dumping.verify,
        "base": basing.verify,
        "redis": snapshot.verify,
        "objects": mirror.verify,
        "logs": archive.verify,
    }
    if kind not in known:
        raise BackupError(f"there is nothing to verify of {kind}", f"one of {', '.join(known)}")
    manifest = known[kind](_config(), wanted)
    print(f"{manifest.kind} {manifest.id} is whole: {manifest.size:,} bytes")


@cli.command()
def history(key: str) -> None:
    """Show the lives of an object: what `restore objects --key KEY --at TIME` can bring back."""
    from ops.backup.objects import mirror
    from ops.backup.restore.objects import history as line

    lives = mirror.history(_config(), key)
    for life in lives:
        print(line(life))
    if not lives:
        raise BackupError(f"the mirror has never seen {key}")


@restore.command(name="redis")
def restore_redis(
    wanted: From = None,
    force: Force = False,
    address: Annotated[
        str, typer.Option(help="Where the broker can reach this machine, if not by the address we use.")
    ] = "",
) -> None:
    """Put a snapshot in the place of what the broker holds, in memory and in its append-only file."""
    from ops.backup.restore import redis as restoring_redis

    result = restoring_redis.restore(_config(), wanted, force=force, own_address=address)
    print(f"the broker has {result.keys:,} keys, of backup {result.manifest.id}, in memory and on disk.")
    print("next: start worker and beat; tasks that ran since the backup may run again, which they bear")
    if result.kept:
        print(f"what it held before is backup {result.kept}: restore redis --from {result.kept} --force")


@restore.command(name="objects")
def restore_objects(
    key: Annotated[str, typer.Option(help="This object alone.")] = "",
    prefix: Annotated[str, typer.Option(help="Those whose keys begin so.")] = "",
    at: At = None,
    wanted: From = None,
    force: Force = False,
) -> None:
    """Put one object, those of a prefix, or all back as they were at a moment. Nothing is deleted."""
    from ops.backup.restore.objects import Wish
    from ops.backup.restore.objects import restore as work

    wish = Wish(key, prefix, _moment(at), wanted)
    result = work(_config(), wish, force=force, progress=Progress("objects"))
    print(
        f"{len(result.written):,} objects ({result.size:,} bytes) are back as of {result.moment:%Y-%m-%d %H:%M:%S} UTC,"
        f" compared by digest; {result.same:,} were there already."
    )


@restore.command(name="pair")
def restore_pair(wanted: From = None, at: At = None, force: Force = False) -> None:
    """Restore a dump and the objects that its rows name, and check that none is missing."""
    from ops.backup.restore import pair as pairs

    result = pairs.restore(_config(), _moment(at), wanted, force=force, progress=Progress("objects"))
    found = result.pair
    print(f"{result.database.database} is dump {found.dump.id}, as of {found.moment:%Y-%m-%d %H:%M:%S} UTC.")
    print(
        f"{len(result.objects.written):,} objects came from mirror {found.mirror.id}; {result.objects.same:,} were there."
    )
    print(f"{result.named.named:,} rows name objects, and all of these are there.")
    if result.database.kept:
        print(f"the former database is kept as {result.database.kept}")


@restore.command(name="logs")
def restore_logs(month: str, target: Annotated[Path, typer.Argument(help="A folder for the files.")]) -> None:
    """Write the archive of a month (2026-10) into a folder."""
    from ops.backup import logs as archive

    for file in archive.restore(_config(), month, target):
        print(file)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise BackupError(f"{text!r} is no time", "write it as 2026-11-21T14:59:30") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


@restore.command(name="dump")
def restore_dump(wanted: From = None, force: Force = False) -> None:
    """Restore a dump into a new database, compare it, and put it in the place of the live one."""
    result = restoring.restore(_config(), wanted, force=force)
    rows = sum(result.manifest.details["contents"]["tables"].values())
    print(f"{result.database} is now backup {result.manifest.id}: {rows:,} rows in all tables as counted at the dump.")
    print("next:")
    print("  - sessions were ended; the service connects again by itself. Look: make test-system, /health/detailed")
    print("  - the code may be newer than the data: make migrate")
    if result.kept:
        print(f"  - the former database is kept as {result.kept}. When nobody misses it: DROP DATABASE {result.kept};")


@restore.command(name="undo")
def restore_undo() -> None:
    """Clear up after a restore of a dump that was killed; every restore begins with it."""
    for line in restoring.undo(_config()) or ["there is nothing to clear up"]:
        print(line)


@restore.command(name="base")
def restore_base(
    into: Annotated[Path, typer.Option(help="The data folder that will hold the cluster.")],
    to: Annotated[
        str, typer.Option(help="latest, or a moment: 2026-11-21T15:04:05+00:00; UTC without an offset.")
    ] = "latest",
    before: Annotated[bool, typer.Option(help="Leave out what was committed at that very microsecond.")] = False,
    timeline: Annotated[int | None, typer.Option(help="Follow this timeline instead of the obvious one.")] = None,
    despite_gap: Annotated[
        bool, typer.Option(help="With latest: as far as the log leads, where a segment is lacking.")
    ] = False,
    wanted: Annotated[
        str | None, typer.Option("--from", help="Id of the base; the newest from before the moment without it.")
    ] = None,
    force: Force = False,
    scratch: Annotated[bool, typer.Option(help="Only to look at: no fresh backup is made of it.")] = False,
    fresh: Annotated[
        bool, typer.Option(help="Make a full backup of the result first; without it the service is back sooner.")
    ] = True,
    superuser: Annotated[str, typer.Option(help="Superuser of the cluster.")] = SUPERUSER,
) -> None:
    """Recover the whole cluster as it was at any second, look at it, and put it in the place of the live data."""
    target = Target(None if to == "latest" else _moment(to), before, timeline, despite_gap)
    config = _config()
    result = recovering.restore(
        config, into, target, wanted=wanted, force=force, scratch=scratch, fresh=fresh, superuser=superuser
    )
    steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.seconds.items())
    print(
        f"{result.folder} is base {result.base.id} and {result.segments} segments of the log, on timeline {result.timeline}."
    )
    print(f"last transaction: {result.until or 'that of the base'}; {steps}")
    for database, contents in result.databases.items():
        print(f"  {database}: {contents.rows:,} rows in {len(contents.tables)} tables, each of them read")
    print("next:")
    if not scratch:
        print("  - start PostgreSQL on it, then the receiver of the log")
        made = "a full backup of it is made already" if result.fresh else "then, at once: python -m ops.backup base"
        print(f"  - {made}")
        print("  - the code may be newer than the data: make migrate")
    if result.kept:
        print(f"  - the former data are in {result.kept}. When nobody misses them: rm -r {result.kept}")


@cli.command()
def drill(
    rows: Annotated[int, typer.Option(help="Rows written before the backups.")] = 5_000,
    size: Annotated[str, typer.Option(help="Measure loss and time at this size instead: 1GB, 300MB.")] = "",
) -> None:
    """Prove it on throw-away servers: write, back up, destroy, restore, compare, and everything that must be refused."""
    # Imported here: an image has no devstack.
    from ops.backup.drill import drill as rehearse
    from ops.backup.drill.size import measure

    if not (measure(_bytes(size)) if size else rehearse(rows)):
        raise typer.Exit(1)


def _bytes(text: str) -> int:
    number, unit = text[:-2], text[-2:].upper()
    if not number.isdigit() or unit not in ("MB", "GB"):
        raise BackupError(f"{text} is no size", "write 300MB or 1GB")
    size = int(number) * (1_000_000_000 if unit == "GB" else 1_000_000)
    if size < 100_000_000:
        raise BackupError(f"{text} says nothing about 10 GB", "measure 100MB at least")
    return size


def main() -> None:
    """Run a command; what goes wrong is one message, not a traceback."""
    try:
        cli()
    except Busy as error:
        log.info("backup_elsewhere", reason=str(error))
        raise SystemExit(BUSY_CODE) from error
    except (BackupError, SettingsError) as error:
        typer.echo(f"backup: {error}", err=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
