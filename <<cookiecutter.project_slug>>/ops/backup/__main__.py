"""`python -m ops.backup`: the command line of backup and restore."""

import json
import time
from typing import Annotated

import structlog
import typer

from app.core.logging import configure_logging
from app.core.settings import Settings, SettingsError, load_settings
from ops.backup import restore as restoring
from ops.backup import run as running
from ops.backup.config import Config
from ops.backup.errors import BackupError
from ops.backup.report import Success, write_metrics

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
log = structlog.get_logger(__name__)
From = Annotated[str | None, typer.Option("--from", help="Id of the backup; the newest one without it.")]


def _config() -> Config:
    settings = load_settings()
    # A run that nobody sees in the log did not happen, also where the service itself only logs warnings.
    loud = settings.log.model_copy(update={"level": settings.log.level or "INFO"})
    configure_logging(Settings.model_copy(settings, update={"log": loud}), "backup")
    return Config.from_settings(settings)


@cli.command()
def run() -> None:
    """Dump the database, check it, send it, and let go what is too old."""
    config = _config()
    began = time.monotonic()
    try:
        outcome = running.run(config)
    except BackupError as error:
        seconds = time.monotonic() - began
        log.error("backup_failed", reason=str(error), seconds=round(seconds, 3))
        if config.metrics_file:
            write_metrics(config.metrics_file, seconds, None)
        raise
    manifest = outcome.manifest
    log.info(
        "backup_made",
        backup=manifest.id,
        bytes=manifest.size,
        seconds=round(outcome.seconds, 3),
        tables=len(manifest.contents.tables),
        rows=sum(manifest.contents.tables.values()),
        kept=outcome.kept,
        deleted=outcome.deleted,
        damaged=outcome.damaged,
    )
    if config.metrics_file:
        write_metrics(config.metrics_file, outcome.seconds, Success(manifest.size, outcome.kept))


@cli.command(name="list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show every backup, oldest first."""
    found = restoring.backups(_config())
    if as_json:
        print(json.dumps([json.loads(backup.manifest.to_json()) | {"fault": backup.fault} for backup in found]))
        return
    if not found:
        print("there is no backup yet: make backup")
    for backup in found:
        manifest = backup.manifest
        rows = sum(manifest.contents.tables.values())
        print(f"{manifest.id}  {manifest.size:>14,} bytes  {rows:>12,} rows  {backup.fault or 'ok'}")


@cli.command()
def verify(wanted: From = None) -> None:
    """Fetch a backup and read it to its end, without restoring it."""
    manifest = restoring.verify(_config(), wanted)
    print(f"{manifest.id} is whole: {manifest.size:,} bytes, sha256 {manifest.sha256}")


@cli.command()
def restore(
    wanted: From = None,
    force: Annotated[bool, typer.Option(help="Replace a database that has tables; it is kept aside.")] = False,
) -> None:
    """Restore a backup into a new database, compare it, and put it in the place of the live one."""
    result = restoring.restore(_config(), wanted, force=force)
    rows = sum(result.manifest.contents.tables.values())
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
