"""The lives of objects: which bytes a key stood for, from when to when.

A journal holds every life that a moment of the last BACKUP_OBJECTS_DAYS needs, so the newest one alone is enough to go
back to any of them. What was deleted has an end in it, and its bytes stay until no journal names them.
"""

import gzip
import hashlib
import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from ops.backup.errors import Damaged
from ops.backup.manifest import Part

# Beside the kinds: these objects belong to many backups, so that none may take them along when it goes.
MIRROR = "mirror/"


@dataclass(frozen=True, slots=True)
class Listed:
    """One version of an object, or its deletion, as the store lists it.

    Attributes:
        version: the store's name of it; empty where the store keeps none.
        modified: by the store's clock.
        deletion: it only says that the object is gone.
        latest: the store says that nothing came after it.
    """

    key: str
    version: str
    etag: str
    size: int
    modified: datetime
    deletion: bool = False
    latest: bool = False


@dataclass(frozen=True, slots=True)
class Life:
    """Some bytes under a key.

    Attributes:
        since: when they were stored.
        until: when they were overwritten or deleted; None while they are there.
        sha256: of the bytes; empty until they are mirrored.
        content_type: as they were stored with.
        metadata: as they were stored with.
        stored: the object of the mirror that holds them.
    """

    key: str
    version: str
    etag: str
    size: int
    since: datetime
    until: datetime | None = None
    sha256: str = ""
    content_type: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    stored: Part | None = None

    @property
    def name(self) -> str:
        """What the bytes are called in the mirror. Nothing can be learned from it, and a second try finds it again."""
        parts = (self.key, self.version, self.etag, str(self.size), self.since.isoformat())
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        return f"{MIRROR}{digest[:2]}/{digest}"

    def at(self, moment: datetime) -> bool:
        """Whether the key stood for these bytes then."""
        return self.since <= moment and (self.until is None or moment < self.until)


Journal = Sequence[Life]


class _Same(NamedTuple):
    """What makes two sightings one life."""

    key: str
    version: str
    etag: str
    size: int
    since: datetime


def _same(life: Life) -> _Same:
    return _Same(life.key, life.version, life.etag, life.size, life.since)


def continued(before: Journal, listing: Iterable[Listed], now: datetime, keep: timedelta) -> list[Life]:
    """The journal after one more look at the store.

    Args:
        before: the last one.
        listing: all that the store has, versions and deletions too where it keeps them.
        now: when that was looked at.
        keep: lives that ended longer ago are left out.
    """
    known = {_same(life): life for life in before}
    by_key: defaultdict[str, list[Listed]] = defaultdict(list)
    for found in listing:
        by_key[found.key].append(found)
    lives: dict[_Same, Life] = {}
    for key, sightings in by_key.items():
        # A store lists the newest first; of two within one of its ticks that order and its own word are all that tells.
        oldest_first = sightings[::-1]
        oldest_first.sort(key=lambda found: (found.modified, found.latest))
        ends: list[datetime | None] = [*(found.modified for found in oldest_first[1:]), None]
        for found, end in zip(oldest_first, ends, strict=True):
            if not found.deletion:
                life = Life(key, found.version, found.etag, found.size, found.modified, end)
                mirrored = known.get(_same(life))
                lives[_same(life)] = replace(mirrored, until=end) if mirrored else life
    for same, life in known.items():
        if same not in lives:  # gone without a trace: it was there when we last looked
            lives[same] = life if life.until else replace(life, until=_end(life, by_key.get(life.key, ()), now))
    return sorted(
        (life for life in lives.values() if life.until is None or life.until > now - keep),
        key=lambda life: (life.key, life.since),
    )


def _end(life: Life, sightings: Sequence[Listed], now: datetime) -> datetime:
    """When what vanished was overwritten; where nothing came after it, we know no better than when we looked."""
    return min((found.modified for found in sightings if found.modified > life.since), default=now)


def alive(journal: Journal, moment: datetime) -> dict[str, Life]:
    """What each key stood for at a moment."""
    return {life.key: life for life in journal if life.at(moment)}


def around(journal: Journal, moment: datetime, slack: timedelta) -> dict[str, Life]:
    """What a database of that moment may name, where its clock and the store's differ by no more than `slack`.

    Where a key had nothing at the moment itself, it is what it had last before, or else first after it.
    """
    chosen: dict[str, Life] = {}
    for life in journal:  # by key, the oldest first
        if life.since > moment + slack or (life.until is not None and life.until <= moment - slack):
            continue
        former = chosen.get(life.key)
        if former is None or not (former.at(moment) or life.since > moment):
            chosen[life.key] = life
    return chosen


def write(journal: Journal, file: Path) -> None:
    """One life a line, compressed; the same journal gives the same bytes."""
    with file.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
        for life in journal:
            fields = asdict(life) | {
                "since": life.since.isoformat(),
                "until": life.until.isoformat() if life.until else None,
            }
            packed.write(json.dumps(fields, separators=(",", ":")).encode() + b"\n")


def read(file: Path) -> list[Life]:
    """Read it back.

    Raises:
        Damaged: that is no journal.
    """
    lives: list[Life] = []
    try:
        if not file.stat().st_size:
            raise EOFError("it is empty")
        with gzip.open(file) as packed:
            for line in packed:
                fields = json.loads(line)
                until = fields["until"]
                fields["since"] = datetime.fromisoformat(fields["since"])
                fields["until"] = datetime.fromisoformat(until) if until else None
                fields["stored"] = Part(**fields["stored"]) if fields["stored"] else None
                lives.append(Life(**fields))
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{file.name} cannot be read as a journal of objects: {error}") from error
    return lives
