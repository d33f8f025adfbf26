"""Base, log, a dropped table, back to the second before; again to the same second; and what must be refused."""

import os
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from ops.backup import base as bases
from ops.backup.drill.frame import Drill, Result, insist
from ops.backup.drill.rehearsal import Rehearsal, Snapshot
from ops.backup.errors import BackupError, Damaged, Refused
from ops.backup.restore import base as recovering
from ops.backup.restore.base import Target


def steps(drill: Drill, rehearsal: Rehearsal) -> None:
    """All of it, on the same server: the live folder is its own."""
    server, live = rehearsal.stack.processes["postgres"], rehearsal.cluster
    rehearsal.fill()
    with rehearsal.receiving():
        drill.step("physical backup", lambda: _base(rehearsal))
        moment, before = _lose(drill, rehearsal)
    target = Target(moment)

    def restore(**changes: object) -> recovering.Recovered:
        wanted = {"target": target, "force": True, **changes}
        return recovering.restore(rehearsal.config, live, **wanted)  # type: ignore[arg-type]

    def restored(**changes: object) -> Result:
        result = restore(**changes)
        assert result.fresh is not None
        spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.seconds.items())
        return f"{result.segments} files of the log, timeline {result.timeline}; {spent}", result.base.size

    drill.refused("the server still runs", Refused, rehearsal.look, restore)
    server.stop()
    _refusals(drill, rehearsal, target)

    def killed() -> Result:
        fingerprint = _fingerprint(live)
        rehearsal.killed_at(
            "ops.backup.restore.base",
            "_look",
            "restore",
            "base",
            "--into",
            str(live),
            "--to",
            moment.isoformat(),
            "--force",
        )
        insist(_fingerprint(live) == fingerprint, "the live data changed")
        return "live data untouched; what it left, a running server too, goes with the next run", None

    drill.step("kill -9 in the middle of a recovery", killed)
    drill.step("recover to the second before", restored)
    drill.step("compare every row", lambda: _compare(rehearsal, before))
    server.stop()
    drill.step("again, to the same second", restored)
    drill.step("compare every row", lambda: _compare(rehearsal, before))

    def killed_swap() -> Result:
        server.stop()
        rehearsal.killed_after_rename(
            ".before_", "restore", "base", "--into", str(live), "--force", "--to", "latest", "--scratch"
        )
        insist(not live.exists(), "the folder is there, so it was not in the change of names")
        said = recovering.finish_or_undo(live)
        return f"{said.partition(':')[0]}; {_compare(rehearsal, before)[0]}", None

    drill.step("kill -9 of a recovery in the change of names", killed_swap)
    _without_a_fresh_backup(drill, rehearsal, moment)


def _without_a_fresh_backup(drill: Drill, rehearsal: Rehearsal, moment: datetime) -> None:
    """Back sooner: the backup is made while the service works, and what is written before it can be recovered too."""
    server, live = rehearsal.stack.processes["postgres"], rehearsal.cluster
    known = len(rehearsal.store().backups("base"))

    def back_soon() -> Result:
        server.stop()
        words = ("restore", "base", "--into", str(live), "--force", "--no-fresh")
        done = rehearsal.child("-m", "ops.backup", *words, "--to", moment.isoformat())
        insist(done.returncode == 0, f"exit code {done.returncode}: {done.stdout[-600:]}")
        insist("at once: python -m ops.backup base" in done.stdout, f"it does not say what to do: {done.stdout}")
        insist(len(rehearsal.store().backups("base")) == known, "a backup was made all the same")
        server.start()
        return "up again, and told what to do at once", None

    def lose_again() -> Result:
        with rehearsal.receiving():
            rehearsal.load()
            rehearsal.flush()
            written.append(rehearsal.look())
        server.stop()
        result = recovering.restore(rehearsal.config, live, Target(), force=True, fresh=False)
        return f"{result.segments} files of the log, timeline {result.timeline}", result.base.size

    def by_hand() -> Result:
        with rehearsal.receiving():
            made = bases.run(rehearsal.config).manifest
            rehearsal.load(10)
            rehearsal.flush()
            written.append(rehearsal.look())
        server.stop()
        result = recovering.restore(rehearsal.config, live, Target(), force=True, scratch=True)
        insist(result.base.id == made.id, f"from {result.base.id}")
        return f"from {made.id}", made.size

    written: list[Snapshot] = []
    drill.step("recover, --no-fresh", back_soon)
    drill.step("lose it again before any backup; to the latest", lose_again)
    drill.step("compare every row", lambda: _compare(rehearsal, written[-1]))
    drill.step("backup by hand, lose it again; to the latest", by_hand)
    drill.step("compare every row", lambda: _compare(rehearsal, written[-1]))


def _base(rehearsal: Rehearsal) -> Result:
    manifest = bases.run(rehearsal.config).manifest
    details = bases.Base.of(manifest)
    insist(details.log, "no slot holds the log")
    return (
        f"{manifest.id}, {details.files:,} files of {details.plain:,} bytes, each checked after reading back",
        manifest.size,
    )


def _lose(drill: Drill, rehearsal: Rehearsal) -> tuple[datetime, Snapshot]:
    """Write, remember the second, drop a table."""

    def load() -> Result:
        return f"{rehearsal.load():,} rows after the backup: they are in the log alone", None

    drill.step("load", load)
    rehearsal.flush()
    rehearsal.write_later()
    before = rehearsal.look()
    moment = rehearsal.now()

    def drop() -> Result:
        rehearsal.stack.sql("DROP TABLE rehearsal.thing", rehearsal.database)
        return (
            f"rehearsal.thing, {(rehearsal.now() - moment) / timedelta(milliseconds=1):.0f} ms after {moment:%T.%f}",
            None,
        )

    def stored() -> Result:
        rehearsal.flush()
        size = sum(stored.size for stored in rehearsal.store().listing("wal/"))
        return "the log is in the store, each segment read back", size

    drill.step("drop a table", drop)
    drill.step("store the log", stored)
    return moment, before


def _refusals(drill: Drill, rehearsal: Rehearsal, target: Target) -> None:
    live = rehearsal.cluster

    def look() -> object:
        return _fingerprint(live)

    def restore(target: Target = target, into: Path = live, force: bool = True, **changes: object) -> object:
        return recovering.restore(rehearsal.with_(**changes), into, target, force=force)

    drill.refused("live folder, without --force", Refused, look, lambda: restore(force=False))
    drill.refused("wrong key", BackupError, look, lambda: restore(target=Target(), keys={"rehearsal": os.urandom(32)}))
    early = Target(rehearsal.moment_before_any_base)
    drill.refused("a moment before the first backup", BackupError, look, lambda: restore(target=early))
    with rehearsal.corrupted("base/", ".tar.gz"):
        drill.refused("corrupted copy (one byte)", Damaged, look, restore)
    with rehearsal.truncated("base/", ".tar.gz"):
        drill.refused("truncated copy", BackupError, look, restore)
    with rehearsal.corrupted("wal/", ""):
        drill.refused("corrupted segment of the log", Damaged, look, restore)
    with rehearsal.lost("wal/"):
        drill.refused("the last segment of the log is missing", BackupError, look, restore)
    with rehearsal.lost("wal/", -2):
        drill.refused("a segment of the log is missing in between", Damaged, look, restore)
        drill.refused("the same, for the latest moment", Damaged, look, lambda: restore(target=Target()))


def _compare(rehearsal: Rehearsal, before: Snapshot) -> Result:
    rehearsal.stack.processes["postgres"].start()
    after = rehearsal.look()
    insist(after.rows == before.rows, "the rows differ")
    # PostgreSQL writes the next 32 numbers of a sequence ahead to its log: after a recovery some are left out, none comes twice.
    insist(after.sequence >= before.sequence, "a sequence would give numbers again")
    return f"all {after.count:,} rows of {len(after.rows)} tables are equal", None


def _fingerprint(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            status = path.stat()
            found[str(path)] = (status.st_size, status.st_mtime_ns)
    return found
