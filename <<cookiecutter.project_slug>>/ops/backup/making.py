"""A backup on its way: its objects are sent and read back, and only then its manifest says that it is one."""

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from ops.backup.manifest import Kind, Manifest, Part
from ops.backup.store import Store

T = TypeVar("T")


class Making:
    """One backup of a kind. Whoever makes it holds the lock of its kind, so that no two get one sequence."""

    def __init__(self, store: Store, kind: Kind) -> None:
        self._began = time.monotonic()
        self._store, self._kind = store, kind
        self._sequence, self._id = store.next_id(kind)
        self._parts: list[Part] = []

    def send(self, suffix: str, file: Path) -> None:
        """Store a file and read it back.

        Raises:
            Damaged: the store has something else than it was given.
        """
        part = self._store.write_file(self._name(suffix), file)
        self._store.check(part)
        self._parts.append(part)

    def stream(self, suffix: str, pieces: Iterable[bytes], read_back: Callable[[Part], T]) -> T:
        """Store a stream, and have the caller read it back; returns what that found."""
        part = self._store.write(self._name(suffix), pieces)
        found = read_back(part)
        self._parts.append(part)
        return found

    def commit(self, details: Mapping[str, Any]) -> Manifest:
        """From here on it is a backup."""
        seconds = round(time.monotonic() - self._began, 3)
        manifest = Manifest(
            self._kind, self._id, self._sequence, datetime.now(UTC), tuple(self._parts), seconds, details
        )
        self._store.commit(manifest)
        return manifest

    def _name(self, suffix: str) -> str:
        return f"{self._kind}/{self._id}.{suffix}"
