"""What the drill and the tests share: a throw-away server and store, rows to lose, and the harm to do."""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from pydantic import SecretStr

from app.core.settings import Storage
from devstack import Stack
from ops.backup.config import Config, Keep
from ops.backup.manifest import Manifest
from ops.backup.postgres import Address, Connection
from ops.backup.store import Store

PARTS = ("postgres", "storage")
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


class Rehearsal:
    """A database to lose, on servers of its own; nothing of the user's is ever touched."""

    def __init__(self, stack: Stack, prefix: str = "rehearsal/") -> None:
        """`prefix` keeps rehearsals of one store apart."""
        env = stack.env
        self.stack = stack
        self.config = Config(
            dsn=env["DATABASE_URL"],
            admin_dsn=env["DATABASE_URL"],
            store=Storage(
                endpoint_url=env["BACKUP_S3_ENDPOINT_URL"],
                bucket=env["BACKUP_S3_BUCKET"],
                access_key=env["BACKUP_S3_ACCESS_KEY"],
                secret_key=SecretStr(env["BACKUP_S3_SECRET_KEY"]),
            ),
            prefix=prefix,
            keep={"dump": Keep(days=30, last=3)},
            keys={"rehearsal": os.urandom(32)},
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

    def fill(self, rows: int) -> None:
        """Make the tables and write rows, always the same ones."""
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

    def age(self, name: str, days: float) -> None:
        """Make a backup look older, to our clock and to the store's."""
        then = time.time() - days * 86400
        self.rewrite_manifest(name, created_at=datetime.fromtimestamp(then, UTC))
        for file in (self.folder / f"{name}{MANIFEST}", self.folder / f"{name}{DUMP}"):
            if file.exists():
                os.utime(file, (then, then))
        self._let_the_store_notice()

    def _let_the_store_notice(self) -> None:
        """The store caches listings; a new start is the only thing that surely empties its memory."""
        self.stack.processes["storage"].restart()
