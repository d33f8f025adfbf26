"""No row without its object: after a restore, and in every proof, each object that a row names must be there."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import asyncpg
import structlog

from app.core.storage import NamedObjects
from app.features import modules
from ops.backup.postgres import Connection

log = structlog.get_logger(__name__)

# The first of them say what kind of loss it is; all of them would fill the screen.
SHOWN = 20


@dataclass
class Found:
    """What rows name.

    Attributes:
        named: how many objects.
        missing: those that are not there, the first few by what names them.
        lost: how many that are.
    """

    named: int = 0
    lost: int = 0
    missing: dict[str, list[str]] = field(default_factory=dict)

    def words(self) -> str:
        """For people."""
        return "; ".join(f"{rows}: {', '.join(keys)}" for rows, keys in self.missing.items())


def declared() -> list[NamedObjects]:
    """What the features say of their rows."""
    return [named for module in modules("objects") for named in module.OBJECTS]


async def check(connection: Connection, there: Container[str], names: Sequence[NamedObjects] | None = None) -> Found:
    """Compare what rows name with what is there.

    Args:
        connection: to the database that was restored.
        there: keys of objects.
        names: which rows; what the features declare, unless given.
    """
    found = Found()
    for named in declared() if names is None else names:
        try:
            async with connection.transaction(readonly=True):
                async for (key,) in connection.cursor(named.query, prefetch=1000):
                    found.named += 1
                    if key not in there:
                        found.lost += 1
                        shown = found.missing.setdefault(named.rows, [])
                        if len(shown) < SHOWN:
                            shown.append(key)
        except asyncpg.UndefinedTableError:
            # A backup from before the feature.
            log.warning("backup_rows_unknown", rows=named.rows)
    return found
