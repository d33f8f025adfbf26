"""PostgreSQL with pgvector: a cluster of its own, reached by TCP on the loopback interface with a password.

As root there is a difficulty: PostgreSQL refuses to run as root, and another user cannot enter folders that only root
may (a clone under `mktemp -d`, a virtual environment under /root). So there it runs as `nobody` with one privilege kept,
that of entering any folder (CAP_DAC_OVERRIDE). Anybody else runs it as themselves.
"""

import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import Signals

from devstack import guard, programs
from devstack.errors import StackError
from devstack.ports import LOOPBACK
from devstack.services import Context, Service, base_environment

SUPERUSER = "postgres"
# The line of postmaster.pid with the server's state, as pg_ctl reads it.
STATUS_LINE = 7
NEEDED = {"CAP_DAC_OVERRIDE": 1, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SETPCAP": 8}

# `vector` is not a trusted extension, so only the superuser can create it. In template1 it is part of every database
# made later, by tests and by a restore, for which the role may create databases.
SETTLE = r"""
\set ON_ERROR_STOP on
\getenv role DEVSTACK_ROLE
\getenv password DEVSTACK_PASSWORD
\getenv database DEVSTACK_DATABASE
\getenv replication DEVSTACK_REPLICATION
CREATE EXTENSION IF NOT EXISTS vector;
SELECT format('CREATE ROLE %I', :'role') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
ALTER ROLE :"role" LOGIN NOSUPERUSER CREATEDB PASSWORD :'password';
SELECT format('CREATE DATABASE %I OWNER %I', :'database', :'role')
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
SELECT 'CREATE ROLE replication' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'replication') \gexec
ALTER ROLE replication LOGIN REPLICATION PASSWORD :'replication';
\connect postgres
GRANT EXECUTE ON FUNCTION pg_switch_wal() TO replication;
\connect :"database"
CREATE EXTENSION IF NOT EXISTS vector;
"""


class Postgres(Service):
    """The database server."""

    name = "postgres"
    # Fast shutdown: SIGTERM would wait for every client to leave by itself.
    stop_signal = Signals.SIGINT

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.cluster = self.folder / "data"
        self._password_file = self.folder / "superuser-password"

    @property
    def superuser_password(self) -> str:
        """The password of `postgres`, made with the cluster."""
        return self._password_file.read_text().strip()

    def prepare(self) -> None:
        """Make the cluster once, and clear up after a server that was killed."""
        if not (self.cluster / "PG_VERSION").exists():
            self._make_cluster()
        self._remove_stale_pid_file()

    def _make_cluster(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # What an interrupted attempt left: without PG_VERSION no server ever ran in it.
        shutil.rmtree(self.cluster, ignore_errors=True)
        unfinished = self.folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(unfinished, nobody.pw_uid, nobody.pw_gid)
        self._fill(unfinished)
        unfinished.rename(self.cluster)

    def _fill(self, unfinished: Path) -> None:
        self._password_file.unlink(missing_ok=True)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_hex(24) + "\n")
        # The built-in locale sorts the same on every machine and needs nothing from it.
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        login = [f"--username={SUPERUSER}", f"--pwfile={self._password_file}", "--auth=scram-sha-256"]
        sync = [] if self.context.durable else ["--no-sync"]
        command = unprivileged(
            [str(programs.postgres_bin() / "initdb"), f"--pgdata={unfinished}", *locale, *login, *sync]
        )
        result = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            env=base_environment(),
            stdin=subprocess.DEVNULL,
        )
        if result.returncode:
            raise StackError(
                f"initdb could not make a database cluster in {self.folder}:\n{(result.stderr or result.stdout).strip()}",
                "mend what it says; `make dev RESET=1` starts with empty data",
            )

    def _remove_stale_pid_file(self) -> None:
        """A server that was killed leaves its number, which by now may be another program's."""
        pid_file = self.cluster / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return
        command = Path(f"/proc/{pid}/cmdline")
        is_ours = command.exists() and str(self.cluster).encode() in command.read_bytes()
        if guard.alive(pid) and (is_ours or not guard.HAS_PROC):
            raise StackError(
                f"a PostgreSQL server (process {pid}) still uses {self.cluster}",
                f"stop it with `kill -INT {pid}`, then try again",
            )
        pid_file.unlink(missing_ok=True)

    def command(self) -> Sequence[str]:
        """The server. TCP only: the path of a Unix socket is limited to some hundred characters."""
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            # /dev/shm is small in containers, and what lies there outlives a killed server.
            "dynamic_shared_memory_type": "mmap",
            "log_line_prefix": "",
            "timezone": "UTC",
        }
        if not self.context.durable:
            # Nothing need survive a crash of the machine. What was committed must survive a kill of the server, which
            # is why `synchronous_commit` stays on.
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return unprivileged([str(programs.postgres_bin() / "postgres"), "-D", str(self.cluster), *options])

    def ready(self) -> bool:
        """The server itself says so in its pid file."""
        try:
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > STATUS_LINE and lines[STATUS_LINE].strip() == "ready"

    def settle(self) -> None:
        """Role, database and extension; again at each start, because the password in `.env` may be a new one."""
        env = self.context.known
        self.sql(
            SETTLE,
            {
                "DEVSTACK_ROLE": env["DATABASE_USER"],
                "DEVSTACK_PASSWORD": env["DATABASE_PASSWORD"],
                "DEVSTACK_DATABASE": env["DATABASE_NAME"],
                "DEVSTACK_REPLICATION": env["BACKUP_REPLICATION_PASSWORD"],
            },
        )

    def sql(self, script: str, variables: Mapping[str, str] | None = None, database: str = "template1") -> str:
        """Run a psql script as the superuser and return what it printed."""
        address = ["-h", LOOPBACK, "-p", str(self.port), "-U", SUPERUSER, "-d", database]
        options = ["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "-v", "ON_ERROR_STOP=1"]
        result = subprocess.run(
            [str(programs.postgres_bin() / "psql"), *options, *address, "-f", "-"],
            check=False,
            input=script,
            capture_output=True,
            text=True,
            env={**base_environment(), **(variables or {}), "PGPASSWORD": self.superuser_password},
        )
        if result.returncode:
            raise StackError(f"PostgreSQL refused what the stack asked of it:\n{result.stderr.strip()}")
        return result.stdout


class Replica(Postgres):
    """A second server that follows the first and can be read from: a hot standby by streaming replication."""

    name = "replica"
    after = ("postgres",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        # A copy of the first, passwords included.
        self._password_file = context.data / Postgres.name / self._password_file.name

    def _fill(self, unfinished: Path) -> None:
        sync = [] if self.context.durable else ["--no-sync"]
        address = ["-h", LOOPBACK, "-p", str(self.context.ports[Postgres.name]), "-U", SUPERUSER]
        options = ["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast"]
        command = [str(programs.postgres_bin() / "pg_basebackup"), "-D", str(unfinished), *address, *options, *sync]
        result = subprocess.run(
            unprivileged(command),
            check=False,
            capture_output=True,
            text=True,
            env={**base_environment(), "PGPASSWORD": self.superuser_password},
            stdin=subprocess.DEVNULL,
        )
        if result.returncode:
            raise StackError(f"pg_basebackup could not copy the database:\n{result.stderr.strip()}")

    def settle(self) -> None:
        """Nothing: what the first server has, it has as well."""


def unprivileged(command: Sequence[str]) -> list[str]:
    """The command as PostgreSQL accepts it: as it is, or for root by way of setpriv."""
    if os.geteuid() != 0:
        return list(command)
    advice = "run the stack as an ordinary user"
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise StackError(
            "PostgreSQL does not run as root, and `setpriv` (util-linux) is missing to start it as `nobody`",
            advice,
        )
    effective = _effective_capabilities()
    if missing := [name for name, bit in NEEDED.items() if not effective >> bit & 1]:
        raise StackError(
            f"PostgreSQL does not run as root, and this root lacks {', '.join(missing)} to start it as `nobody`",
            advice,
        )
    nobody = pwd.getpwnam("nobody")
    return [
        setpriv,
        f"--reuid={nobody.pw_uid}",
        f"--regid={nobody.pw_gid}",
        "--clear-groups",
        # Without it access(2), by which initdb looks for its neighbours, disregards the privilege: it asks for the
        # real user, and a virtual environment below a folder of mode 0700 would not be found.
        "--securebits=+no_setuid_fixup",
        "--inh-caps=-all,+dac_override",
        "--ambient-caps=-all,+dac_override",
        *command,
    ]


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
