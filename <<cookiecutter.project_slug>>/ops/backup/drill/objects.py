"""Objects: one, all, and a moment, from a bucket that keeps no versions itself; then everything that must be refused."""

import hashlib
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from app.core.storage import client
from ops.backup.config import Keep
from ops.backup.drill.frame import Drill, Result, insist
from ops.backup.drill.rehearsal import Rehearsal
from ops.backup.errors import BackupError, Damaged, Refused
from ops.backup.objects import mirror
from ops.backup.objects.journal import MIRROR
from ops.backup.restore.objects import Wish, restore

OBJECTS = 200
LARGE = 40_000_000  # more than one part
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def steps(drill: Drill, rehearsal: Rehearsal) -> None:
    """All of it."""
    bucket = _Bucket(rehearsal)
    drill.step("store objects", bucket.fill)
    drill.step("kill -9 in the middle of the mirror", bucket.kill)
    drill.step("mirror", bucket.copy)
    drill.step("change three, mirror again", bucket.change)
    drill.step("restore one object", bucket.one)
    drill.step("lose every object", bucket.lose)
    drill.step("restore all objects", bucket.everything)
    drill.step("restore one moment", bucket.moment)
    _refusals(drill, bucket)


def _refusals(drill: Drill, bucket: "_Bucket") -> None:
    config, look = bucket.config, bucket.look
    cases: list[tuple[str, type[BackupError], Wish]] = [
        ("other bytes there, without --force", Refused, Wish(key="things/001")),
        ("a moment before any mirror", BackupError, Wish(at=LONG_AGO)),
        ("an object that never was", BackupError, Wish(key="nothing")),
    ]
    for name, kind, wish in cases:
        drill.refused(name, kind, look, partial(restore, config, wish))
    wrong = replace(config, keys={"rehearsal": b"x" * 32})
    drill.refused("wrong key", BackupError, look, lambda: restore(wrong, Wish(), force=True))
    harms: list[tuple[str, Callable[[bytes], bytes | None]]] = [
        ("corrupted object (one byte)", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        ("truncated object", lambda data: data[: len(data) // 2]),
        ("empty object", lambda _data: b""),
        ("missing object", lambda _data: None),
    ]
    wish = Wish(key="things/003")
    whole = bucket.mirrored(wish.key)
    for name, harm in harms:
        bucket.harm(wish.key, harm(whole))
        drill.refused(name, Damaged, look, partial(restore, config, wish))


class _Bucket:
    """A bucket of the application, as it was at two moments."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self.rehearsal, self.name = rehearsal, "drill-objects"
        files = rehearsal.config.store.model_copy(update={"bucket": self.name})
        self.config = rehearsal.with_(files=files, keep={"objects": Keep(3, 3)})
        self.s3 = client(files)
        self.before: dict[str, str] = {}
        self.after: dict[str, str] = {}
        self.then = LONG_AGO

    def look(self) -> dict[str, str]:
        """The digest of every object."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        bodies = ((key, self.s3.get_object(Bucket=self.name, Key=key)["Body"].read()) for key in keys)
        return {key: hashlib.sha256(body).hexdigest() for key, body in bodies}

    def mirrored(self, key: str) -> bytes:
        """What the mirror holds of an object."""
        return self.s3.get_object(Bucket=self.config.store.bucket, Key=self._place(key))["Body"].read()

    def harm(self, key: str, data: bytes | None) -> None:
        """Put other bytes into the mirror, or none, and lose the live object."""
        if data is None:
            self.s3.delete_object(Bucket=self.config.store.bucket, Key=self._place(key))
        else:
            self.s3.put_object(Bucket=self.config.store.bucket, Key=self._place(key), Body=data)
        self.s3.delete_object(Bucket=self.name, Key=key)

    def _place(self, key: str) -> str:
        return f"{self.config.prefix}{mirror.history(self.config, key)[0].name}"

    def fill(self) -> Result:
        """Many small ones and a large one."""
        numbers = random.Random(20261121)  # noqa: S311  # repeatable on purpose
        self.s3.create_bucket(Bucket=self.name)
        for number in range(OBJECTS):
            body = numbers.randbytes(numbers.randrange(50_000))
            self.s3.put_object(Bucket=self.name, Key=f"things/{number:03d}", Body=body)
        self.s3.put_object(Bucket=self.name, Key="things/large", Body=numbers.randbytes(LARGE))
        self.before = self.look()
        return f"{len(self.before)} objects, one of several parts", None

    def kill(self) -> Result:
        """The command itself, as soon as the first object is in the mirror."""
        store = self.rehearsal.store()
        env = {**self.rehearsal.environment, "STORAGE_BUCKET": self.name}
        command = [sys.executable, "-m", "ops.backup", "objects"]
        with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while not (copied := len(store.listing(MIRROR))) and process.poll() is None:
                pass
            process.kill()
        insist(not store.backups("objects"), "it was over before it could be killed")
        return f"{copied} were copied by then, and none of it counts as a backup", None

    def copy(self) -> Result:
        """All of it."""
        manifest = mirror.run(self.config).manifest
        self.then = mirror.listed_at(manifest)
        details = manifest.details
        return f"{details['copied']} copied, encrypted, under a list of {details['objects']}", details["copied_bytes"]

    def change(self) -> Result:
        """One is new, one overwritten, one deleted."""
        self.s3.put_object(Bucket=self.name, Key="things/new", Body=b"new")
        self.s3.put_object(Bucket=self.name, Key="things/001", Body=b"overwritten")
        self.s3.delete_object(Bucket=self.name, Key="things/002")
        self.after = self.look()
        details = mirror.run(self.config).manifest.details
        insist(details["copied"] == 2, f"{details['copied']} were copied instead of 2")
        return "only what is new: 2; what was deleted or overwritten is noted", details["copied_bytes"]

    def one(self) -> Result:
        """The deleted one."""
        result = restore(self.config, Wish(key="things/002", at=self.then))
        insist(self.look()["things/002"] == self.before["things/002"], "it is another one")
        return "deleted by mistake, back with the same digest", result.size

    def lose(self) -> Result:
        """Every object."""
        for key in self.look():
            self.s3.delete_object(Bucket=self.name, Key=key)
        return f"{len(self.look())} objects are left", None

    def everything(self) -> Result:
        """As of the last mirror."""
        result = restore(self.config, Wish())
        insist(self.look() == self.after, "the objects differ")
        return f"{len(result.written)} objects, each equal by its digest", result.size

    def moment(self) -> Result:
        """As of the first one."""
        result = restore(self.config, Wish(at=self.then), force=True)
        now = self.look()
        insist({key: now.get(key) for key in self.before} == self.before, "the objects differ")
        return f"{len(result.written)} of {len(self.before)} were different, and are as they were", result.size
