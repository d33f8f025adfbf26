"""One stack in a folder at a time."""

import fcntl
import os
import time
from pathlib import Path

from devstack import guard
from devstack.errors import StackError

# Somewhat longer than the guard of a killed stack takes to clean up.
CLEAN_UP_SECONDS = guard.GRACE_SECONDS + 10


class FolderLock:
    """A lock that the kernel gives back when its holders are gone, so that a file left behind means nothing.

    The guard inherits it: after a kill the folder is free only once the last child has ended.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock"
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether the folder is ours."""
        return self._fd is not None

    def fileno(self) -> int:
        """The descriptor to hand on to the guard."""
        assert self._fd is not None
        return self._fd

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StackError: a running stack holds it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + CLEAN_UP_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                owner = os.pread(fd, 32, 0).decode(errors="replace").strip()
                # A holder that is no longer alive was killed: its guard is about to finish.
                if (owner.isdigit() and guard.alive(int(owner))) or time.monotonic() > deadline:
                    os.close(fd)
                    raise StackError(
                        f"another stack (process {owner or 'unknown'}) uses {self.path.parent}",
                        f"stop it with Ctrl-C or `kill {owner}`, or give this one its own folder: --data",
                    ) from None
                time.sleep(0.05)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Give it back; does nothing where it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
