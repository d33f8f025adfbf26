"""Hybrid search: nearest vectors and matching words, each ranked, the ranks fused, in one statement.

**Vectors.** An HNSW index knows nothing of owners: scanned plainly it finds the nearest of *all* passages and drops the
others', which for an owner of 1 % of the rows leaves half a result a query. So a search within one owner has two plans,
and PostgreSQL's planner prefers the wrong one:

* `Plan.EXACT`: the b-tree finds the owner's passages and all of them are sorted by distance. Finds everything.
* `Plan.INDEX`: the HNSW index is scanned on (`relaxed_order`) until enough passages of this owner have come by. Its answer
  is out of order by a little and sorted again. A scan that had to stop before it found enough is done again exactly.

`choose_plan` decides by what each costs with the owner's share of the rows. A search over everybody's goes by the index.

**Words.** A passage matches with any of the question's words, so that a whole question finds something; those in more
than a tenth of all passages are left out, as stop words that are learnt. A passage's weight is the sum over the words of
how rare the word is among what is searched, times a share that grows ever more slowly with the times it occurs
(`ts_rank`), as in BM25. "Quoted phrases" and -exclusions are for who means them: then all words must be there.

**Both.** The two kinds of score cannot be compared, so reciprocal rank fusion adds 1 / (60 + rank) of both lists (Cormack,
Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods", SIGIR 2009). The
first of one list alone and the first of the other alone are equal by that: then the one that holds more of the question's
words comes first.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import Database
from app.features.documents.landscape import Landscape

# The constant of the paper: large enough that the first few ranks do not decide alone.
FUSION_K = 60
# Ranks know nothing of how much better the first is than the second. A passage that holds less than this share of what the
# best one holds of the question's words is no match beside it, and must not be lifted by a vote for it.
VOTE = 0.5
# Taken from each list. A passage below this rank in both could not get among the first answers.
CANDIDATES = 50
# Breadth of the index scan. On 100,000 vectors around 500 subjects 80 found 0.935 of the ten nearest, 120 0.976 and 160 0.996:
# a narrow scan misses whole subjects.
EF_SEARCH = 160
# Cost of a passage that the index visits over one that is sorted exactly: measured 24 to 35, see docs/documents.md.
COST_RATIO = 30.0
# So few are sorted in milliseconds.
ALWAYS_EXACT = 2000
# A scan that finds nobody's passages of this owner gives up after so many times what it should have needed, but not before
# the least: then exact sorting is the cheaper way to go on.
PATIENCE = 8
LEAST_SCANNED = 4000
# Matching passages that are ranked. More match only where all words are common ones, and then none of them says much.
MOST_RANKED = 10_000
# Words of a question that count.
MOST_WORDS = 32

_OPERATORS = re.compile(r'"[^"]*\w[^"]*"|(?:^|\s)-\w')


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
        position: its place in the document.
        score: from above 0 to 1; 1 is first in both lists. Comparable within one answer only.
        found_by: the parts that found it.
        similarity: cosine of question and passage, if the vectors found it: depends on the embedding model.
        coverage: how much of the question's words it holds, rare ones counting more, from 0 to 1.
    """

    document_id: UUID
    position: int
    title: str
    passage: str
    page: int | None
    heading: str | None
    score: float
    found_by: list[Part]
    similarity: float | None
    coverage: float


async def search(
    db: Database,
    landscape: Landscape,
    *,
    owner_id: UUID | None,
    query: str,
    vector: Sequence[float] | None,
    language: str,
    limit: int,
    min_score: float = 0.0,
) -> list[Hit]:
    """The best passages, best first; what is equal is in the order of documents.

    Args:
        db: the database.
        landscape: what is known of the tables.
        owner_id: whose documents are searched; None searches everybody's.
        query: words as typed: "quoted phrases" and -without are understood; no input is a syntax error.
        vector: embedding of the query by the landscape's model; None searches by words alone.
        language: text search configuration of the query.
        limit: at most so many, up to `CANDIDATES`.
        min_score: none below this score.
    """
    wanted = values(
        landscape,
        owner_id=owner_id,
        query=query,
        vector=vector,
        language=language,
        limit=limit,
        min_score=min_score,
    )
    plan = choose_plan(landscape, owner_id) if vector else Plan.EXACT
    if plan is Plan.INDEX:
        # The settings of the scan last for this transaction. What became ready a moment ago may be missing.
        async with db.read(may_lag=True, whole=True) as session:
            await session.execute(SCAN_SETTINGS, scan_values(landscape, owner_id))
            rows = await _rows(session, statement(plan, landscape.slot, owner_id), wanted)
        if owner_id is None or rows[0].nearest == CANDIDATES:
            return _hits(rows)
    async with db.read(may_lag=True) as session:
        return _hits(await _rows(session, statement(Plan.EXACT, landscape.slot, owner_id), wanted))


def values(
    landscape: Landscape,
    *,
    owner_id: UUID | None,
    query: str,
    vector: Sequence[float] | None,
    language: str,
    limit: int,
    min_score: float = 0.0,
) -> dict[str, Any]:
    """Parameters of `statement`, from the arguments of `search`."""
    wanted = {
        "query": query,
        "strict": _OPERATORS.search(query) is not None,
        "common": "\n".join(landscape.common),  # the driver takes far longer over an array
        "total": landscape.passages_of(owner_id),
        "vector": vector_text(vector) if vector else None,
        "language": language,
        "limit": limit,
        "min_score": min_score,
    }
    return wanted if owner_id is None else {**wanted, "owner": owner_id}


def choose_plan(landscape: Landscape, owner_id: UUID | None) -> Plan:
    """Decide by the owner's share: with n of N passages, sorting costs n and the index visits CANDIDATES * N / n."""
    if owner_id is None:
        return Plan.INDEX
    most = max(ALWAYS_EXACT, (COST_RATIO * CANDIDATES * landscape.passages) ** 0.5)
    return Plan.EXACT if landscape.passages_of(owner_id) <= most else Plan.INDEX


# enable_sort: without it the planner may still sort all of a large owner's passages; what has no other way is sorted
# nevertheless. plan_cache_mode: a plan for an average owner would be no plan for this one. scan_mem_multiplier: what the scan
# has visited must not have to fit into work_mem, or it would end there.
SCAN_SETTINGS = text("""
    SELECT set_config('hnsw.ef_search', :ef_search, true), set_config('hnsw.iterative_scan', :iterative_scan, true),
           set_config('hnsw.max_scan_tuples', :max_scan_tuples, true),
           set_config('hnsw.scan_mem_multiplier', '8', true),
           set_config('enable_sort', 'off', true), set_config('plan_cache_mode', 'force_custom_plan', true)
    """)


def scan_values(landscape: Landscape, owner_id: UUID | None) -> dict[str, str]:
    """Parameters of `SCAN_SETTINGS`."""
    share = landscape.passages_of(owner_id) / max(landscape.passages, 1.0)
    expected = CANDIDATES / max(share, 1e-6)
    return {
        "ef_search": str(EF_SEARCH),
        "iterative_scan": "off" if owner_id is None else "relaxed_order",
        "max_scan_tuples": str(int(max(LEAST_SCANNED, PATIENCE * expected))),
    }


def vector_text(vector: Sequence[float]) -> str:
    """A vector as PostgreSQL reads it, as precise as half precision is."""
    return "[" + ",".join([f"{value:.5g}" for value in vector]) + "]"


# Adding nothing to the distance keeps the planner from the index, which knows only the bare operator.
_ORDER = {
    Plan.EXACT: "(embedding <=> CAST(:vector AS halfvec)) + 0",
    Plan.INDEX: "embedding <=> CAST(:vector AS halfvec)",
}


def statement(plan: Plan, slot: int, owner_id: UUID | None) -> TextClause:
    """The search as SQL; its parameters are `values`.

    The first column of every row says how many vectors were found; without a result there is one row of that alone.
    """
    return _STATEMENTS[plan, slot, owner_id is not None]


def _statement(plan: Plan, slot: int, owned: bool) -> TextClause:
    # The slot is written out because a partial index is only used for a condition that is known when planning.
    order, scope = _ORDER[plan], "owner_id = :owner AND" if owned else ""
    sql = f"""
    WITH nearest AS MATERIALIZED (
        SELECT document_id, position, {order} AS distance
        FROM document_embeddings
        WHERE slot = {slot} AND {scope} CAST(:vector AS text) IS NOT NULL
        ORDER BY {order}
        LIMIT {CANDIDATES}
    ), lexemes AS MATERIALIZED (
        SELECT CAST('''' || replace(replace(lexeme, '\\', '\\\\'), '''', '''''') || '''' AS tsquery) AS lexeme,
               lexeme <> ALL (string_to_array(:common, chr(10))) AS rare
        FROM unnest(to_tsvector(CAST(CAST(:language AS text) AS regconfig), :query))
        LIMIT {MOST_WORDS}
    ), asked AS MATERIALIZED (
        SELECT CASE
            WHEN CAST(:strict AS boolean)
            THEN websearch_to_tsquery(CAST(CAST(:language AS text) AS regconfig), :query)
            WHEN bool_or(rare) THEN CAST(string_agg(CAST(lexeme AS text), ' | ') FILTER (WHERE rare) AS tsquery)
            ELSE CAST(string_agg(CAST(lexeme AS text), ' & ') AS tsquery)
        END AS words, bool_or(rare) AS some_rare
        FROM lexemes
    ), matching AS MATERIALIZED (
        SELECT document_id, position,
               ARRAY (
                   SELECT ts_rank(document_passages.words, lexeme, 1)
                   FROM lexemes WHERE rare OR NOT some_rare ORDER BY lexeme
               ) AS ranks
        FROM asked JOIN document_passages ON {scope} document_passages.words @@ asked.words
        LIMIT {MOST_RANKED}
    ), weights AS (
        SELECT word, ln(1 + (greatest(CAST(:total AS float), seen) - holding + 0.5) / (holding + 0.5)) AS rarity
        FROM (
            SELECT word, count(*) AS seen, count(*) FILTER (WHERE rank > 0) AS holding
            FROM matching, unnest(ranks) WITH ORDINALITY AS entry(rank, word) GROUP BY word
        ) AS counted
    ), weighed AS (
        SELECT document_id, position, sum(rank * rarity) AS weight,
               coalesce(sum(rarity) FILTER (WHERE rank > 0), 0) / sum(rarity) AS coverage
        FROM matching, unnest(ranks) WITH ORDINALITY AS entry(rank, word) JOIN weights USING (word)
        GROUP BY document_id, position
    ), voting AS (
        SELECT document_id, position, weight, coverage
        FROM (SELECT *, max(coverage) OVER () AS most FROM weighed) AS compared
        WHERE coverage >= {VOTE} * most OR CAST(:vector AS text) IS NULL
        ORDER BY weight DESC, document_id, position
        LIMIT {CANDIDATES}
    ), by_vector AS (
        SELECT document_id, position, distance, row_number() OVER (ORDER BY distance, document_id, position) AS rank
        FROM nearest
    ), by_text AS (
        SELECT document_id, position, coverage, row_number() OVER (ORDER BY weight DESC, document_id, position) AS rank
        FROM voting
    ), fused AS (
        SELECT document_id, position, distance, coverage, by_vector.rank AS vector_rank, by_text.rank AS text_rank,
               round((coalesce(1.0 / ({FUSION_K} + by_vector.rank), 0) + coalesce(1.0 / ({FUSION_K} + by_text.rank), 0))
                     * {FUSION_K + 1} / 2, 6) AS score
        FROM by_vector FULL JOIN by_text USING (document_id, position)
        ORDER BY score DESC, coverage DESC NULLS LAST, document_id, position
        LIMIT :limit
    ), found AS (
        SELECT document_id, position, title, text, page, heading, score, vector_rank, text_rank, distance, coverage
        FROM fused
        JOIN document_passages USING (document_id, position)
        JOIN documents ON documents.id = document_id
        WHERE score >= CAST(:min_score AS float)
    )
    SELECT nearest, found.*
    FROM (SELECT count(*) AS nearest FROM nearest) AS counted LEFT JOIN found ON true
    ORDER BY score DESC, coverage DESC NULLS LAST, document_id, position
    """  # noqa: S608  # put together from constants of this module
    return text(sql)


_STATEMENTS = {
    (plan, slot, owned): _statement(plan, slot, owned) for plan in Plan for slot in (0, 1) for owned in (True, False)
}


async def _rows(session: AsyncSession, sql: TextClause, parameters: dict[str, Any]) -> Sequence[Row[Any]]:
    return (await session.execute(sql, parameters)).all()


def _hits(rows: Sequence[Row[Any]]) -> list[Hit]:
    return [
        Hit(
            row.document_id,
            row.position,
            row.title,
            row.text,
            row.page,
            row.heading,
            float(row.score),
            [part for part, rank in ((Part.VECTOR, row.vector_rank), (Part.TEXT, row.text_rank)) if rank is not None],
            None if row.distance is None else round(1 - row.distance, 4),
            round(row.coverage or 0.0, 4),
        )
        for row in rows
        if row.document_id is not None
    ]
