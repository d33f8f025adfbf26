"""Room on this machine's disk for what has to lie there for a while; that there is none is said, whoever meets it."""

import errno
import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ops.backup.errors import BackupError

ADVICE = "make room, or set TMPDIR to where there is: docs/runbook/backup-late.md"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# In the words of PostgreSQL's programs, which say the reason as the kernel words it.
WORDS = tuple(os.strerror(number) for number in FULL)
# Younger ones may be about to take their lock.
YOUNG_SECONDS = 60


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """A folder that is gone afterwards, or, where its process was killed, with the next one for that purpose.

    Raises:
        BackupError: the disk filled up while it was in use.
    """
    prefix = f"backup-{purpose}-"
    _clear(prefix)
    try:
        with tempfile.TemporaryDirectory(prefix=prefix, dir=place()) as folder, _held(Path(folder)):
            yield Path(folder)
    except OSError as error:
        if not is_full(error):
            raise
        raise BackupError(f"there is no room left: {error}", ADVICE) from error


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """A lock on a folder, which ends with the process, however it ends; says whether it is ours."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(opened)


def _clear(prefix: str) -> None:
    """What runs left that were killed: readable rows of the database, and room that the next one needs."""
    for folder in place().glob(f"{prefix}*/"):
        with suppress(OSError):  # another one clears it, or it is somebody else's
            if time.time() - folder.stat().st_mtime > YOUNG_SECONDS:
                with _held(folder) as is_dead:
                    if is_dead:
                        shutil.rmtree(folder)


def place() -> Path:
    """Where folders and files for a while go.

    Raises:
        BackupError: nowhere can a file be written.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:  # it tries to write a file in each of them
        raise BackupError(f"no folder for temporary files can be written to: {error}", ADVICE) from error


def is_full(error: BaseException) -> bool:
    """Whether that is what a full disk says."""
    return isinstance(error, OSError) and error.errno in FULL


def advice(said: str) -> str:
    """What to do next, where a program gave up for want of room; empty where it had another reason."""
    return ADVICE if any(words in said for words in WORDS) else ""


def notes() -> IO[bytes]:
    """What a program says on its way goes here: nobody reads a second pipe while the first one is read.

    In memory where the system can do that, so that what needs no disk works with a full one.
    """
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("notes"), "w+b")
    return tempfile.TemporaryFile()
