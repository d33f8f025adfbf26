"""Room on the disk of whoever makes a backup: what is left of killed runs goes, a full disk is said, streams end as they should."""

import errno
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.backup.ahead import ahead
from ops.backup.errors import BackupError
from ops.backup.scratch import advice, scratch


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where such folders go in these tests."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_said_and_leaves_nothing(place: Path, number: int) -> None:
    """Whoever meets it: a file of ours, a library, a thread."""

    def fill() -> None:
        with scratch("tried") as folder:
            (folder / "half").write_bytes(b"half of a dump")
            raise OSError(number, os.strerror(number))

    with pytest.raises(BackupError, match=r"no room left[^\n]*\n  next: make room"):
        fill()
    assert list(place.iterdir()) == []


def test_another_fault_is_not_taken_for_a_full_disk() -> None:
    """Its advice would be wrong."""
    with pytest.raises(PermissionError), scratch("tried"):
        raise PermissionError(errno.EACCES, "no")
    assert advice("pg_dump: error: No space left on device")
    assert not advice("pg_dump: error: permission denied")


def test_where_nothing_can_be_written_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python tries each folder with a small file, and finds none."""

    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(BackupError, match="set TMPDIR"), scratch("tried"):
        pass


def test_what_a_killed_run_left_goes_with_the_next_one(place: Path) -> None:
    """It holds readable rows, and room. What is in use stays, however old it looks."""
    code = "import os; from ops.backup.scratch import scratch\nwith scratch('tried') as f:\n (f / 'rows').touch(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(place)}, check=False)
    (left,) = place.iterdir()
    old = time.time() - 3600
    with scratch("tried") as mine, scratch("other"):
        assert left.exists(), "it is a second old: perhaps it is about to take its lock"
        os.utime(left, (old, old))
        os.utime(mine, (old, old))
        with scratch("tried"):
            assert not left.exists()
            assert mine.exists()


def test_a_stream_ahead_is_the_same_stream() -> None:
    """All of it, in its order."""
    assert list(ahead(iter(range(1000)), depth=3)) == list(range(1000))
    assert list(ahead(iter(()))) == []


def test_what_a_stream_ahead_raises_comes_after_what_it_gave() -> None:
    """A copy that is not whole is known at its end; that must not get lost in a thread."""

    def broken() -> Iterator[int]:
        yield 1
        raise BackupError("not what was written")

    stream = ahead(broken())
    assert next(stream) == 1
    with pytest.raises(BackupError, match="not what was written"):
        next(stream)


def test_who_leaves_a_stream_early_waits_for_nobody() -> None:
    """Its thread ends, though nobody takes what it has."""
    given: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            given.append(1)
            yield 1

    stream = ahead(endless(), depth=2)
    next(stream)
    stream.close()
    many = len(given)
    assert many < 10
    assert len(given) == many
