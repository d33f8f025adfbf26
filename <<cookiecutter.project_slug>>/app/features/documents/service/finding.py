"""Searching, with or without the embedding provider."""

import asyncio
import time
from dataclasses import dataclass
from hashlib import blake2b
from uuid import UUID

import structlog

from app.core.ai import EmbeddingUnavailable, OfflineEmbedder
from app.core.audit import record
from app.core.resources import Resources
from app.features.documents.embedding import embedder_of
from app.features.documents.landscape import landscape
from app.features.documents.search import Hit, search
from app.features.documents.settings import DocumentsSettings

log = structlog.get_logger(__name__)

# People ask the same again, page by page and after a typing error; a vector is always the same.
QUESTION_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Finding:
    """What a search found, and what it took.

    Attributes:
        hits: best first.
        complete: False when the embedding provider was away, so that words alone decided.
        model: whose vectors were compared; None when none were.
        embed_seconds: until the question had its vector.
        search_seconds: in the database.
    """

    hits: list[Hit]
    complete: bool
    model: str | None
    embed_seconds: float
    search_seconds: float


async def find(resources: Resources, owner_id: UUID | None, query: str, limit: int, min_score: float = 0.0) -> Finding:
    """The passages that fit best.

    When the embedding provider is away, or slower than DOCUMENTS_SEARCH_SECONDS, words alone decide.

    Args:
        resources: what a feature works with.
        owner_id: whose documents are searched; None searches everybody's.
        query: words or a question.
        limit: at most so many.
        min_score: none below this score.
    """
    settings = resources.settings.of(DocumentsSettings)
    began = time.perf_counter()
    known = await landscape(resources.db)
    vector: list[float] | None = None
    if known.model:
        try:
            async with asyncio.timeout(settings.search_seconds):
                vector = await _vector(resources, known.model, query)
        except (EmbeddingUnavailable, TimeoutError) as error:
            log.warning("search_without_vectors", error=repr(error))
    embedded = time.perf_counter()
    hits = await search(
        resources.db,
        known,
        owner_id=owner_id,
        query=query,
        vector=vector,
        language=settings.language,
        limit=limit,
        min_score=min_score,
    )
    return Finding(
        hits=hits,
        complete=vector is not None or known.model is None,
        model=known.model if vector else None,
        embed_seconds=embedded - began,
        search_seconds=time.perf_counter() - embedded,
    )


async def find_everywhere(
    resources: Resources, staff_id: UUID, query: str, limit: int, min_score: float = 0.0
) -> Finding:
    """The passages of everybody's documents that fit best; that somebody looked is on record, what for is not."""
    async with resources.db.transaction() as session:
        record(session, "documents.searched_everywhere", actor=staff_id)
    return await find(resources, None, query, limit, min_score)


async def _vector(resources: Resources, model: str, query: str) -> list[float]:
    async with embedder_of(resources, model) as embedder:
        if isinstance(embedder, OfflineEmbedder):  # quicker than the cache
            return (await embedder.embed([query]))[0]

        async def ask() -> list[float]:
            return (await embedder.embed([query]))[0]

        digest = blake2b(query.encode(), digest_size=16).hexdigest()
        found: list[float] = await resources.cache.get_or_set(f"question:{model}:{digest}", ask, QUESTION_SECONDS)
        return found
