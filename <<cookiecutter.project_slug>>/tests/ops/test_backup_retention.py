"""Retention: in doubt a backup stays."""

from datetime import UTC, datetime, timedelta

from ops.backup.config import Keep
from ops.backup.manifest import Manifest, Part
from ops.backup.retention import debris, expired, still_kept
from ops.backup.store import Backup, Stored

NOW = datetime(2026, 11, 21, 3, tzinfo=UTC)


def backup(sequence: int, days: float, stored_days: float | None = None, fault: str = "") -> Backup:
    """A backup of that age, by our clock and by the store's."""
    name = f"{sequence:06d}"
    made = NOW - timedelta(days=days)
    manifest = Manifest("dump", name, sequence, made, (Part(f"dump/{name}-20261121T030000Z.dump", 1, ""),))
    return Backup(manifest, NOW - timedelta(days=days if stored_days is None else stored_days), fault)


def ids(backups: list[Backup], keep_days: int = 30, keep_last: int = 3) -> list[int]:
    """The sequences that would go."""
    return [found.manifest.sequence for found in expired(backups, Keep(keep_days, keep_last)).expired]


def test_what_is_older_than_asked_goes() -> None:
    """The ordinary case: one a day for forty days."""
    assert ids([backup(number, 40 - number) for number in range(1, 41)]) == list(range(1, 10))


def test_the_newest_good_ones_stay_whatever_their_age() -> None:
    """Also when only one is asked for: the last one is never deleted."""
    old = [backup(1, 300), backup(2, 299), backup(3, 298), backup(4, 297)]
    assert ids(old) == []
    assert ids([backup(1, 90), backup(2, 60), backup(3, 0.5), backup(4, 0)], keep_last=1) == [1, 2]
    assert ids([backup(1, 90)], keep_last=1) == []


def test_a_damaged_one_does_not_count_as_good() -> None:
    """Otherwise three broken ones would push out the only one that can be restored."""
    backups = [backup(1, 90), *(backup(number, 5 - number, fault="the dump is missing") for number in range(2, 5))]
    assert ids([*backups, backup(5, 0)]) == []


def test_a_clock_that_jumps_ahead_deletes_nothing() -> None:
    """In the run in which it happens everything looks old at once."""
    daily = [backup(number, 5 - number + 365) for number in range(1, 5)]
    verdict = expired([*daily, backup(5, 0)], Keep(1, 1))
    assert not verdict.expired
    assert "clock" in verdict.warning


def test_one_clock_alone_is_not_believed() -> None:
    """Ours or the store's: both must say that a backup is old."""
    mine_is_wrong = [backup(1, 400, 4), backup(2, 399, 3), backup(3, 1, 1), backup(4, 0, 0)]
    assert ids(mine_is_wrong, keep_last=1) == []
    theirs_is_wrong = [backup(1, 4, 400), backup(2, 3, 399), backup(3, 1, 1), backup(4, 0, 0)]
    assert ids(theirs_is_wrong, keep_last=1) == []


def test_one_made_while_the_clock_was_behind_is_not_old() -> None:
    """It came after its predecessors, so it is no older than they are."""
    backups = [backup(1, 3), backup(2, 20_000), backup(3, 1), backup(4, 0)]
    assert ids(backups, keep_last=1) == []


def test_what_the_bucket_itself_lets_go_is_not_damaged() -> None:
    """Its lifecycle deletes object by object; a younger one that lacks something rings."""
    backups = [backup(1, 31, fault="its dump is missing"), backup(2, 31), backup(3, 2, fault="its dump is missing")]
    assert [found.manifest.sequence for found in still_kept([*backups, backup(4, 0)], Keep(30, 3))] == [2, 3, 4]
    assert still_kept([], Keep(30, 3)) == []


def test_nothing_at_all() -> None:
    """The first run ever."""
    assert ids([]) == []
    assert ids([backup(1, 0)]) == []


def test_debris_is_an_old_dump_without_a_manifest() -> None:
    """A young one may be an upload under way, and foreign files are not ours to delete."""

    def stored(number: int, end: str, days: float) -> Stored:
        return Stored(f"dump/{number:06d}-20261121T030000Z.{end}", 1, NOW - timedelta(days=days))

    objects = [
        stored(1, "dump", 0),
        stored(1, "json", 0),
        stored(9, "dump", 2),
        stored(2, "dump", 0.1),
        Stored("dump/notes.txt", 1, NOW - timedelta(days=9)),
        stored(3, "dump", 9),
        stored(3, "json", 9),  # a manifest that cannot be read
        stored(4, "tar", 9),
    ]
    assert debris([backup(1, 0)], objects) == [objects[2], objects[-1]]
    assert debris([], objects) == []
