"""What a search must know of the tables before it begins: which model is searched, who holds how much, which words say nothing.

All of it is PostgreSQL's own statistics and one row, changes slowly, and only ever costs time when it is out of date, never a
result. So each process asks for it at most every `REMEMBERED_SECONDS`, and a search has no question to ask but its own.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID
from weakref import WeakKeyDictionary

from sqlalchemy import text

from app.core.db import Database

# A model that leaves keeps its vectors for longer.
REMEMBERED_SECONDS = 30.0
# A word that is in more of all passages than this does not tell them apart: a stop word, whatever the language.
COMMON_SHARE = 0.1
# Of fewer passages a tenth is one or two, and any word may be in as many.
FEWEST_PASSAGES = 20


@dataclass(frozen=True, slots=True)
class Landscape:
    """The tables as they lately were.

    Attributes:
        model: name of the embedding model that is searched; None while there are no vectors.
        slot: where its vectors stand.
        passages: how many there are, of all owners, as the planner estimates it.
        shares: of the owners who hold most, how much of it, from 0 to 1.
        other_share: of any other owner, on average.
        common: lexemes of more than `COMMON_SHARE` of the passages.
    """

    model: str | None
    slot: int
    passages: float
    shares: Mapping[UUID, float]
    other_share: float
    common: list[str]

    def passages_of(self, owner_id: UUID | None) -> float:
        """About how many passages an owner has; None asks for everybody."""
        return self.passages * (1.0 if owner_id is None else self.shares.get(owner_id, self.other_share))


# The size of the table as the planner estimates it: rows a page at the last ANALYZE, times pages now. Owners beyond the
# most common ones share equally what those leave, as the planner assumes too.
_LANDSCAPE = text("""
    WITH counted AS (
        SELECT pg_relation_size(oid) / CAST(current_setting('block_size') AS int)
               * CASE WHEN relpages > 0 AND reltuples > 0 THEN reltuples / relpages ELSE 3 END AS passages, reltuples
        FROM pg_class WHERE oid = CAST('document_passages' AS regclass)
    ), owners AS (
        SELECT CAST(CAST(most_common_vals AS text) AS uuid[]) AS ids, most_common_freqs AS shares,
               CASE WHEN n_distinct < 0 THEN -n_distinct * greatest(reltuples, 1) ELSE n_distinct END AS owners
        FROM pg_stats, counted
        WHERE schemaname = current_schema() AND tablename = 'document_passages' AND attname = 'owner_id'
    ), lexemes AS (
        SELECT array_agg(lexeme) AS common
        FROM counted, pg_stats,
             unnest(CAST(CAST(most_common_elems AS text) AS text[]), most_common_elem_freqs) AS entry(lexeme, share)
        WHERE schemaname = current_schema() AND tablename = 'document_passages' AND attname = 'words'
          AND share > :common_share AND lexeme IS NOT NULL AND reltuples >= :fewest
    )
    SELECT name, slot, passages, ids, shares, owners, common
    FROM counted
    LEFT JOIN owners ON true
    LEFT JOIN lexemes ON true
    LEFT JOIN embedding_models ON state = 'active'
    """)


_remembered: WeakKeyDictionary[Database, tuple[float, Landscape]] = WeakKeyDictionary()


async def landscape(db: Database) -> Landscape:
    """The landscape, at most `REMEMBERED_SECONDS` old."""
    known = _remembered.get(db)
    if known and known[0] > time.monotonic():
        return known[1]
    async with db.read() as session:
        row = (await session.execute(_LANDSCAPE, {"common_share": COMMON_SHARE, "fewest": FEWEST_PASSAGES})).one()
    shares = dict(zip(row.ids or (), row.shares or (), strict=True))
    others = (row.owners or 0) - len(shares)
    found = Landscape(
        model=row.name,
        slot=row.slot or 0,
        passages=row.passages,
        shares=shares,
        other_share=max(0.0, 1.0 - sum(shares.values())) / others if others >= 1 else 0.0,
        common=row.common or [],
    )
    if found.model:  # the first upload ever is found at once
        _remembered[db] = (time.monotonic() + REMEMBERED_SECONDS, found)
    return found


def forget(db: Database) -> None:
    """Have the next search look again: the tables have changed by more than a little."""
    _remembered.pop(db, None)
