"""Dump, destroy, restore, compare every row; then what must be refused, and kill -9 in every bad moment."""

import os
from collections.abc import Callable

from ops.backup.drill.frame import Drill, Result, insist
from ops.backup.drill.rehearsal import Rehearsal
from ops.backup.dump import run
from ops.backup.errors import BackupError, Damaged, Refused
from ops.backup.restore import dump as restoring


def steps(drill: Drill, rehearsal: Rehearsal) -> None:
    """All of it."""
    _way_there_and_back(drill, rehearsal)
    _refusals(drill, rehearsal)
    _faults(drill, rehearsal)


def _way_there_and_back(drill: Drill, rehearsal: Rehearsal) -> None:
    def migrate() -> Result:
        rehearsal.stack.run("-m", "app.cli", "migrate")
        return "the service's own tables", None

    def fill() -> Result:
        return f"{rehearsal.fill():,} rows with vectors, bytes, nulls, unicode", None

    def back_up() -> Result:
        manifest = run(rehearsal.config).manifest
        return f"{manifest.id}, checked, encrypted, read back", manifest.size

    def destroy() -> Result:
        rehearsal.destroy()
        insist(rehearsal.database not in rehearsal.databases(), "the database is still there")
        return f"database {rehearsal.database} dropped", None

    def restore() -> Result:
        result = restoring.restore(rehearsal.config)
        insist(result.kept is None, "something was kept of a database that was gone")
        return "into a new database, counted, renamed", result.manifest.size

    drill.step("migrate", migrate)
    drill.step("write rows", fill)
    before = rehearsal.look()
    drill.step("dump", back_up)
    drill.step("destroy the database", destroy)
    drill.step("restore", restore)

    def compare() -> Result:
        after = rehearsal.look()
        insist(after == before, "the rows differ")
        return f"all {after.count:,} rows of {len(after.rows)} tables are equal", None

    drill.step("compare every row", compare)


def _refusals(drill: Drill, rehearsal: Rehearsal) -> None:
    config, look = rehearsal.config, rehearsal.look_at_all
    rehearsal.write_later()
    drill.refused("live database, without FORCE", Refused, look, lambda: restoring.restore(config))
    harms: list[tuple[str, Callable[[str], None]]] = [
        ("truncated dump", rehearsal.truncate_dump),
        ("corrupted dump (one byte)", rehearsal.corrupt_dump),
        ("empty dump", rehearsal.empty_dump),
        ("missing dump", rehearsal.lose_dump),
        ("half uploaded (no manifest)", rehearsal.lose_manifest),
    ]
    good = run(config).manifest.id
    wrong = rehearsal.with_(keys={"rehearsal": os.urandom(32)})
    lacking = rehearsal.with_(keys={"other": os.urandom(32)})
    drill.refused("wrong key", Damaged, look, lambda: restoring.restore(wrong, good, force=True))
    drill.refused("lacking key", Damaged, look, lambda: restoring.restore(lacking, good, force=True))
    drill.refused("another dump under its name", Damaged, look, lambda: _swapped(rehearsal))
    broken = run(config).manifest.id
    for name, harm in harms:
        with rehearsal.harmed(broken, harm):
            drill.refused(name, Damaged, look, lambda: restoring.restore(config, broken, force=True))
    drill.refused("unknown backup", Damaged, look, lambda: restoring.restore(config, "no-such", force=True))
    nowhere = rehearsal.with_(prefix="nothing/")
    drill.refused("no backup at all", BackupError, look, lambda: restoring.restore(nowhere, force=True))

    def forced() -> Result:
        live = rehearsal.look()
        manifest = run(config).manifest
        rehearsal.ask(lambda connection: connection.execute("DELETE FROM rehearsal.person WHERE name = 'late'"))
        result = restoring.restore(config, force=True)
        insist(rehearsal.look() == live, "the rows differ")
        insist(result.kept in rehearsal.databases(), "the former database is gone")
        return f"restored; the former one is kept as {result.kept}", manifest.size

    drill.step("live database, with FORCE", forced)


def _swapped(rehearsal: Rehearsal) -> None:
    """An older dump, whole and under the right key, put in the place of a newer one, with a manifest that fits."""
    config, store = rehearsal.config, rehearsal.store()
    older, newer = (run(config).manifest for _ in range(2))
    with rehearsal.harmed(newer.id, lambda name: rehearsal.replace_dump(name, older.id)):
        part = older.only
        rehearsal.rewrite_manifest(
            newer.id, parts=(type(part)(newer.only.name, part.size, part.sha256, part.encrypted_with),)
        )
        try:
            restoring.restore(config, newer.id, force=True)
        finally:
            store.delete(newer.name, newer.only.name)


def _faults(drill: Drill, rehearsal: Rehearsal) -> None:
    config, store = rehearsal.config, rehearsal.store()
    ids = [backup.manifest.id for backup in store.backups("dump")]

    def no_new_one(what: str) -> Result:
        insist([backup.manifest.id for backup in store.backups("dump")] == ids, "a half backup counts as one")
        made = run(config).manifest
        ids.append(made.id)
        return f"{what}; no half backup; the next run made one", made.size

    def killed_backup() -> Result:
        rehearsal.killed_at("ops.backup.store", "Store.check", "dump")
        return no_new_one("killed with the dump sent and the manifest not written")

    def killed_load() -> Result:
        return _killed_restore(rehearsal, "ops.backup.restore.dump", "_apply")

    def killed_swap() -> Result:
        return _killed_restore(rehearsal, "ops.backup.restore.dump", "_end_sessions")

    drill.step("kill -9 in the middle of a dump", killed_backup)
    drill.step("kill -9 in the middle of a restore", killed_load)
    drill.step("kill -9 of a restore in the change of names", killed_swap)


def _killed_restore(rehearsal: Rehearsal, module: str, place: str) -> Result:
    live = rehearsal.look()
    before = rehearsal.databases()
    rehearsal.killed_at(module, place, "restore", "dump", "--force")
    insist(rehearsal.databases() != before, "the restore left nothing, so it was not in the middle")
    done = restoring.undo(rehearsal.config)
    insist(rehearsal.databases() == before, "something was left")
    insist(rehearsal.look() == live, "the live data changed")
    return "; ".join(done), None
