"""The manifest: what a backup holds, and the proof that it is one."""

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from ops.backup.errors import Damaged

FORMAT = 1


@dataclass(frozen=True)
class Contents:
    """What a database holds, counted in one snapshot; equal before the dump and after the restore.

    Attributes:
        tables: rows of each table.
        extensions: names of the extensions that tables may depend on.
        revisions: where Alembic left it.
    """

    tables: dict[str, int]
    extensions: list[str]
    revisions: list[str]

    def differences(self, other: "Contents") -> list[str]:
        """What `other` has otherwise, in words; empty when they agree."""
        found = [
            f"{name}: {self.tables.get(name, 'no table')} rows expected, {other.tables.get(name, 'no table')} found"
            for name in sorted(self.tables.keys() | other.tables.keys())
            if self.tables.get(name) != other.tables.get(name)
        ]
        if missing := set(self.extensions) - set(other.extensions):
            found.append(f"extensions missing: {', '.join(sorted(missing))}")
        if self.revisions != other.revisions:
            found.append(f"migrations: {self.revisions} expected, {other.revisions} found")
        return found


@dataclass(frozen=True)
class Outside:
    """What belongs to a database but is in no dump of it.

    Attributes:
        grants: (role, privilege) on the database itself; an empty role is everybody. None: PostgreSQL's default.
        settings: `ALTER DATABASE … SET`.
    """

    grants: list[tuple[str, str]] | None = None
    settings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Manifest:
    """One backup.

    Attributes:
        sequence: one more than that of the backup before it: the order that no clock can upset.
        object: key of the dump.
    """

    id: str
    sequence: int
    created_at: datetime
    object: str
    size: int
    sha256: str
    database: str
    server_version: str
    contents: Contents
    outside: Outside
    format: int = FORMAT

    def to_json(self) -> bytes:
        """As it is stored."""
        fields = asdict(self) | {"created_at": self.created_at.isoformat()}
        return json.dumps(fields, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, text: bytes, key: str) -> Self:
        """Read it back.

        Raises:
            Damaged: that is no manifest of ours.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            if fields["format"] != FORMAT:
                raise Damaged(f"{key} has format {fields['format']}", "restore it with the version that wrote it")
            grants = fields["outside"]["grants"]
            fields["outside"] = Outside(
                None if grants is None else [(role, privilege) for role, privilege in grants],
                fields["outside"]["settings"],
            )
            fields["contents"] = Contents(**fields["contents"])
            fields["created_at"] = datetime.fromisoformat(fields["created_at"]).astimezone(UTC)
            return cls(**fields)
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{key} cannot be read as a manifest: {error}") from error


def new_id(sequence: int, now: datetime) -> str:
    """A name that sorts by sequence and tells people the time."""
    return f"{sequence:06d}-{now:%Y%m%dT%H%M%SZ}"
