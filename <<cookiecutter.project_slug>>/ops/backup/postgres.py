"""PostgreSQL's own tools, and what is asked of the database beside them."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import asyncpg

from ops.backup.contents import Contents, Outside
from ops.backup.errors import BackupError, Damaged
from ops.backup.scratch import advice, notes

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    # Generic only in the eyes of the type checker.
    Connection = asyncpg.Connection

MAGIC = b"PGDMP"
END_MARKER = b"-- PostgreSQL database dump complete"
TAIL = 4096
# Lines of `pg_restore --list` that make extensions or comment on them.
OF_EXTENSIONS = re.compile(r"\d+; \d+ \d+ (EXTENSION - |COMMENT - EXTENSION )")

TABLES = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence <> 't'
   AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
 ORDER BY 1
"""
GRANTS = """
SELECT COALESCE(r.rolname, '') AS role, a.privilege_type AS privilege, d.datacl IS NULL AS is_default
  FROM pg_database d
  LEFT JOIN LATERAL aclexplode(d.datacl) a ON true
  LEFT JOIN pg_roles r ON r.oid = a.grantee
 WHERE d.datname = current_database()
"""
SETTINGS = """
SELECT unnest(setconfig) FROM pg_db_role_setting
 WHERE setrole = 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@dataclass(frozen=True)
class Address:
    """A database's address, in the pieces that are needed apart."""

    dsn: str

    @property
    def database(self) -> str:
        """Its name."""
        return unquote(urlsplit(self.dsn).path.lstrip("/"))

    @property
    def user(self) -> str:
        """The role that connects."""
        return unquote(urlsplit(self.dsn).username or "")

    def of(self, database: str) -> "Address":
        """Another database of the same server, as the same role."""
        return Address(urlunsplit(urlsplit(self.dsn)._replace(path="/" + quote(database, safe=""))))

    def for_tools(self) -> tuple[str, dict[str, str]]:
        """The address without its password, and an environment that holds it: command lines can be read by anybody."""
        parts = urlsplit(self.dsn)
        netloc = parts.netloc
        if parts.password is not None:
            user_and_password, _, place = netloc.rpartition("@")
            netloc = f"{user_and_password.partition(':')[0]}@{place}"
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        env["PGPASSWORD"] = unquote(parts.password or "")
        env["PGCONNECT_TIMEOUT"] = "10"
        return urlunsplit(parts._replace(netloc=netloc)), env


@asynccontextmanager
async def connected(
    address: Address, otherwise: str = "check DATABASE_… (BACKUP_ADMIN_URL)"
) -> AsyncIterator[Connection]:
    """A connection that may take its time.

    Raises:
        BackupError: the server does not let us in.
    """
    try:
        connection = await asyncpg.connect(
            address.dsn,
            timeout=10,
            # The session waits while pg_dump works; a server that ends idle ones must leave it alone.
            server_settings={"statement_timeout": "0", "idle_in_transaction_session_timeout": "0", "lock_timeout": "0"},
        )
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise BackupError(f"could not connect to database {address.database}: {error}", otherwise) from error
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


async def contents(connection: Connection) -> Contents:
    """What the database holds, in the snapshot of the connection's transaction if it has one."""
    tables = {
        name: await connection.fetchval(f"SELECT count(*) FROM {name}")  # noqa: S608  # quoted by PostgreSQL itself
        for name in [record[0] for record in await connection.fetch(TABLES)]
    }
    extensions = await connection.fetch("SELECT extname FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1")
    revisions = (
        await connection.fetch("SELECT version_num FROM public.alembic_version ORDER BY 1")
        if "public.alembic_version" in tables
        else []
    )
    return Contents(tables, [record[0] for record in extensions], [record[0] for record in revisions])


async def outside(connection: Connection) -> Outside:
    """What belongs to the database itself and is therefore in no dump."""
    rows = await connection.fetch(GRANTS)
    grants = None if not rows or rows[0]["is_default"] else [(row["role"], row["privilege"]) for row in rows]
    return Outside(grants, [record[0] for record in await connection.fetch(SETTINGS)])


class Tools:
    """PostgreSQL's programs, of a version that fits the server."""

    def __init__(self, given: Path | None, server_major: int) -> None:
        self._bin = _find(given, server_major)

    def program(self, name: str) -> Path:
        """Where a program is: beside pg_dump, or on PATH, as distributions keep the server's own elsewhere.

        Raises:
            BackupError: nowhere.
        """
        beside = self._bin / name
        found = str(beside) if beside.exists() else shutil.which(name)
        if not found:
            raise BackupError(f"{name} is not installed", "install PostgreSQL's server, or set BACKUP_PG_BIN")
        return Path(found)

    def dump(self, address: Address, snapshot: str, target: Path) -> None:
        """Dump exactly what the snapshot sees, compressed."""
        plain, env = address.for_tools()
        options = ["--format=custom", "--compress=gzip:6", "--no-password", f"--snapshot={snapshot}"]
        _run([str(self._bin / "pg_dump"), *options, f"--file={target}", f"--dbname={plain}"], env)

    def check(self, dump: Path) -> None:
        """Read a whole dump, decompressed, to its last line; a list of its contents alone would not notice an early end.

        Raises:
            Damaged: it is not a complete dump.
        """
        with dump.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise Damaged(f"{dump.name} is no dump of PostgreSQL")
        with notes() as errors_file:
            command = [str(self._bin / "pg_restore"), "--file=-", str(dump)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors_file) as process:
                assert process.stdout
                tail = b""
                while piece := process.stdout.read(1024 * 1024):
                    tail = (tail + piece)[-TAIL:]
            errors_file.seek(0)
            errors = errors_file.read().decode(errors="replace").strip()
        if process.returncode or END_MARKER not in tail:
            raise Damaged(f"{dump.name} cannot be read to its end: {errors or 'the end marker is missing'}")

    def restore(self, dump: Path, address: Address, owner: str, listing: Path) -> None:
        """Load a dump into an empty database, all of it or nothing.

        Extensions are left out: they are made beforehand, by whoever may.
        """
        lines = _run([str(self._bin / "pg_restore"), "--list", str(dump)], dict(os.environ)).splitlines()
        listing.write_text("\n".join(line for line in lines if not OF_EXTENSIONS.match(line)) + "\n")
        plain, env = address.for_tools()
        options = ["--exit-on-error", "--single-transaction", "--no-password", "--no-owner", f"--role={owner}"]
        _run([str(self._bin / "pg_restore"), *options, f"--use-list={listing}", f"--dbname={plain}", str(dump)], env)


def _find(given: Path | None, server_major: int) -> Path:
    """The folder of the tools: the one that was named, or the first that is new enough for the server."""
    on_path = shutil.which("pg_dump")
    candidates = [given] if given else [Path(on_path).parent] if on_path else []
    if not given:
        try:
            # Not in an image: there the tools are on PATH.
            from devstack import programs

            candidates.append(programs.postgres_bin())
        except (ImportError, LookupError):
            pass
    seen = []
    for folder in candidates:
        try:
            version = _run([str(folder / "pg_dump"), "--version"], dict(os.environ))
        except BackupError:
            continue
        found = re.search(r"(\d+)", version)
        seen.append(f"{version.strip()} in {folder}")
        if found and int(found[1]) >= server_major:
            return folder
    raise BackupError(
        f"no pg_dump for a server of version {server_major} was found ({'; '.join(seen) or 'none at all'})",
        f"install postgresql-client-{server_major}, or set BACKUP_PG_BIN to its folder",
    )


def _run(command: list[str], env: dict[str, str]) -> str:
    try:
        result = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BackupError(f"{Path(command[0]).name} cannot be started: {error}") from error
    if result.returncode < 0:
        name = signal.Signals(-result.returncode).name
        raise BackupError(f"{Path(command[0]).name} was ended by {name}", "is the disk full, or the memory?")
    if result.returncode:
        said = result.stderr.strip() or result.stdout.strip()
        raise BackupError(f"{Path(command[0]).name} failed: {said}", advice(said))
    return result.stdout
