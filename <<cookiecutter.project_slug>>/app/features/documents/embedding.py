"""Which models have vectors here, and the embedder of each.

The database says which model is searched, not the settings: those may name a new one while the vectors are still of the
old one. AI_EMBEDDING_MODEL decides for an empty corpus, and is what `documents reembed` changes to.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.ai import Embedder, OfflineEmbedder, create_embedder
from app.core.resources import Resources
from app.features.documents.models import EmbeddingModel, ModelState


async def wanted_models(session: AsyncSession, *, default: str, lock: bool = False) -> Sequence[EmbeddingModel]:
    """The models that a document needs vectors of: the active one, and one that is coming.

    Args:
        session: within a transaction.
        default: becomes the active model when there is none yet.
        lock: let nobody switch models before this transaction ends.
    """
    wanted = (
        select(EmbeddingModel)
        .where(EmbeddingModel.state.in_([ModelState.ACTIVE, ModelState.COMING]))
        .order_by(EmbeddingModel.state)
    )
    if lock:
        # A statement of its own: one that had to wait for the lock would still see the models of before.
        await session.execute(select(EmbeddingModel.slot).with_for_update(read=True))
    found = (await session.scalars(wanted)).all()
    if not any(model.state == ModelState.ACTIVE for model in found):
        first = {"slot": 0, "name": default, "state": ModelState.ACTIVE}
        await session.execute(insert(EmbeddingModel).values(first).on_conflict_do_nothing())
        found = (await session.scalars(wanted)).all()
    return found


@asynccontextmanager
async def embedder_of(resources: Resources, model: str) -> AsyncIterator[Embedder]:
    """The embedder of a model: the process' own when it is that one, else one for this use."""
    if resources.embedder.model == model:
        yield resources.embedder
        return
    if model == OfflineEmbedder.model:
        yield OfflineEmbedder()
        return
    ai = resources.settings.ai.model_copy(update={"embedding_provider": "openai", "embedding_model": model})
    embedder = create_embedder(ai)
    try:
        yield embedder
    finally:
        await embedder.close()
