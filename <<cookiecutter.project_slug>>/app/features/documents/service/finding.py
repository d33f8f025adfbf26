"""Searching, with or without the embedding provider."""

import asyncio
from uuid import UUID

import structlog

from app.core.ai import EmbeddingUnavailable
from app.core.resources import Resources
from app.features.documents import search
from app.features.documents.embedding import active_model, embedder_of
from app.features.documents.settings import DocumentsSettings

log = structlog.get_logger(__name__)


async def find(resources: Resources, owner_id: UUID, query: str, limit: int) -> tuple[list[search.Hit], bool]:
    """The passages of an owner that fit best, and whether the search was whole.

    When the embedding provider is away, or slower than DOCUMENTS_SEARCH_SECONDS, words alone decide and the search was
    not whole.
    """
    settings = resources.settings.of(DocumentsSettings)
    async with resources.db.read() as session:
        model = await active_model(session)
    vector: list[float] | None = None
    if model:
        try:
            async with asyncio.timeout(settings.search_seconds), embedder_of(resources, model.name) as embedder:
                vector = (await embedder.embed([query]))[0]
        except (EmbeddingUnavailable, TimeoutError) as error:
            log.warning("search_without_vectors", error=repr(error))
    hits = await search.search(
        resources.db,
        owner_id=owner_id,
        query=query,
        vector=vector,
        slot=model.slot if model else 0,
        language=settings.language,
        limit=limit,
    )
    return hits, vector is not None or model is None
