"""A disk too small for what runs on it, and for nobody else."""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

ROOM = 1_000_000_000


class Disk:
    """A file system of so many bytes, which only a command that runs in it sees, in a name space of its own.

    Where the kernel does not let us mount one, as in most containers, it refuses to let any file of the command grow beyond
    that size instead: the same for whoever writes one large file.
    """

    def __init__(self, folder: Path, size: int) -> None:
        """`folder` is where it will be; it must be there, and stays empty for everybody else."""
        self.folder, self.size = folder, size

    @property
    def kind(self) -> str:
        """What it is, in words."""
        return "a full file system" if _entered() else "a limit of the kernel on files"

    def command(self, words: Sequence[str]) -> list[str]:
        """A command that runs on it."""
        if not (entered := _entered()):
            return list(words)
        mount = 'mount -t tmpfs -o "size=$0,mode=1777" disk "$1" && shift && exec "$@"'
        return [*entered, "sh", "-c", mount, str(self.size), str(self.folder), *words]

    @property
    def limit(self) -> Callable[[], None] | None:
        """To be called in the process before the command is."""
        if _entered():
            return None
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))

    def grow(self, process: "subprocess.Popen[bytes]") -> None:
        """Make room for a command that runs on it."""
        if not _entered():
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            return
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        command = ["nsenter", f"--target={process.pid}", *user, "--mount"]
        # With its source named, mount adds no options of its own: among them are users that are unknown inside.
        subprocess.run([*command, "mount", "-o", f"remount,size={ROOM}", "disk", str(self.folder)], check=True)


@cache
def _entered() -> Sequence[str]:
    """How a name space is entered in which one may mount; empty where that is not allowed."""
    if not shutil.which("unshare"):
        return ()
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--mount"]
    tried = [*command, "mount", "-t", "tmpfs", "tried", "/mnt"]
    return command if not subprocess.run(tried, capture_output=True, check=False).returncode else ()
