"""Hybrid search: nearest vectors and matching words, each ranked, the ranks fused, in one statement.

The two kinds of score cannot be compared, so reciprocal rank fusion adds 1 / (60 + rank) of both lists (Cormack, Clarke
and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods", SIGIR 2009).

Every search is within one owner, and that decides the plan. An HNSW index knows nothing of owners: scanned plainly it
finds the nearest of *all* passages and drops the others', which for an owner of 1 % of the rows left half a result a query
(measured; 4-5 % of what an exact search finds). So:

* `Plan.EXACT`: the b-tree finds the owner's passages and all of them are sorted by distance. Finds everything; costs
  1 to 3 µs a passage.
* `Plan.INDEX`: the HNSW index, scanned on (`relaxed_order`) until enough passages of this owner have come by. Costs 7 to
  8 µs a passage visited, whoever's it is; its answer is out of order by a little and sorted again.

PostgreSQL's planner prefers the index even where it is wrong, so `choose_plan` decides by the owner's share.

Vectors of one model only are compared: those of its slot, of which each has an index (see `models.EmbeddingModel`).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from pgvector import HalfVector
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import Database

# The constant of the paper: large enough that the first few ranks do not decide alone.
FUSION_K = 60
# Taken from each list. A passage below this rank in both could not get among the first answers.
CANDIDATES = 50
# Breadth of the index scan: 60 gave a recall@10 of 0.998 on 100,000 vectors; less than CANDIDATES could not fill the list.
EF_SEARCH = 80
# Cost of a passage visited by the index over one sorted exactly: measured 6.6 on 20,000 passages of 512 dimensions in
# memory, 2.6 on 100,000 of 384.
COST_RATIO = 4.0
# So few are sorted in milliseconds, and then the size of the table need not be known.
ALWAYS_EXACT = 2000


class Plan(StrEnum):
    """How the nearest vectors are found."""

    EXACT = "exact"
    INDEX = "index"


class Part(StrEnum):
    """Which half of the search found a passage."""

    VECTOR = "vector"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found, with where it comes from.

    Attributes:
        score: from above 0 to 1; 1 is first in both lists. Comparable within one answer only.
        found_by: the parts that found it.
    """

    document_id: UUID
    title: str
    passage: str
    page: int | None
    heading: str | None
    score: float
    found_by: list[Part]


async def search(
    db: Database, *, owner_id: UUID, query: str, vector: list[float] | None, slot: int = 0, language: str, limit: int
) -> list[Hit]:
    """The best passages of one owner, best first.

    Args:
        db: the database.
        owner_id: whose documents are searched.
        query: words as typed: "quoted phrases", or, -without; no input is a syntax error.
        vector: embedding of the query; None searches by words alone.
        slot: of the model that made the vector.
        language: text search configuration of the query.
        limit: at most so many, up to `CANDIDATES`.
    """
    parameters = {
        "owner": owner_id,
        "query": query,
        "vector": HalfVector(vector).to_text() if vector else None,
        "language": language,
        "candidates": CANDIDATES,
        "limit": limit,
    }
    async with db.read() as session:
        plan = await choose_plan(session, owner_id, slot) if vector else Plan.EXACT
        if plan is Plan.EXACT:
            return await _hits(session, statement(plan, slot), parameters)
    async with db.transaction() as session:  # the settings of the scan last for this transaction
        await session.execute(SCAN_SETTINGS, {"ef_search": str(EF_SEARCH)})
        return await _hits(session, statement(plan, slot), parameters)


async def choose_plan(session: AsyncSession, owner_id: UUID, slot: int = 0) -> Plan:
    """Decide by the owner's share: with n of N passages, sorting costs n and the index visits CANDIDATES * N / n."""
    values = {"owner": owner_id, "slot": slot, "factor": COST_RATIO * CANDIDATES, "always_exact": ALWAYS_EXACT}
    exact = (await session.execute(_EXACT_IS_CHEAPER, values)).scalar_one()
    return Plan.EXACT if exact else Plan.INDEX


# The size of the table as the planner estimates it: rows a page at the last ANALYZE, times pages now. Counting stops at the
# threshold, so a large owner costs no more than a middling one.
_EXACT_IS_CHEAPER = text("""
    WITH estimated AS (
        SELECT pg_relation_size(oid) / CAST(current_setting('block_size') AS int)
               * CASE WHEN relpages > 0 AND reltuples > 0 THEN reltuples / relpages ELSE 3 END AS total
        FROM pg_class WHERE oid = CAST('document_embeddings' AS regclass)
    ), threshold AS (
        SELECT CAST(greatest(CAST(:always_exact AS float), sqrt(CAST(:factor AS float) * total)) AS bigint) AS most FROM estimated
    )
    SELECT count(*) <= (SELECT most FROM threshold)
    FROM (SELECT 1 FROM document_embeddings WHERE owner_id = :owner AND slot = :slot LIMIT (SELECT most + 1 FROM threshold)) AS counted
    """)

# enable_sort: without it the planner may still sort all of a large owner's passages; what has no other way is sorted
# nevertheless. plan_cache_mode: a plan for an average owner would be no plan for this one.
SCAN_SETTINGS = text("""
    SELECT set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', :ef_search, true),
           set_config('enable_sort', 'off', true), set_config('plan_cache_mode', 'force_custom_plan', true)
""")

# Adding nothing to the distance keeps the planner from the index, which knows only the bare operator.
_ORDER = {
    Plan.EXACT: "(embedding <=> CAST(:vector AS halfvec)) + 0",
    Plan.INDEX: "embedding <=> CAST(:vector AS halfvec)",
}


def statement(plan: Plan, slot: int = 0) -> TextClause:
    """The search as SQL, with the parameters owner, query, vector, language, candidates and limit."""
    return _STATEMENTS[plan, slot]


def _statement(plan: Plan, slot: int) -> TextClause:
    order = _ORDER[plan]
    sql = f"""
    WITH nearest AS MATERIALIZED (
        SELECT document_id, position, {order} AS distance
        FROM document_embeddings
        WHERE slot = {slot} AND owner_id = :owner AND CAST(:vector AS text) IS NOT NULL
        ORDER BY {order}
        LIMIT :candidates
    ), matching AS MATERIALIZED (
        SELECT document_id, position, ts_rank_cd(words, asked) AS weight
        FROM document_passages, websearch_to_tsquery(CAST(CAST(:language AS text) AS regconfig), :query) AS asked
        WHERE owner_id = :owner AND words @@ asked
        ORDER BY weight DESC, document_id, position
        LIMIT :candidates
    ), by_vector AS (
        SELECT document_id, position, row_number() OVER (ORDER BY distance, document_id, position) AS rank FROM nearest
    ), by_text AS (
        SELECT document_id, position, row_number() OVER (ORDER BY weight DESC, document_id, position) AS rank FROM matching
    ), fused AS (
        SELECT document_id, position, by_vector.rank AS vector_rank, by_text.rank AS text_rank,
               (coalesce(1.0 / ({FUSION_K} + by_vector.rank), 0) + coalesce(1.0 / ({FUSION_K} + by_text.rank), 0))
               * {FUSION_K + 1} / 2 AS score
        FROM by_vector FULL JOIN by_text USING (document_id, position)
        ORDER BY score DESC, document_id, position
        LIMIT :limit
    )
    SELECT document_id, title, text, page, heading, score, vector_rank, text_rank
    FROM fused
    JOIN document_passages USING (document_id, position)
    JOIN documents ON documents.id = document_id
    ORDER BY score DESC, document_id, position
    """  # noqa: S608  # put together from constants of this module
    return text(sql)


_STATEMENTS = {(plan, slot): _statement(plan, slot) for plan in Plan for slot in (0, 1)}


async def _hits(session: AsyncSession, sql: TextClause, parameters: dict[str, Any]) -> list[Hit]:
    rows = await session.execute(sql, parameters)
    return [
        Hit(
            row.document_id,
            row.title,
            row.text,
            row.page,
            row.heading,
            round(float(row.score), 6),
            [part for part, rank in ((Part.VECTOR, row.vector_rank), (Part.TEXT, row.text_rank)) if rank is not None],
        )
        for row in rows
    ]
