"""Every process and every chore of the service: `python -m app.cli --help`."""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import typer

from app.core.envfile import COMPOSE as COMPOSE_VARIABLES
from app.core.envfile import example as env_example
from app.core.envfile import write as write_env
from app.core.project import ROOT
from app.core.settings import (
    Environment,
    Settings,
    SettingsError,
    load_settings,
    read_variables,
    unknown_variables,
)
from app.features import modules, settings_of_features

if TYPE_CHECKING:
    from sqlalchemy import MetaData

    from app.core.resources import Resources

R = TypeVar("R")

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
settings_cli = typer.Typer(no_args_is_help=True, help="The settings and their files.")
messages_cli = typer.Typer(no_args_is_help=True, help="What the service sends to people outside.")
cli.add_typer(settings_cli, name="settings")
for feature_commands in modules("commands"):
    cli.add_typer(feature_commands.cli)  # without a name: its commands stand beside those below
encryption_cli = typer.Typer(no_args_is_help=True, help="The keys of encrypted fields.")
cli.add_typer(encryption_cli, name="encryption")
tasks_cli = typer.Typer(no_args_is_help=True, help="Background tasks that failed for good.")
cli.add_typer(tasks_cli, name="tasks")
cli.add_typer(messages_cli, name="messages")
for _commands in modules("cli"):  # app.features.<feature>.cli
    cli.add_typer(_commands.cli, name=_commands.__name__.split(".")[-2])


@cli.callback(help=__doc__)
def root(context: typer.Context) -> None:
    """Give the commands of features a way to do something with the service's resources."""
    context.obj = _with_resources


def fail(message: str) -> typer.Exit:
    """An error for a person, and exit code 1."""
    print(message, file=sys.stderr)
    return typer.Exit(1)


@contextmanager
def metrics_directory() -> Iterator[None]:
    """Where the processes of this service count together, emptied when the service starts and gone when it ends.

    Set before anything imports the Prometheus client, which reads the variable once.
    """
    given = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    directory = Path(given or tempfile.mkdtemp(prefix="metrics-"))
    directory.mkdir(parents=True, exist_ok=True)
    for left in directory.glob("*.db"):
        left.unlink()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    # uvicorn lets the signal that stopped it end the process too; as an exception it passes through here.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        if not given:
            shutil.rmtree(directory, ignore_errors=True)


@cli.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="PORT", help="Port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(help="Processes; 0 means HTTP_WORKERS.")] = 0,
    reload: Annotated[bool, typer.Option(help="Start again when the code changes.")] = False,
) -> None:
    """Run the API."""
    with metrics_directory():
        import uvicorn

        from app.core.realtime.server import MAX_MESSAGE_BYTES, WebSocketProtocol

        settings = _settings()
        uvicorn.run(
            "app.main:create_app",
            factory=True,
            host=host,
            port=port,
            workers=None if reload else workers or settings.api_workers,
            reload=reload,
            reload_dirs=[str(ROOT / "app")] if reload else None,
            log_config=None,
            access_log=False,  # the application writes its own
            server_header=False,
            forwarded_allow_ips=list(settings.http.trusted_proxies),
            timeout_graceful_shutdown=25,  # less than the 30 s after which compose and Kubernetes kill
            ws=WebSocketProtocol,
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_ping_interval=settings.ws.ping_seconds,
            ws_ping_timeout=settings.ws.ping_seconds,
            ws_per_message_deflate=False,  # messages are short, and a window for each socket is not
            timeout_keep_alive=75,  # longer than nginx keeps an idle connection, so that nginx is who closes it
        )


def celery_level(settings: Settings) -> str:
    """Celery sets the level of every logger: at DEBUG its own lines, some each second, would drown ours."""
    return "INFO" if settings.log_level == "DEBUG" else settings.log_level


@cli.command()
def worker(
    concurrency: Annotated[
        int, typer.Option(help="Processes, beside those of TASKS_RESERVED; 0 means TASKS_CONCURRENCY.")
    ] = 0,
    queues: Annotated[str, typer.Option(help="Queues to work off, comma-separated; all unless given.")] = "",
) -> None:
    """Run a Celery worker."""
    with metrics_directory():
        from app.core.tasks import Queue
        from app.worker import create_worker

        settings = _settings()
        names = queues or ",".join(Queue)
        # A worker that was given its queues is itself what somebody keeps free for them.
        reserved = 0 if queues else settings.tasks.reserved
        count = (concurrency or settings.tasks.concurrency) + reserved
        arguments = ["worker", f"--concurrency={count}", f"--queues={names}", f"--loglevel={celery_level(settings)}"]
        # Gossip and mingle are workers talking among themselves, which nothing here needs.
        app = create_worker(settings, reserved=reserved)
        app.worker_main(["--quiet", _broker(settings), *arguments, "--without-gossip", "--without-mingle"])


@cli.command()
def beat(
    schedule: Annotated[
        Path | None,
        typer.Option(help="File in which beat remembers when each entry ran last; a temporary one unless given."),
    ] = None,
) -> None:
    """Run Celery beat, which sends what is due. Of several one does, and the others wait for its end."""
    with metrics_directory():
        from app.worker import create_worker

        settings = _settings()
        schedule = schedule or Path(tempfile.gettempdir()) / "beat-schedule"
        app = create_worker(settings, service="beat")
        app.start(
            [
                "--quiet",
                _broker(settings),
                "beat",
                f"--schedule={schedule}",
                f"--loglevel={celery_level(settings)}",
                "--pidfile=",
            ]
        )


@contextmanager
def on_the_database(command: str) -> Iterator[Settings]:
    """Settings for a command of migrations, and one line instead of a traceback where there is no database, or an older one."""
    import asyncpg
    from alembic.util import CommandError

    from app.core.logging import configure_logging

    settings = _settings()
    configure_logging(settings, "migrate")
    try:
        yield settings
    except (OSError, asyncpg.PostgresError) as error:  # from connecting; what a migration does wrong has other types
        reason = str(error) or "no answer in time"
        hint = "; is `make dev` running in another terminal?" if settings.environment == "development" else ""
        raise fail(f"{command}: the database does not let us in: {reason}{hint}") from error
    except CommandError as error:  # Alembic's word for what cannot be done
        hint = " Bring it there first: make migrate" if "not up to date" in str(error) else ""
        raise fail(f"{command}: {error}{hint}") from error


@cli.command()
def migrate() -> None:
    """Bring the database to the newest migrations; safe to run from several places at once."""
    from app.core.migrations import upgrade

    with on_the_database("migrate"):
        upgrade()


@cli.command()
def migration(
    feature: Annotated[str, typer.Option(help="The feature whose models changed, or core.")],
    message: Annotated[str, typer.Option(help="What the migration does.")],
) -> None:
    """Write a migration from the difference between the models and the database."""
    from app.core.migrations import new_revision
    from app.features import FEATURES

    if feature not in ("core", *FEATURES) or not message:
        raise fail(f'usage: make migration feature={"|".join(("core", *FEATURES))} m="what it does"')
    with on_the_database("migration"):
        new_revision(feature, message)


@cli.command()
def take_back(feature: Annotated[str, typer.Option(help="The feature that is about to be deleted.")]) -> None:
    """Undo a feature's migrations: its tables go, with all that is in them. While the code still has it."""
    from app.core import migrations

    try:
        with on_the_database("take-back"):
            migrations.take_back(feature)
    except LookupError as error:
        raise fail(
            f"take-back: no feature {feature or '(which?)'} has migrations; make take-back feature=billing"
        ) from error


@cli.command()
def init_storage() -> None:
    """Make the bucket, with versioning, lifecycle, and leave for the pages of HTTP_CORS_ORIGINS."""
    import asyncio

    from app.core.logging import configure_logging
    from app.core.settings import Environment
    from app.core.storage import Storage, StorageUnavailable

    settings = _settings()
    configure_logging(settings, "init-storage")

    async def make() -> None:
        storage = Storage(settings.storage)
        try:
            await storage.ensure_bucket(
                strict=settings.environment is not Environment.DEVELOPMENT, origins=settings.http.cors_origins
            )
        finally:
            await storage.close()

    try:
        asyncio.run(make())
    except StorageUnavailable as error:
        raise fail(f"init-storage: {error.__cause__}") from error


@cli.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    from app.main import create_app

    features = {group: group() for group in settings_of_features()}
    print(json.dumps(create_app(Settings(features=features)).openapi(), indent=2, ensure_ascii=False))


@cli.command()
def access() -> None:
    """Print who may ask what: every route, as the table that lets people in has it."""
    from app.main import access_table

    features = {group: group() for group in settings_of_features()}
    table = access_table(Settings(features=features))
    width = max(map(len, table))
    for name, who in sorted(table.items(), key=lambda row: row[0].partition(" ")[2]):
        print(f"{name:<{width}}  {who.value}")


TaskIds = Annotated[list[UUID] | None, typer.Argument(help="Ids, as `tasks dead` shows them.")]
EveryTask = Annotated[bool, typer.Option("--all", help="Every dead task.")]


@tasks_cli.command("dead")
def list_dead(
    limit: Annotated[int, typer.Option(help="At most so many.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with the arguments.")] = False,
) -> None:
    """List the dead tasks, the latest first: since when, id, name, attempts and the last error."""

    async def show(resources: "Resources") -> None:
        from app.core.outbox import Outbox

        for row in await Outbox(resources.db, resources.settings.tasks).dead(limit):
            since = row.due_at.isoformat(timespec="seconds")
            facts = {"since": since, "id": str(row.id), "name": row.name, "attempts": row.attempts, "error": row.error}
            if as_json:
                print(json.dumps({**facts, "args": row.args, "queue": row.queue, "context": row.context}))
            else:
                print("  ".join(map(str, facts.values())))

    _with_resources("tasks", show)


@tasks_cli.command()
def rerun(ids: TaskIds = None, every: EveryTask = False) -> None:
    """Run dead tasks again, with all of their attempts."""
    chosen = _chosen(ids, every)

    async def act(resources: "Resources") -> int:
        from app.core.tasks import rerun

        return await rerun(resources, chosen)

    _say_how_many("rerun", _with_resources("tasks", act), chosen)


@tasks_cli.command()
def discard(ids: TaskIds = None, every: EveryTask = False) -> None:
    """Forget dead tasks."""
    chosen = _chosen(ids, every)

    async def act(resources: "Resources") -> int:
        from app.core.outbox import Outbox

        return await Outbox(resources.db, resources.settings.tasks).discard(chosen)

    _say_how_many("discard", _with_resources("tasks", act), chosen)


def _chosen(ids: list[UUID] | None, every: bool) -> list[UUID] | None:
    if every == bool(ids):
        raise fail("name the tasks by their ids, or all of them by --all")
    return ids or None


def _say_how_many(what: str, count: int, chosen: list[UUID] | None) -> None:
    print(f"{what}: {count} tasks")
    if chosen and count < len(set(chosen)):
        raise fail(f"{what}: the others are not dead, or not there; see: tasks dead")


def _with_resources(service: str, act: "Callable[[Resources], Coroutine[Any, Any, R]]") -> R:
    """Do something with everything that the service holds open."""
    import asyncio

    from app.core.errors import Unavailable
    from app.core.logging import configure_logging
    from app.core.resources import open_resources

    settings = _settings()
    configure_logging(settings, service)

    async def run() -> R:
        async with open_resources(settings) as resources:
            return await act(resources)

    try:
        return asyncio.run(run())
    except Unavailable as error:
        raise fail(f"{service}: {error.__cause__ or error}") from error


@cli.command()
def metrics_table() -> None:
    """Rewrite the table of docs/metrics.md as the code says it."""
    from app.core.metrics import table

    page = ROOT / "docs/metrics.md"
    prose, _, _ = page.read_text(encoding="utf-8").partition("| metric |")
    page.write_text(prose + table(), encoding="utf-8")


@settings_cli.command()
def init() -> None:
    """Write .env with fresh secrets, unless it is there."""
    path = ROOT / ".env"
    print(
        f"setup: wrote {path.name} with fresh secrets"
        if write_env(path, settings_of_features())
        else f"setup: {path.name} is there already; left as it is"
    )


@settings_cli.command()
def example(
    check: Annotated[bool, typer.Option("--check", help="Compare with .env.example instead of printing.")] = False,
) -> None:
    """Print .env.example as the settings classes say it."""
    text = env_example(settings_of_features())
    if not check:
        print(text, end="")
    elif (ROOT / ".env.example").read_text(encoding="utf-8") != text:
        raise fail(".env.example does not match the settings; run: make generate")


@settings_cli.command()
def check(
    environment: Annotated[
        Environment | None, typer.Option(help="Judge as this environment would; the present one unless given.")
    ] = None,
) -> None:
    """Say every fault at once, and every variable that looks like a setting and is none. Shows no value of a secret."""
    features = settings_of_features()
    variables = read_variables(features)
    for line in unknown_variables(variables, features, [name for name, *_ in COMPOSE_VARIABLES]):
        print(f"warning: {line}", file=sys.stderr)
    try:
        load_settings(features, variables=variables, environment=environment)
    except SettingsError as error:
        raise fail(str(error)) from error
    print("settings: no faults")


@messages_cli.command("list")
def list_messages(
    channel: Annotated[str, typer.Option(help="email, sms, push or slack; all unless given.")] = "",
    state: Annotated[str, typer.Option(help="queued, sending, sent, failed or sandboxed; all unless given.")] = "",
    limit: Annotated[int, typer.Option(help="At most so many.")] = 20,
) -> None:
    """List the newest messages: id, since when, channel, state and receiver; never what they say."""
    from app.core.messages import Channel, State, newest

    try:
        of, at = Channel(channel) if channel else None, State(state) if state else None
    except ValueError as error:
        raise fail(f"messages: {error}") from error

    async def show(resources: "Resources") -> None:
        async with resources.db.read() as session:
            rows = await newest(session, channel=of, state=at, limit=limit)
        for row in rows:
            since = row.created_at.isoformat(timespec="seconds")
            facts = [str(row.id), since, row.channel, row.state, row.receiver]
            print("  ".join([*facts, f"{row.attempts} attempts: {row.error}"] if row.error else facts))

    _with_resources("messages", show)


@messages_cli.command("show")
def show_message(identity: Annotated[UUID, typer.Argument(help="Its id, as `messages list` shows it.")]) -> None:
    """Show what a message says, while it waits or lies in the sandbox; afterwards that is erased."""

    async def show(resources: "Resources") -> None:
        from app.core.encryption import DecryptionError
        from app.core.messages import MessageRow, unseal

        async with resources.db.read() as session:
            row = await session.get(MessageRow, identity)
        if row is None:
            raise fail("messages: there is no such message")
        try:
            message = unseal(resources.encryption, row)
        except DecryptionError as error:
            raise fail(f"messages: it cannot be read: {error}") from error
        if message is None:
            raise fail(f"messages: {row.state}, and erased")
        for name, value in message.model_dump().items():
            print(f"{name}: {value}")

    _with_resources("messages", show)


@encryption_cli.command("new-key")
def new_encryption_key() -> None:
    """Print a fresh key as ENCRYPTION_KEYS wants it."""
    from datetime import UTC, datetime

    from app.core.settings.encryption import new_key

    print(new_key(datetime.now(UTC).date()))


@encryption_cli.command("status")
def encryption_status() -> None:
    """Say how many values are under which key; exit code 1 while some are not under the first one."""

    async def act(resources: "Resources") -> bool:
        return await _say_standing(resources)

    if not _with_resources("encryption", act):
        raise typer.Exit(1)


@encryption_cli.command("rotate")
def rotate_encryption(batch: Annotated[int, typer.Option(help="Rows in one transaction.", min=1)] = 200) -> None:
    """Bring every value under the first key of ENCRYPTION_KEYS, while the service goes on; run it again if stopped."""
    from app.core.encryption import NoKey, rotate

    async def act(resources: "Resources") -> bool:
        try:
            done = await rotate(resources.db, resources.encryption, _models(), batch)
        except NoKey as error:
            raise fail(f"rotate: {error}") from error
        print(f"rotate: {done.rewrapped} values are under {resources.encryption.current} now")
        for line in done.refused:
            print(f"rotate: {line}", file=sys.stderr)
        return await _say_standing(resources)

    if not _with_resources("encryption", act):
        raise fail("rotate: some values are not under the first key")


async def _say_standing(resources: "Resources") -> bool:
    """Print what is under which key; True when everything is under the first one."""
    from app.core.encryption import standing

    known = resources.encryption.known
    under: set[str] = set()
    for entry in await standing(resources.db, _models()):
        under |= set(entry.keys)
        for name, count in sorted(entry.keys.items()):
            missing = "" if name in known else "  MISSING in ENCRYPTION_KEYS"
            print(f"{entry.column}  {name}  {count}{missing}")
    for name in known:
        role = "encrypts" if name == known[0] else "still needed" if name in under else "not needed: may be removed"
        print(f"{name}  {role}")
    return under <= set(known[:1])


def _models() -> "MetaData":
    """The tables of all features."""
    from app.core import audit, messages, outbox, sign_outs  # noqa: F401  # core's own tables
    from app.core.db import Base

    modules("models")
    return Base.metadata


def _broker(settings: Settings) -> str:
    """Celery's option for it: without one its command line takes BROKER_URL itself, as it stands, and checks no certificate."""
    return f"--broker={settings.broker.address()}"


def _settings() -> Settings:
    try:
        return load_settings(settings_of_features())
    except SettingsError as error:
        raise fail(str(error)) from error


if __name__ == "__main__":
    cli()
