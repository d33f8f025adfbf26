"""The pair: uploads and deletions between the dump and the mirror, both lost, and no row without its object."""

from app.core.storage import NamedObjects, client
from ops.backup import dump
from ops.backup.config import Keep
from ops.backup.drill.frame import Drill, Result, insist
from ops.backup.drill.rehearsal import Rehearsal
from ops.backup.errors import BackupError, Damaged, Refused
from ops.backup.objects import mirror
from ops.backup.restore import pair

FILES = 100
NAMES = (NamedObjects("files", "SELECT key FROM rehearsal_files"),)


def steps(drill: Drill, rehearsal: Rehearsal) -> None:
    """All of it."""
    both = _Both(rehearsal)
    drill.step("rows that name objects", both.fill)
    drill.step("dump", both.dump)
    drill.refused("a dump with no mirror after it", BackupError, both.look, lambda: both.restored(force=True))
    drill.step("delete and upload, mirror", both.between)
    drill.refused("a live database, without --force", Refused, both.look, both.restored)
    drill.step("lose both", both.lose)
    drill.step("restore the pair, check every row", both.restore)
    drill.step("a row without its object is said", both.orphan)


class _Both:
    """A table, each row of which names an object."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self.rehearsal, self.bucket = rehearsal, "drill-pair"
        files = rehearsal.config.store.model_copy(update={"bucket": self.bucket})
        self.config = rehearsal.with_(files=files, keep={"dump": Keep(30, 3), "objects": Keep(3, 3)})
        self.s3 = client(files)

    def look(self) -> tuple[set[str], set[str]]:
        """The rows, and the objects."""
        rows = self.rehearsal.ask(lambda connection: connection.fetch("SELECT key FROM rehearsal_files"))
        listed = self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {row[0] for row in rows}, {item["Key"] for item in listed}

    def restored(self, *, force: bool = False) -> pair.Restored:
        """Restore the newest pair."""
        return pair.restore(self.config, names=NAMES, force=force)

    def _sql(self, statement: str, *values: object) -> None:
        self.rehearsal.ask(lambda connection: connection.execute(statement, *values))

    def _add(self, key: str) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=key.encode() * 1000)
        self._sql("INSERT INTO rehearsal_files VALUES ($1)", key)

    def _remove(self, key: str) -> None:
        self._sql("DELETE FROM rehearsal_files WHERE key = $1", key)
        self.s3.delete_object(Bucket=self.bucket, Key=key)

    def fill(self) -> Result:
        """The object first, then its row, as features do."""
        self.s3.create_bucket(Bucket=self.bucket)
        self._sql("CREATE TABLE rehearsal_files (key text PRIMARY KEY)")
        for number in range(FILES):
            self._add(f"file-{number:03d}")
        mirror.run(self.config)
        return f"{FILES} rows, each with its object; mirrored as every hour", None

    def dump(self) -> Result:
        """The rows."""
        manifest = dump.run(self.config).manifest
        return manifest.id, manifest.size

    def between(self) -> Result:
        """What happens after the dump."""
        self._remove("file-007")
        self._add("file-new")
        details = mirror.run(self.config).manifest.details
        return "one deleted, one uploaded after the dump; then the mirror", details["copied_bytes"]

    def lose(self) -> Result:
        """Both."""
        _, objects = self.look()
        self.rehearsal.destroy()
        for key in objects:
            self.s3.delete_object(Bucket=self.bucket, Key=key)
        return "database dropped, bucket emptied", None

    def restore(self) -> Result:
        """Both."""
        result = self.restored()
        rows, objects = self.look()
        insist(rows == {f"file-{number:03d}" for number in range(FILES)}, "the rows differ")
        insist(rows <= objects, "a row is without its object")
        size = result.pair.dump.size + result.objects.size
        return f"{result.named.named} rows name objects, all are there; the deleted one is back with its row", size

    def orphan(self) -> Result:
        """The check can fail."""
        self._sql("INSERT INTO rehearsal_files VALUES ('nowhere')")
        dump.run(self.config)
        mirror.run(self.config)
        try:
            self.restored(force=True)
        except Damaged as error:
            return str(error).splitlines()[0], None
        insist(condition=False, otherwise="a row without its object was not noticed")
        return "", None
