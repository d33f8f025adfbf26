"""The segments in the store: `wal/<system>/<segment>.<sha256 of its bytes>`, compressed, then encrypted like everything.

The checksum in the name makes storing one twice the same as storing it once, and shows two that claim the same place.
`<system>` is the identifier that PostgreSQL gives each cluster, so that a new one never gets mixed up with the one before.
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from ops.backup.config import Config
from ops.backup.errors import Damaged
from ops.backup.manifest import Manifest
from ops.backup.store import Store, Stored
from ops.backup.wal.names import HISTORY, SEGMENT, Segment, Timeline

log = structlog.get_logger(__name__)

FOLDER = "wal/"


@dataclass(frozen=True)
class Reach:
    """How far the log leads from a base.

    Attributes:
        last: the last segment of the unbroken chain; None where there is none.
        until: when the store received it.
        missing: segments that are lacking before later ones.
    """

    last: Segment | None
    until: datetime | None
    missing: Sequence[Segment] = field(default_factory=list)


class Archive:
    """The log of one system, as the store has it."""

    def __init__(self, store: Store, system: str, size: int) -> None:
        """`system` is the cluster's identifier, `size` the bytes of a segment."""
        self.system = system
        self._store, self._folder, self._size = store, f"{FOLDER}{system}/", size
        self._names: dict[str, list[Stored]] = {}
        self.look()

    def look(self) -> None:
        """List what there is, anew."""
        self._names = {}
        for stored in self._store.listing(self._folder):
            name = stored.name.removeprefix(self._folder).rpartition(".")[0]
            self._names.setdefault(name, []).append(stored)

    @property
    def segments(self) -> set[Segment]:
        """Every segment that is stored."""
        return {Segment.named(name, self._size) for name in self._names if SEGMENT.fullmatch(name)}

    @property
    def timelines(self) -> Mapping[int, Timeline]:
        """Every timeline that is known: the first one, and those with a history."""
        found = {1: Timeline(1)}
        for name in self._names:
            if match := HISTORY.fullmatch(name):
                number = int(match[1], 16)
                found[number] = Timeline.read(number, self.read(name).decode())
        return found

    @property
    def newest(self) -> datetime | None:
        """When the store received the last one."""
        return max((stored.modified for several in self._names.values() for stored in several), default=None)

    def live(self, bases: Iterable[tuple[int, datetime]], at: datetime | None = None) -> int:
        """The timeline that was the live one at a moment, or is: the one of which the store received something last.

        That counts its history, which a recovery stores when it takes its place, its segments, and the bases made of it. So
        a recovery that took a number and came to nothing hides nothing: the log of the one before goes on.

        Args:
            bases: timeline of each, and when the store received it.
            at: the moment; without it, now.
        """
        received = [*bases]
        for name, several in self._names.items():
            if match := HISTORY.fullmatch(name):
                received += [(int(match[1], 16), stored.modified) for stored in several]
            elif SEGMENT.fullmatch(name):
                received += [(Segment.named(name, self._size).timeline, stored.modified) for stored in several]
        then = [(when, number) for number, when in received if at is None or when <= at]
        return max(then, default=(None, 1))[1]

    def has(self, name: str) -> bool:
        """Whether a file of this name is stored."""
        return name in self._names

    def put(self, name: str, data: bytes) -> None:
        """Store a file of the log and read it back.

        Raises:
            BackupError: the store does not take it, or not what it was given.
        """
        full = f"{self._folder}{name}.{hashlib.sha256(data).hexdigest()}"
        # Most of a segment that ended by its time is empty; the lightest compression takes nearly all of that.
        part = self._store.write(full, [gzip.compress(data, 1, mtime=0)])
        self._store.check(part)

    def read(self, name: str) -> bytes:
        """A file of the log.

        Raises:
            Damaged: it is not there, is not what was stored, or there are two that differ.
        """
        several = self._names.get(name, [])
        if not several:
            raise Damaged(f"{self._folder}{name} is not in the store")
        if len(several) > 1:
            raise Damaged(
                f"there are {len(several)} different files {name}: two servers wrote the same timeline",
                "name the timeline to follow: --timeline; or delete the one that is wrong",
            )
        full = several[0].name
        try:
            data = zlib.decompress(b"".join(self._store.read_named(full)), wbits=31)
        except zlib.error as error:
            raise Damaged(f"{full} cannot be unpacked: {error}") from error
        if hashlib.sha256(data).hexdigest() != full.rpartition(".")[2]:
            raise Damaged(f"{full} is not what was stored: its checksum differs")
        return data

    def reach(self, start: Segment, timeline: Timeline) -> Reach:
        """How far one comes from a segment, and what is lacking on the way."""
        there = {segment: self._names[segment.name][0].modified for segment in self.segments}
        on_the_way = [segment for segment in there if segment.number >= start.number]
        on_the_way = [s for s in on_the_way if timeline.at(s.number, self._size) == s]
        end = max((segment.number for segment in on_the_way), default=start.number - 1)
        wanted = [timeline.at(number, self._size) for number in range(start.number, end + 1)]
        missing = [segment for segment in wanted if segment not in there]
        unbroken = wanted[: wanted.index(missing[0])] if missing else wanted
        last = unbroken[-1] if unbroken else None
        return Reach(last, there[last] if last else None, missing)


def let_go(config: Config, store: Store) -> list[str]:
    """Delete the log before the oldest physical backup that is kept; it leads to nothing any more.

    Positions decide, never clocks: a segment goes only if every base of its system begins behind it. What a base that cannot
    be read would need is not known, so then nothing goes.
    """
    if not config.may_delete:
        return []
    if unreadable := store.unreadable("base"):
        log.warning("backup_retention_held", kind="wal", reason=f"unreadable: {'; '.join(unreadable)}")
        return []
    bases = [backup.manifest for backup in store.backups("base")]
    if not bases:
        return []
    listing = store.listing(FOLDER)
    gone = [stored.name for stored in listing if _leads_nowhere(stored, bases)]
    gone += _of_former_systems(config, listing, bases)
    store.delete(*gone)
    return gone


def _leads_nowhere(stored: Stored, bases: Sequence[Manifest]) -> bool:
    _, system, file = stored.name.split("/", 2)
    name = file.partition(".")[0]
    needing = [base for base in bases if base.details["system"] == system]
    if not needing or not SEGMENT.fullmatch(name):
        return False  # histories are small, and tell where each timeline came from
    first: int = min(base.details["start"] // base.details["segment_bytes"] for base in needing)
    return Segment.named(name, needing[0].details["segment_bytes"]).number < first


def _of_former_systems(config: Config, listing: Sequence[Stored], bases: Sequence[Manifest]) -> list[str]:
    """The log of clusters of which no base is left, once it is as old as any log may get, by the store's clock alone."""
    known = {base.details["system"] for base in bases}
    newest = max((stored.modified for stored in listing), default=None)
    limit = timedelta(days=config.keep["base"].days)
    by_system: dict[str, list[Stored]] = {}
    for stored in listing:
        by_system.setdefault(stored.name.split("/")[1], []).append(stored)
    return [
        stored.name
        for system, several in by_system.items()
        if system not in known and newest and newest - max(each.modified for each in several) > limit
        for stored in several
    ]
