"""The write-ahead log: positions, timelines, gaps, what may go, and what is lost at each moment."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest
from pydantic import SecretStr

from app.core.settings import Storage
from devstack import Stack
from ops.backup import physical
from ops.backup.config import Config, Keep
from ops.backup.errors import Damaged
from ops.backup.manifest import Kind, Manifest
from ops.backup.restore import fetch
from ops.backup.restore.feeder import Feeder
from ops.backup.store import Store, Stored
from ops.backup.wal import archive
from ops.backup.wal.archive import Archive
from ops.backup.wal.names import Segment, Timeline, read_lsn, write_lsn
from ops.backup.wal.receiver import Health, Lag

SIZE = 16 * 1024 * 1024
HISTORY = "1\t0/5000148\tbefore 2026-11-21 15:00:00+00\n\n2\t0/9000000\tno recovery target specified\n"


def segment(timeline: int, number: int) -> Segment:
    """Of the usual size."""
    return Segment(timeline, number, SIZE)


@pytest.mark.parametrize(
    ("name", "timeline", "number"),
    [("000000010000000000000005", 1, 5), ("0000000200000001000000FF", 2, 511), ("0000000A0000001000000000", 10, 4096)],
)
def test_names_of_segments(name: str, timeline: int, number: int) -> None:
    """As PostgreSQL counts: 256 of 16 MB for each of the higher numbers."""
    found = Segment.named(name, SIZE)
    assert found == segment(timeline, number)
    assert found.name == name
    assert Segment.holding(timeline, found.end - 1, SIZE) == found
    assert Segment.holding(timeline, found.end, SIZE) == found.next


def test_positions_of_the_log() -> None:
    """There and back."""
    assert read_lsn("1/3000148") == 0x1_0300_0148
    assert write_lsn(read_lsn("A/FF000000")) == "A/FF000000"


def test_the_way_to_a_timeline_leads_over_its_parents() -> None:
    """A segment in which the timeline changes is taken from the later one, which begins with a copy of the other."""
    timeline = Timeline.read(3, HISTORY)
    assert [timeline.at(number, SIZE).timeline for number in (4, 5, 8, 9, 20)] == [1, 2, 2, 3, 3]
    assert timeline.passes(2)
    assert not timeline.passes(4)
    # A base from beyond where its timeline was left is on no way to this one.
    assert timeline.passes(1, read_lsn("0/5000148"))
    assert not timeline.passes(1, read_lsn("0/5000149"))


class Received:
    """A store of which only the listing is asked."""

    def __init__(self, *received: tuple[str, int]) -> None:
        self._received = received

    def listing(self, folder: str) -> list[Stored]:
        """Names, and the minute at which each came."""
        return [Stored(f"{folder}{name}.sum", 1, minute(at)) for name, at in self._received]


def minute(number: int) -> datetime:
    """Of an hour."""
    return datetime(2026, 11, 21, 15, number, tzinfo=UTC)


@pytest.mark.parametrize(
    ("received", "bases", "at", "expected"),
    [
        ([], [], None, 1),
        ([(segment(1, 3).name, 1), ("00000002.history", 5), (segment(2, 4).name, 7)], [], None, 2),
        ([(segment(1, 3).name, 1), ("00000002.history", 5), (segment(2, 4).name, 7)], [], 4, 1),
        # Back without a fresh backup, and lost again before a segment ended.
        ([(segment(1, 3).name, 1), ("00000002.history", 5)], [(1, 0)], None, 2),
        # A recovery took a number and came to nothing: the live server went on.
        ([(segment(1, 3).name, 1), ("00000002.history", 5), (segment(1, 4).name, 7)], [], None, 1),
        ([("00000003.history", 5), (segment(1, 4).name, 7)], [(3, 9)], None, 3),
    ],
)
def test_the_live_timeline_is_the_one_that_still_wrote(
    received: list[tuple[str, int]], bases: list[tuple[int, int]], at: int | None, expected: int
) -> None:
    """The highest number may be that of a recovery that never went live."""
    known = Archive(cast("Store", Received(*received)), "7", SIZE)
    made = [(number, minute(when)) for number, when in bases]
    assert known.live(made, None if at is None else minute(at)) == expected


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A store of its own."""
    with Stack(tmp_path_factory.mktemp("wal"), ["storage"]) as stack:
        yield stack


@pytest.fixture
def config(servers: Stack) -> Config:
    """An empty place in it."""
    env = servers.env
    store = Storage(
        endpoint_url=env["BACKUP_S3_ENDPOINT_URL"],
        bucket=env["BACKUP_S3_BUCKET"],
        access_key=env["BACKUP_S3_ACCESS_KEY"],
        secret_key=SecretStr(env["BACKUP_S3_SECRET_KEY"]),
    )
    keep: dict[Kind, Keep] = {"base": Keep(7, 2, reaches=True)}
    config = Config("", "", store, f"{uuid4()}/", keep, keys={"k1": os.urandom(32)}, may_make_bucket=True)
    Store(config).open()
    return config


def filled(config: Config, *segments: tuple[int, int]) -> Archive:
    """An archive of small files under the names of segments."""
    found = Archive(Store(config), "7", SIZE)
    for timeline, number in segments:
        found.put(segment(timeline, number).name, f"{timeline}/{number}".encode())
    found.look()
    return found


def test_a_segment_comes_back_and_twice_is_once(config: Config) -> None:
    """A receiver that was killed after the upload sends it again."""
    found = filled(config, (1, 5), (1, 5))
    assert found.read(segment(1, 5).name) == b"1/5"
    assert len(Store(config).listing("wal/")) == 1


def test_two_that_claim_one_place_are_refused(config: Config) -> None:
    """Two servers wrote the same timeline: to guess would be to mix two histories."""
    found = filled(config, (1, 5))
    found.put(segment(1, 5).name, b"another history")
    found.look()
    with pytest.raises(Damaged, match="two servers"):
        found.read(segment(1, 5).name)


def test_gaps_are_found(config: Config) -> None:
    """The chain ends before the first one that is lacking, whatever comes behind it."""
    found = filled(config, (1, 3), (1, 4), (1, 6), (2, 5))
    reach = found.reach(segment(1, 3), Timeline(1))
    assert (reach.last, list(reach.missing)) == (segment(1, 4), [segment(1, 5)])
    whole = found.reach(segment(1, 3), Timeline(2, ((1, segment(1, 5).start + 10),)))
    assert (whole.last, list(whole.missing)) == (segment(2, 5), [])
    assert found.reach(segment(1, 9), Timeline(1)).last is None


def base(store: Store, number: int, system: str = "7") -> Manifest:
    """A base that begins in a segment."""
    sequence, id_ = store.next_id("base")
    details = {"system": system, "start": segment(1, number).start + 40, "segment_bytes": SIZE}
    manifest = Manifest("base", id_, sequence, datetime.now(UTC), (), 1.0, details)
    store.commit(manifest)
    return manifest


def test_the_log_goes_only_before_the_oldest_base(config: Config) -> None:
    """By position: no clock has a say. Histories stay, and so does what no base of its system judges."""
    store = Store(config)
    found = filled(config, (1, 3), (1, 4), (1, 5), (2, 4))
    found.put("00000002.history", HISTORY.encode())
    assert archive.let_go(config, store) == [], "without a base nothing goes"
    base(store, 5)
    base(store, 9)
    assert archive.let_go(replace(config, may_delete=False), store) == []
    gone = archive.let_go(config, store)
    assert sorted(name.split("/")[2][:24] for name in gone) == [
        segment(1, 3).name,
        segment(1, 4).name,
        segment(2, 4).name,
    ]
    found.look()
    assert found.segments == {segment(1, 5)}
    assert found.timelines[2].parents


def test_a_base_that_cannot_be_read_holds_the_log(config: Config) -> None:
    """It may need what nobody else does, once its key is found."""
    store = Store(config)
    filled(config, (1, 3))
    base(Store(replace(config, keys={"lost": os.urandom(32)})), 1)
    base(store, 9)
    assert archive.let_go(config, store) == []


def test_a_server_is_fed_and_an_end_is_no_failure(config: Config, tmp_path: Path) -> None:
    """A recovery takes exit code 1 for the end of the log: a damaged segment must never look like that."""
    found = filled(config, (1, 3), (1, 4))
    private = Path(f"/tmp/{uuid4().hex[:8]}")  # noqa: S108  # the path of a socket must be short
    private.mkdir(mode=0o700)
    target = tmp_path / "RECOVERYXLOG"
    try:
        with Feeder(found, private, SIZE) as feeder:
            socket = str(private / "log")
            assert fetch.main(socket, segment(1, 3).name, str(target)) == 0
            assert target.read_bytes() == b"1/3"
            assert fetch.main(socket, segment(1, 5).name, str(target)) == 1
            found.put(segment(1, 4).name, b"another history")
            found.look()
            feeder._coming.clear()  # what was fetched ahead was still good
            assert fetch.main(socket, segment(1, 4).name, str(target)) == fetch.GIVE_UP
            assert isinstance(feeder.failure, Damaged)
    finally:
        (private / "log").unlink(missing_ok=True)
        private.rmdir()


def test_what_would_be_lost_is_as_old_as_the_oldest_change_that_is_not_stored() -> None:
    """An idle server writes a little log of its own, and has nothing to lose."""
    lag = Lag()
    lag.sample(0, 100, 7)
    assert lag.seconds(50, 90) == 0, "no transaction since we look"
    lag.sample(60, 150, 7)
    assert lag.seconds(100, 90) == 0
    lag.sample(110, 200, 8)
    lag.sample(120, 300, 9)
    assert lag.seconds(130, 90) == 20
    assert lag.seconds(130, 250) == 10
    assert lag.seconds(130, 300) == 0


def test_a_lag_that_nobody_can_ask_for_grows() -> None:
    """Else a server or store that is away would look as if all were stored."""
    health = Health()
    assert health.lag_now == 0
    health.sampled -= 1000
    assert health.lag_now > 900


def copy(change: Callable[[dict[str, bytes]], object] = lambda _: None) -> list[bytes]:
    """A tiny cluster as pg_basebackup sends it; `change` is made behind the back of the server's manifest."""
    files = {"PG_VERSION": b"18\n", "base/1/112": b"rows", "global/pg_control": b"state"}
    listed = [
        {"Path": name, "Size": len(data), "Checksum": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    ]
    ranges = [{"Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000120"}]
    head = json.dumps({"System-Identifier": 7, "Files": listed, "WAL-Ranges": ranges})[:-1] + ",\n"
    manifest = f'{head}"Manifest-Checksum": "{hashlib.sha256(head.encode()).hexdigest()}"}}\n'.encode()
    files["pg_wal/000000010000000000000002"] = b"log"
    files["backup_manifest"] = manifest
    change(files)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            made.addfile(entry, io.BytesIO(data))
    data = gzip.compress(buffer.getvalue())
    return [data[at : at + 100] for at in range(0, len(data), 100)]


def test_a_copy_is_read_to_its_end(tmp_path: Path) -> None:
    """With or without a disk to unpack it to."""
    found = physical.read(iter(copy()))
    assert (found.system, found.timeline, found.end, found.files) == ("7", 1, 0x2000120, 3)
    (tmp_path / "base/1").mkdir(parents=True)
    for folder in ("global", "pg_wal"):
        (tmp_path / folder).mkdir()
    assert physical.read(iter(copy()), tmp_path) == found
    assert (tmp_path / "base/1/112").read_bytes() == b"rows"
    assert (tmp_path / "base/1/112").stat().st_mode & 0o777 == 0o600


CHANGES: dict[str, Callable[[dict[str, bytes]], object]] = {
    "one byte of a file": lambda files: files.update({"base/1/112": b"rowz"}),
    "a shorter file": lambda files: files.update({"base/1/112": b"row"}),
    "a missing file": lambda files: files.pop("global/pg_control"),
    "a file too many": lambda files: files.update({"base/1/999": b""}),
    "no manifest": lambda files: files.pop("backup_manifest"),
    "a changed manifest": lambda files: files.update(
        {"backup_manifest": files["backup_manifest"].replace(b"PG_VERSION", b"PG_VERSI0N")}
    ),
    "a file outside": lambda files: files.update({"../escaped": b"x"}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_copy_that_is_not_what_the_server_read_is_refused(
    change: Callable[[dict[str, bytes]], object], tmp_path: Path
) -> None:
    """Each of its files stands in the server's own manifest, and that has a checksum of its own."""
    for folder in ("base/1", "global", "pg_wal"):
        (tmp_path / "into" / folder).mkdir(parents=True)
    with pytest.raises(Damaged):
        physical.read(iter(copy(change)), tmp_path / "into")
    assert not (tmp_path / "escaped").exists()


def test_a_copy_that_ends_early_is_refused() -> None:
    """At every length."""
    whole = b"".join(copy())
    for size in range(0, len(whole) - 8, 37):
        with pytest.raises(Damaged):
            physical.read(iter([whole[:size]]))
