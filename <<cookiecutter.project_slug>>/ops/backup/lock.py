"""One run of a kind at a time: in this container, in another one, and for schedulers that do not know of each other."""

import asyncio
import fcntl
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

from ops.backup.config import Config
from ops.backup.errors import BackupError, Busy
from ops.backup.manifest import Kind
from ops.backup.postgres import Address, connected
from ops.backup.scratch import place

log = structlog.get_logger(__name__)

# The first half of the key of an advisory lock; the second one is the kind's.
SPACE = 0x6261636B


@contextmanager
def only_one(config: Config, kind: Kind) -> Iterator[None]:
    """Hold the lock of a kind.

    PostgreSQL keeps it, because every scheduler knows that; it lets go when the session ends, however it ends. Where
    it is away, what can be backed up without it still is, and only runs on this machine know of each other.

    Raises:
        Busy: another run has it.
    """
    busy = Busy(f"another run of {kind} is under way", "wait for it")
    with ExitStack() as stack:
        file = stack.enter_context(_file(config, kind).open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise busy from error
        runner = stack.enter_context(asyncio.Runner())
        try:
            session = connected(Address(config.dsn))
            connection = runner.run(session.__aenter__())
        except BackupError as error:
            log.warning("backup_lock_local", kind=kind, reason=str(error))
        else:
            stack.callback(lambda: runner.run(session.__aexit__(None, None, None)))
            number = zlib.crc32(kind.encode()) & 0x7FFFFFFF
            if not runner.run(connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", SPACE, number)):
                raise busy
        yield


def _file(config: Config, kind: Kind) -> Path:
    """One for each kind and service: two services on a machine do not wait for each other."""
    whose = zlib.crc32(f"{config.dsn} {config.store.bucket} {config.prefix}".encode())
    return place() / f"backup-{kind}-{whose:08x}.lock"
