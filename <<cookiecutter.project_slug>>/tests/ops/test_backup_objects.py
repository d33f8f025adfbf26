"""Objects come back as they were at any moment, from stores that keep versions and from those that do not."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from app.core.settings import Storage
from app.core.storage import client
from devstack import Stack
from ops.backup.config import Config, Keep
from ops.backup.errors import BackupError, Damaged, Refused
from ops.backup.objects import mirror
from ops.backup.objects.journal import MIRROR, Life, Listed, alive, around, continued, read, write
from ops.backup.objects.mirror import run
from ops.backup.restore.objects import Wish, restore
from ops.backup.state import State
from ops.backup.store import Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T0 = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MONTH = timedelta(days=30)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A store that keeps no versions, and checks signatures."""
    with Stack(tmp_path_factory.mktemp("plain"), ("storage",)) as stack:
        env = stack.env
        yield Storage(
            endpoint_url=env["STORAGE_ENDPOINT_URL"],
            access_key=env["STORAGE_ACCESS_KEY"],
            secret_key=SecretStr(env["STORAGE_SECRET_KEY"]),
        )


@pytest.fixture(scope="module")
def versioned() -> Iterator[Storage]:
    """A store that keeps versions, and checks no signature."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield Storage(endpoint_url=f"http://127.0.0.1:{port}", access_key="access", secret_key=SecretStr("secret"))
    finally:
        server.kill()
        server.wait()


class Bucket:
    """The application's bucket as the application uses it."""

    def __init__(self, files: Storage, place: Storage, name: str) -> None:
        self.config = Config(
            dsn="postgresql://nobody@127.0.0.1:1/none",
            admin_dsn="",
            store=place.model_copy(update={"bucket": "backup"}),
            prefix=f"{name}/",
            keep={"objects": Keep(3, 3)},
            keys={"test": b"k" * 32},
            may_make_bucket=True,
            files=files.model_copy(update={"bucket": name}),
        )
        self.s3: S3Client = client(files)
        self.name = name
        self.s3.create_bucket(Bucket=name)

    def put(self, key: str, data: bytes, **more: Any) -> None:
        """Store."""
        self.s3.put_object(Bucket=self.name, Key=key, Body=data, **more)

    def delete(self, key: str) -> None:
        """Delete."""
        self.s3.delete_object(Bucket=self.name, Key=key)

    def look(self) -> dict[str, bytes]:
        """Everything."""
        listed = self.s3.list_objects_v2(Bucket=self.name).get("Contents", [])
        return {item["Key"]: self.s3.get_object(Bucket=self.name, Key=item["Key"])["Body"].read() for item in listed}

    def mirrored(self) -> list[str]:
        """What the mirror holds."""
        return [stored.name for stored in Store(self.config).listing(MIRROR)]


@pytest.fixture
def bucket(plain: Storage, tmp_path: Path) -> Bucket:
    """One without versions."""
    return Bucket(plain, plain, tmp_path.name.replace("_", "-")[:60])


@pytest.fixture
def keeping(plain: Storage, versioned: Storage, tmp_path: Path) -> Bucket:
    """One with versions."""
    made = Bucket(versioned, plain, tmp_path.name.replace("_", "-")[:60])
    made.s3.put_bucket_versioning(Bucket=made.name, VersioningConfiguration={"Status": "Enabled"})
    return made


def test_only_what_is_new_is_copied_and_all_of_it_comes_back(bucket: Bucket) -> None:
    """Bytes, kind and metadata; what is in the mirror can be read by nobody else."""
    for number in range(20):
        bucket.put(f"files/{number}", f"text {number} ".encode() * 1000)
    bucket.put("files/odd ünï+%20", b"\0\xff", ContentType="application/pdf", Metadata={"from": "elsewhere"})
    bucket.put("files/empty", b"")
    bucket.put("quarantine/x", b"nobody's loss")
    first = run(bucket.config).manifest
    assert (first.details["copied"], first.details["objects"]) == (22, 22)
    before = {key: data for key, data in bucket.look().items() if not key.startswith("quarantine/")}
    bucket.put("files/new", b"new")
    second = run(bucket.config).manifest
    assert second.details["copied"] == 1
    raw = bucket.s3.get_object(Bucket="backup", Key=f"{bucket.config.prefix}{bucket.mirrored()[0]}")["Body"].read()
    assert b"text" not in raw
    for key in bucket.look():
        bucket.delete(key)
    result = restore(bucket.config, Wish())
    assert len(result.written) == 23
    assert bucket.look() == before | {"files/new": b"new"}
    head = bucket.s3.head_object(Bucket=bucket.name, Key="files/odd ünï+%20")
    assert head["ContentType"] == "application/pdf"
    assert restore(bucket.config, Wish()).same == 23


def test_one_object_comes_back_as_it_was_then(bucket: Bucket) -> None:
    """What is there with other bytes is refused without force; others are not touched."""
    bucket.put("a", b"first")
    bucket.put("b", b"other")
    then = mirror.listed_at(run(bucket.config).manifest)
    bucket.put("a", b"second!")
    bucket.delete("b")
    run(bucket.config)
    with pytest.raises(Refused, match="1 of 1 objects are there with other bytes: a"):
        restore(bucket.config, Wish(key="a", at=then))
    assert bucket.look() == {"a": b"second!"}
    assert restore(bucket.config, Wish(key="a", at=then), force=True).written == ["a"]
    assert bucket.look() == {"a": b"first"}
    with pytest.raises(BackupError, match="no object b is known to have been there"):
        restore(bucket.config, Wish(key="b"))
    restore(bucket.config, Wish(key="b", at=then))
    assert bucket.look() == {"a": b"first", "b": b"other"}


def test_a_moment_that_no_mirror_knows_is_refused(bucket: Bucket) -> None:
    """Before the first one, after the last one, and where there is none at all."""
    with pytest.raises(BackupError, match="no objects that could be restored"):
        restore(bucket.config, Wish())
    bucket.put("a", b"first")
    listed = mirror.listed_at(run(bucket.config).manifest)
    for moment, words in ((T0 - 1000 * MONTH, "is known to have been there"), (listed + MINUTE, "make one first")):
        with pytest.raises(BackupError, match=words):
            restore(bucket.config, Wish(at=moment))


def test_with_versions_every_second_between_two_runs_is_known(keeping: Bucket) -> None:
    """Also what was stored and deleted between two runs."""
    keeping.put("a", b"first")
    run(keeping.config)
    keeping.put("short", b"life")
    keeping.put("a", b"second")
    keeping.delete("short")
    manifest = run(keeping.config).manifest
    assert (manifest.details["copied"], manifest.details["ended"], manifest.details["versions"]) == (2, 2, True)
    short = next(life for life in mirror.history(keeping.config, "short") if life.until)
    assert short.sha256
    if short.until and short.until > short.since:  # the store's clock ticks once a second
        restore(keeping.config, Wish(key="short", at=short.since))
        assert keeping.look() == {"a": b"second", "short": b"life"}


def test_damaged_bytes_are_left_and_the_others_come_back(plain: Storage, bucket: Bucket) -> None:
    """Each object by its own digest; the run says which one."""
    for name in "abc":
        bucket.put(name, name.encode() * 100)
    run(bucket.config)
    mirror.verify(bucket.config)
    life = mirror.history(bucket.config, "b")[0]
    key = f"{bucket.config.prefix}{life.name}"
    data = bytearray(bucket.s3.get_object(Bucket="backup", Key=key)["Body"].read())
    data[-1] ^= 1
    bucket.s3.put_object(Bucket="backup", Key=key, Body=bytes(data))
    for name in "abc":
        bucket.delete(name)
    with pytest.raises(Damaged, match=r"1 of 3 objects.*\n.*b:"):
        restore(bucket.config, Wish())
    assert set(bucket.look()) == {"a", "c"}
    with pytest.raises(Damaged, match="1 of 3 objects are not what was mirrored"):
        mirror.verify(bucket.config)
    with pytest.raises(BackupError, match="the key is wrong"):
        restore(replace(bucket.config, keys={"test": b"x" * 32}), Wish())


def test_a_run_that_fails_goes_on_where_it_was(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has copied is not copied again, and it leaves no manifest."""
    for number in range(10):
        bucket.put(f"{number}", b"x" * number)
    whole = mirror._copy

    def sometimes(store: Store, live: Any, life: Life, file: Path) -> Life | None:
        if life.key == "7":
            raise BackupError("the store had enough")
        return whole(store, live, life, file)

    monkeypatch.setattr(mirror, "_copy", sometimes)
    with pytest.raises(BackupError, match=r"1 of 10 objects could not be mirrored:\n  7: the store had enough"):
        run(bucket.config)
    assert not Store(bucket.config).backups("objects")
    monkeypatch.undo()
    assert run(bucket.config).manifest.details["copied"] == 1
    assert run(bucket.config).manifest.details["objects"] == 10


def test_a_damaged_list_costs_its_run_only(bucket: Bucket) -> None:
    """The one before it is as good; nothing is swept meanwhile."""
    bucket.put("a", b"first")
    run(bucket.config)
    bucket.put("b", b"second")
    broken = run(bucket.config).manifest
    key = f"{bucket.config.prefix}{broken.only.name}"
    bucket.s3.put_object(Bucket="backup", Key=key, Body=b"x" * broken.only.size)
    assert run(bucket.config).manifest.details["copied"] == 1
    assert restore(bucket.config, Wish()).same == 2
    with pytest.raises(Damaged):
        restore(bucket.config, Wish(backup=broken.id))


def test_the_mirror_is_swept_of_what_no_moment_needs(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day later what ended long ago goes; what is young, needed, or most of it at once does not."""
    store = Store(bucket.config)
    bucket.put("a", b"first")
    run(bucket.config)
    store.write(f"{MIRROR}00/left", [b"by a run that died"])
    bucket.put("a", b"second")
    run(bucket.config)
    assert not mirror.sweep(store, tmp_path)  # twice on one day
    later = [
        replace(backup, manifest=replace(backup.manifest, created_at=T0 - MONTH))
        for backup in store.backups("objects")[:1]
    ]
    last = store.backups("objects")[-1]
    listing = store.listing(MIRROR)

    def sweep(age: timedelta, more: int = 0) -> list[str]:
        fake = Store(bucket.config)
        gone: list[str] = []
        stored = [replace(item, modified=last.stored_at - age) for item in listing]
        extra = [replace(stored[0], name=f"{MIRROR}00/{number}") for number in range(more)]
        monkeypatch.setattr(fake, "backups", lambda _kind: [*later, last])
        monkeypatch.setattr(fake, "listing", lambda _folder: [*stored, *extra])
        monkeypatch.setattr(fake, "delete", lambda *names: gone.extend(names))
        mirror.sweep(fake, tmp_path)
        return gone

    assert not sweep(timedelta(days=1))
    assert sweep(timedelta(days=3)) == [f"{MIRROR}00/left"]
    assert not sweep(timedelta(days=3), more=200)


def test_the_timetable_begins_with_no_bucket_at_all(bucket: Bucket) -> None:
    """In development it is made; elsewhere the operator is told, instead of nothing ever looking due."""
    nowhere = bucket.config.store.model_copy(update={"bucket": f"none-{bucket.name}"})
    strange = State(replace(bucket.config, store=nowhere, may_make_bucket=False))
    with pytest.raises(BackupError, match="there is no bucket none-"):
        strange.refresh()
    state = State(replace(bucket.config, store=nowhere))
    state.refresh()
    assert state.kinds["objects"].made is None


# The journal by itself


def listed(key: str, minute: float, etag: str = "e", **more: Any) -> Listed:
    """A sighting."""
    return Listed(key, more.pop("version", ""), etag, 1, T0 + minute * MINUTE, **more)


def spans(lives: list[Life]) -> list[tuple[str, float, float | None]]:
    """Minutes from when to when."""
    return [
        (life.key, (life.since - T0) / MINUTE, (life.until - T0) / MINUTE if life.until else None) for life in lives
    ]


def test_lives_end_when_they_are_overwritten_or_no_longer_seen() -> None:
    """Without versions the next look is all that tells."""
    first = continued([], [listed("a", 0), listed("b", 1)], T0 + 5 * MINUTE, MONTH)
    assert spans(first) == [("a", 0, None), ("b", 1, None)]
    second = continued(first, [listed("a", 7, "other")], T0 + 10 * MINUTE, MONTH)
    assert spans(second) == [("a", 0, 7), ("a", 7, None), ("b", 1, 10)]
    assert spans(continued(second, [listed("a", 7, "other")], T0 + 15 * MINUTE, MONTH)) == spans(second)
    assert spans(continued(second, [listed("a", 7, "other")], T0 + 2 * MONTH, MONTH)) == [("a", 7, None)]


def test_versions_and_deletions_tell_when() -> None:
    """Newest first, as stores list them; within one second the store's own word counts."""
    sightings = [
        listed("a", 9, version="m", deletion=True, latest=True),
        listed("a", 4, version="2"),
        listed("a", 1, version="1"),
        listed("b", 3, version="m", deletion=True),
        listed("b", 3, version="4", latest=True),
    ]
    assert spans(continued([], sightings, T0 + 10 * MINUTE, MONTH)) == [("a", 1, 4), ("a", 4, 9), ("b", 3, None)]


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (2.0, "first"),  # its own
        (4.0, "second"),
        (8.0, "second"),  # deleted a moment ago, as far as the clocks can be trusted
        (20.0, ""),
        (-0.5, "first"),  # stored a moment later
        (-20.0, ""),
    ],
)
def test_a_database_of_a_moment_finds_what_it_names(moment: float, expected: str) -> None:
    """What it had then; else what it had last, or first, within the slack of the clocks."""
    lives = [
        Life("a", "", "first", 1, T0, T0 + 3 * MINUTE),
        Life("a", "", "second", 1, T0 + 3 * MINUTE, T0 + 7 * MINUTE),
    ]
    found = around(lives, T0 + moment * MINUTE, 5 * MINUTE)
    assert (found["a"].etag if found else "") == expected


def test_a_journal_survives_being_written(tmp_path: Path) -> None:
    """And what is none is refused."""
    lives = continued([], [listed("ü\n", 0), listed("b", 1)], T0, MONTH)
    write(lives, tmp_path / "journal")
    assert read(tmp_path / "journal") == lives
    assert set(alive(lives, T0 + MINUTE)) == {"ü\n", "b"}
    whole = (tmp_path / "journal").read_bytes()
    harms: list[Callable[[bytes], bytes]] = [
        lambda data: data[:-9],
        lambda _: b"",
        lambda data: data[:20] + b"x" + data[21:],
    ]
    for harm in harms:
        (tmp_path / "journal").write_bytes(harm(whole))
        with pytest.raises(Damaged):
            read(tmp_path / "journal")
