"""What a dump knows of its database beside the rows: counted at the dump, compared after the restore."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from ops.backup.errors import Damaged
from ops.backup.manifest import Manifest


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

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(self.tables.values())

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
class Dumped:
    """The details of a dump's manifest."""

    database: str
    server_version: str
    contents: Contents
    outside: Outside

    @property
    def server_major(self) -> int:
        """18 of 18.4; 0 where it cannot be told."""
        digits = self.server_version.partition(".")[0]
        return int(digits) if digits.isdigit() else 0

    def to_details(self) -> dict[str, Any]:
        """As the manifest holds them."""
        return asdict(self)

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Out of a manifest.

        Raises:
            Damaged: they are not those of a dump.
        """
        details: Mapping[str, Any] = manifest.details
        try:
            grants = details["outside"]["grants"]
            return cls(
                database=details["database"],
                server_version=details["server_version"],
                contents=Contents(**details["contents"]),
                outside=Outside(
                    None if grants is None else [(role, privilege) for role, privilege in grants],
                    details["outside"]["settings"],
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{manifest.name} is no manifest of a dump: {error!r}") from error
