"""What the drill and the tests share: a throw-away server and store, rows to lose, and the harm to do."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import asyncpg
from pydantic import SecretStr

from app.core.settings import Storage
from devstack import Stack
from ops.backup.config import Config, Keep
from ops.backup.drill.disk import Disk
from ops.backup.errors import BackupError
from ops.backup.manifest import Manifest
from ops.backup.postgres import Address, Connection, contents
from ops.backup.store import Store
from ops.backup.wal import receiver

PARTS = ("postgres", "storage", "broker")
DUMP = ".dump"
MANIFEST = ".json"
T = TypeVar("T")

# Everything that is easily lost or changed on the way: nulls, bytes, time zones, sequences, foreign keys, vectors.
SCHEMA = """
CREATE SCHEMA rehearsal;
CREATE TABLE rehearsal.person (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    note text,
    born timestamptz NOT NULL
);
CREATE TABLE rehearsal.thing (
    id uuid PRIMARY KEY DEFAULT uuidv7(),
    owner bigint NOT NULL REFERENCES rehearsal.person ON DELETE CASCADE,
    data bytea NOT NULL,
    facts jsonb NOT NULL,
    place halfvec(8) NOT NULL
);
COMMENT ON TABLE rehearsal.thing IS 'What the drill looks for';
"""


@dataclass(frozen=True)
class Snapshot:
    """Every row of every table, and the next number of the sequence."""

    rows: dict[str, list[str]]
    sequence: int

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(map(len, self.rows.values()))


class Rehearsal:
    """A database to lose, on servers of its own; nothing of the user's is ever touched."""

    def __init__(self, stack: Stack, prefix: str = "rehearsal/", rows: int = 1000) -> None:
        """`prefix` keeps rehearsals of one store apart; `rows` are written by `fill`."""
        env = stack.env
        self.stack, self.rows = stack, rows
        self._key = os.urandom(32)
        self._loaded = 0
        self.moment_before_any_base = datetime.now(UTC) - timedelta(days=1)
        self.config = Config(
            dsn=env["DATABASE_URL"],
            admin_dsn=env["DATABASE_URL"],
            store=Storage(
                endpoint_url=env["BACKUP_S3_ENDPOINT_URL"],
                bucket=env["BACKUP_S3_BUCKET"],
                access_key=env["BACKUP_S3_ACCESS_KEY"],
                secret_key=SecretStr(env["BACKUP_S3_SECRET_KEY"]),
                timeout_seconds=120,  # this store reads every file that it lists
            ),
            prefix=prefix,
            keep={"dump": Keep(days=30, last=3), "base": Keep(days=7, last=2, reaches=True), "proof": Keep(30, 3)},
            replication_dsn=f"postgresql://replication:{env['BACKUP_REPLICATION_PASSWORD']}@{env['DATABASE_HOST']}:{env['DATABASE_PORT']}/postgres",
            keys={"rehearsal": self._key},
            may_make_bucket=True,
        )

    @property
    def database(self) -> str:
        """Name of the live database."""
        return Address(self.config.dsn).database

    @property
    def folder(self) -> Path:
        """Where the store keeps the dumps of this rehearsal, to do harm to them behind its back."""
        return self.stack.data / "storage" / self.config.store.bucket / self.config.prefix / "dump"

    def with_(self, **changes: Any) -> Config:
        """The configuration with something changed."""
        return replace(self.config, **changes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._abandon()

    @property
    def cluster(self) -> Path:
        """The data folder of the server."""
        return self.stack.data / "postgres" / "data"

    @property
    def environment(self) -> dict[str, str]:
        """For processes of their own: the same as `config`."""
        return {
            **self.stack.env,
            "BACKUP_S3_PREFIX": self.config.prefix,
            "BACKUP_KEYS": f"rehearsal:{b64encode(self._key).decode()}",
            "METRICS_BACKUP_PORT": "0",
        }

    def fill(self, rows: int | None = None) -> int:
        """Make the tables and write rows, always the same ones. Returns how many."""
        rows = rows or self.rows
        numbers = random.Random(20261121)  # noqa: S311  # repeatable on purpose

        async def write(connection: Connection) -> None:
            await connection.execute(SCHEMA)
            people = max(1, rows // 100)
            await connection.execute(
                """
                INSERT INTO rehearsal.person (name, note, born)
                SELECT 'Ünï "cödé" 안녕 ' || n, CASE WHEN n % 3 = 0 THEN E'tab\\there\\nand \\\\N' END,
                       timestamptz '2026-03-29 01:30+01' + n * interval '1 hour'
                  FROM generate_series(1, $1::int) n
                """,
                people,
            )
            await connection.executemany(
                "INSERT INTO rehearsal.thing (owner, data, facts, place) VALUES ($1, $2, $3, $4::text::halfvec)",
                [
                    (
                        number % people + 1,
                        numbers.randbytes(64),
                        f'{{"number": {number}}}',
                        str([round(numbers.uniform(-1, 1), 3) for _ in range(8)]),
                    )
                    for number in range(rows)
                ],
            )
            await connection.execute("CREATE INDEX ON rehearsal.thing USING hnsw (place halfvec_cosine_ops)")

        self.ask(write)
        return rows + max(1, rows // 100)

    def load(self, rows: int | None = None) -> int:
        """Write further rows. Returns how many."""
        wanted = rows or self.rows

        async def write(connection: Connection) -> None:
            await connection.execute(
                """
                INSERT INTO rehearsal.thing (owner, data, facts, place)
                SELECT 1, decode(md5(n::text), 'hex'), jsonb_build_object('later', n), array_fill(n, ARRAY[8])::halfvec
                  FROM generate_series(1, $1::int) n
                """,
                wanted,
            )

        self.ask(write)
        return wanted

    def now(self) -> datetime:
        """By the server's clock."""
        return datetime.fromisoformat(self.stack.sql("SELECT clock_timestamp()").strip())

    def flush(self, seconds: float = 60) -> None:
        """Have everything written so far stored by the receiver."""
        asyncio.run(receiver.flush(self.config, seconds))

    def grow(self, size: int) -> None:
        """Write rows of about a kilobyte until the table has grown by so many bytes; half of each row is random."""
        self.stack.sql(
            f"""
            CREATE TABLE IF NOT EXISTS rehearsal.bulk (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text, data bytea);
            ALTER TABLE rehearsal.bulk ALTER COLUMN text SET STORAGE PLAIN, ALTER COLUMN data SET STORAGE PLAIN;
            ALTER TABLE rehearsal.bulk OWNER TO "{Address(self.config.dsn).user}";
            INSERT INTO rehearsal.bulk (text, data)
            SELECT repeat('all work and no play ' || n % 1000, 22),
                   decode(string_agg(md5(random()::text), ''), 'hex')
              FROM generate_series(1, {size // 1100}) n, generate_series(1, 32) part
             GROUP BY n
            """,  # noqa: S608  # a number
            self.database,
        )

    def bytes(self) -> int:
        """Size of the database."""
        return int(self.stack.sql(f"SELECT pg_database_size('{self.database}')"))  # a name of ours

    def count(self) -> int:
        """Rows of all tables, each of them read."""

        async def read(connection: Connection) -> int:
            return (await contents(connection)).rows

        return self.ask(read)

    def folder_bytes(self) -> int:
        """Size of the cluster without its log."""
        files = [path for path in self.cluster.rglob("*") if "pg_wal" not in path.parts and path.is_file()]
        return sum(path.stat().st_size for path in files)

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """The receiver of the log, as a process of its own."""
        with subprocess.Popen(
            [sys.executable, "-m", "ops.backup", "wal"], env=self.environment, stdout=subprocess.DEVNULL
        ) as process:
            try:
                while self.stack.sql("SELECT count(*) FROM pg_replication_slots") == "0\n" and process.poll() is None:
                    time.sleep(0.05)
                yield
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait()

    def child(
        self, *arguments: str, disk: Disk | None = None, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run this Python with `arguments` as another process, on a disk of its own if one is given."""
        command = [sys.executable, *arguments]
        changed = {**(env or {}), **({"TMPDIR": str(disk.folder)} if disk else {})}
        return subprocess.run(
            disk.command(command) if disk else command,
            env=self.environment | changed,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            preexec_fn=disk.limit if disk else None,  # nothing else runs in the drill's process
        )

    def killed_at(self, module: str, place: str, *command: str) -> None:
        """Run a command of ours that ends by SIGKILL where it would call `place`."""
        self._killed(f"import {module} as m\nm.{place} = die", command)

    def killed_after_rename(self, name: str, *command: str) -> None:
        """The same, after the change of a name to one that holds `name`."""
        self._killed(
            "from pathlib import Path\nrename = Path.rename\n"
            f"Path.rename = lambda self, target: (rename(self, target), {name!r} in str(target) and die())[0]",
            command,
        )

    def _killed(self, preparation: str, command: tuple[str, ...]) -> None:
        code = (
            "import os, sys\nsys.argv[0] = 'backup'\ndef die(*_, **__): os.kill(os.getpid(), 9)\n"
            f"{preparation}\nfrom ops.backup.__main__ import main\nmain()"
        )
        said = self.child("-c", code, *command)
        if said.returncode != -signal.SIGKILL:
            raise BackupError(f"it was not killed but ended with {said.returncode}: {said.stdout[-500:]}")

    def write_later(self) -> None:
        """A row that no earlier backup can hold."""
        self.ask(
            lambda connection: connection.execute("INSERT INTO rehearsal.person (name, born) VALUES ('late', now())")
        )

    def look(self) -> Snapshot:
        """Everything there is, to be compared exactly."""

        async def read(connection: Connection) -> Snapshot:
            tables = await connection.fetch(
                "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'rehearsal') ORDER BY 1, 2"
            )
            rows = {
                f"{schema}.{table}": [
                    record[0]
                    # The names come from this very rehearsal.
                    for record in await connection.fetch(f'SELECT t::text FROM "{schema}"."{table}" t ORDER BY 1')  # noqa: S608
                ]
                for schema, table in tables
            }
            last: int = await connection.fetchval("SELECT last_value FROM rehearsal.person_id_seq")
            return Snapshot(rows, last)

        return self.ask(read)

    def ask(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do something with a connection to the live database."""

        async def run() -> T:
            connection = await asyncpg.connect(self.config.dsn, timeout=10)
            try:
                return await work(connection)
            finally:
                await connection.close()

        return asyncio.run(run())

    def destroy(self) -> None:
        """Drop the live database, whoever is connected."""
        self.stack.sql(f'DROP DATABASE "{self.database}" WITH (FORCE)')

    def databases(self) -> set[str]:
        """The names of all databases of the server."""
        return set(self.stack.sql("SELECT datname FROM pg_database WHERE NOT datistemplate").split())

    def look_at_all(self) -> tuple[Snapshot, set[str]]:
        """The live database and the names of all."""
        return self.look(), self.databases()

    def store(self) -> Store:
        """The store as the backup sees it."""
        return Store(self.config)

    def truncate_dump(self, name: str) -> None:
        """Lose the second half of a dump."""
        dump = self.folder / f"{name}{DUMP}"
        os.truncate(dump, dump.stat().st_size // 2)
        self._let_the_store_notice()

    def corrupt_dump(self, name: str) -> None:
        """Turn over one byte in the middle of a dump; its length stays."""
        dump = self.folder / f"{name}{DUMP}"
        data = bytearray(dump.read_bytes())
        data[len(data) // 2] ^= 0xFF
        dump.write_bytes(data)
        self._let_the_store_notice()

    def rewrite_manifest(self, name: str, **changes: Any) -> None:
        """Have a manifest say something else, as a fault of our own would."""
        self.store().commit(replace(self.manifest(name), **changes))

    def manifest(self, name: str) -> Manifest:
        """The manifest of a backup."""
        return next(backup.manifest for backup in self.store().backups("dump") if backup.manifest.id == name)

    def empty_dump(self, name: str) -> None:
        """Leave nothing of a dump but its name."""
        os.truncate(self.folder / f"{name}{DUMP}", 0)
        self._let_the_store_notice()

    def lose_dump(self, name: str) -> None:
        """Delete a dump; its manifest stays."""
        (self.folder / f"{name}{DUMP}").unlink()
        self._let_the_store_notice()

    def lose_manifest(self, name: str) -> None:
        """What an upload leaves that dies before its end: a dump without a manifest."""
        (self.folder / f"{name}{MANIFEST}").unlink()
        self._let_the_store_notice()

    def replace_dump(self, name: str, other: str) -> None:
        """Put one dump in the place of another."""
        shutil.copy(self.folder / f"{other}{DUMP}", self.folder / f"{name}{DUMP}")
        self._let_the_store_notice()

    def age(self, days: Mapping[str, float]) -> None:
        """Make dumps look older, to our clock and to the store's."""
        for name, many in days.items():
            then = time.time() - many * 86400
            self.rewrite_manifest(name, created_at=datetime.fromtimestamp(then, UTC))
            for file in (self.folder / f"{name}{MANIFEST}", self.folder / f"{name}{DUMP}"):
                if file.exists():
                    os.utime(file, (then, then))
        self._let_the_store_notice()

    @contextmanager
    def harmed(self, name: str, harm: Callable[[str], None]) -> Iterator[None]:
        """A dump that suffers harm, for a while."""
        files = [self.folder / f"{name}{end}" for end in (DUMP, MANIFEST)]
        with self._kept(files):
            harm(name)
            yield

    @contextmanager
    def corrupted(self, folder: str, end: str) -> Iterator[None]:
        """One byte turned over in the newest object of that kind, for a while."""
        file = self._newest(folder, end)
        with self._kept([file]):
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 0xFF
            file.write_bytes(data)
            self._let_the_store_notice()
            yield

    @contextmanager
    def truncated(self, folder: str, end: str) -> Iterator[None]:
        """The second half lost of the newest object of that kind, for a while."""
        file = self._newest(folder, end)
        with self._kept([file]):
            os.truncate(file, file.stat().st_size // 2)
            self._let_the_store_notice()
            yield

    @contextmanager
    def lost(self, folder: str, which: int = -1) -> Iterator[None]:
        """The newest object of that kind gone, for a while; -2 is the one before it."""
        file = self._newest(folder, "", which)
        with self._kept([file]):
            file.unlink()
            self._let_the_store_notice()
            yield

    def _newest(self, folder: str, end: str, which: int = -1) -> Path:
        """By name, in the folder of the store."""
        found = (self.folder.parent / folder).rglob(f"*{end}")
        return sorted(path for path in found if path.is_file())[which]

    @contextmanager
    def _kept(self, files: list[Path]) -> Iterator[None]:
        """As they were, afterwards."""
        kept = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}
        try:
            yield
        finally:
            for file, (data, time_ns) in kept.items():
                file.write_bytes(data)
                os.utime(file, ns=(time_ns, time_ns))
            self._let_the_store_notice()

    def _abandon(self) -> None:
        """Leave the server as the next rehearsal expects it: running, with an empty database."""
        server = self.stack.processes["postgres"]
        if not server.alive:
            server.start()
        for name in self.databases() - {"postgres"}:
            self.stack.sql(f'DROP DATABASE "{name}" WITH (FORCE)')
        self.stack.sql(f'CREATE DATABASE "{self.database}" OWNER "{self.stack.env["DATABASE_USER"]}"')

    def _let_the_store_notice(self) -> None:
        """The store caches listings; a new start is the only thing that surely empties its memory."""
        self.stack.processes["storage"].restart()
