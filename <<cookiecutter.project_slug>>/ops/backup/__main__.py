"""`python -m ops.backup`: the command line of backup and restore."""

import json
import time
from typing import Annotated

import structlog
import typer

from app.core.logging import configure_logging
from app.core.settings import Settings, SettingsError, load_settings
from ops.backup import dump as dumping
from ops.backup.config import Config
from ops.backup.errors import BackupError
from ops.backup.manifest import KINDS, Kind
from ops.backup.report import Success, write_metrics
from ops.backup.restore import dump as restoring
from ops.backup.store import Store

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
restore = typer.Typer(no_args_is_help=True, help="The way back: a command for each kind of backup.")
cli.add_typer(restore, name="restore")
log = structlog.get_logger(__name__)
From = Annotated[str | None, typer.Option("--from", help="Id of the backup; the newest one without it.")]
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
def verify(wanted: From = None) -> None:
    """Fetch a dump and read it to its end, without restoring it."""
    manifest = dumping.verify(_config(), wanted)
    print(f"{manifest.id} is whole: {manifest.size:,} bytes, sha256 {manifest.only.sha256}")


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


@cli.command()
def drill(
    rows: Annotated[int, typer.Option(help="Rows written before the backup.")] = 5_000,
) -> None:
    """Prove it on a throw-away PostgreSQL and store: write, back up, destroy, restore, compare, and every refusal."""
    # Imported here: an image has no devstack.
    from ops.backup.drill import drill as rehearse

    if not rehearse(rows):
        raise typer.Exit(1)


def main() -> None:
    """Run a command; what goes wrong is one message, not a traceback."""
    try:
        cli()
    except (BackupError, SettingsError) as error:
        typer.echo(f"backup: {error}", err=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
