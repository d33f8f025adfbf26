"""Changing to a new embedding model while the search goes on with the old one.

    begin     the new model gets the free slot and is "coming"; from now on a new document gets vectors of both
    advance   a chain of short tasks gives every earlier document its vectors of the new one, in the order of the ids
    switch    in one transaction the coming model becomes the active one, for everybody at once, and the old one leaves
    remove    minutes later, when no search uses them any more, the old vectors go, and their slot is free

A document is called ready under a lock on the models (`processing`), so none can become ready between the last look for
documents and the switch without vectors of both.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy import Select, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.errors import Conflict
from app.core.resources import Resources
from app.core.tasks import enqueue
from app.features.documents import tasks
from app.features.documents.models import Document, DocumentEmbedding, EmbeddingModel, ModelState, Status
from app.features.documents.service import processing

log = structlog.get_logger(__name__)

# How long a search may go on with the model that it read before a switch.
LEAVING_GRACE = timedelta(minutes=5)
# Documents looked up, and documents whose old vectors are deleted in one transaction.
AT_ONCE = 20


class ModelBusy(Conflict):
    """Another change of model is under way."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A model and how far it has come.

    Attributes:
        done: documents that have all their vectors.
        documents: that are ready.
    """

    name: str
    slot: int
    state: str
    since: datetime
    done: int
    documents: int


async def begin(resources: Resources, name: str) -> ModelState | None:
    """Have every document embedded by a model. May be repeated, and then goes on; for the active model it fills gaps.

    Returns:
        What the model is now; None when there is nothing to embed yet, so that the settings decide.

    Raises:
        ModelBusy: there is no room for a third model.
    """
    async with resources.db.transaction() as session:
        models = {model.state: model for model in await _locked(session)}
        active = models.get(ModelState.ACTIVE)
        if active is None:
            return None
        chosen = next((model for model in models.values() if model.name == name), None)
        if chosen and chosen.state == ModelState.LEAVING:
            raise ModelBusy(f"The vectors of {name} are being removed. Try again when they are gone.")
        if chosen is None and len(models) > 1:
            other = models.get(ModelState.COMING) or models[ModelState.LEAVING]
            raise ModelBusy(f"There is room for two models, and {other.name} is {other.state}. Cancel it, or wait.")
        if chosen is None:
            chosen = EmbeddingModel(slot=1 - active.slot, name=name, state=ModelState.COMING)
            session.add(chosen)
        elif chosen is active:
            chosen.done = None
        enqueue(session, tasks.reembed, chosen.slot)
        return ModelState(chosen.state)


async def cancel(resources: Resources) -> str | None:
    """Give up a model that is coming; returns its name, if there is one."""
    async with resources.db.transaction() as session:
        await _locked(session)
        return await session.scalar(
            update(EmbeddingModel)
            .where(EmbeddingModel.state == ModelState.COMING)
            .values(state=ModelState.LEAVING, since=func.now(), done=None)
            .returning(EmbeddingModel.name)
        )


async def progress(resources: Resources) -> list[Progress]:
    """Every model that has vectors here."""
    async with resources.db.read() as session:
        found = []
        for model in await session.scalars(select(EmbeddingModel).order_by(EmbeddingModel.slot)):
            done = (
                func.count()
                if model.state == ModelState.ACTIVE
                else func.count().filter(Document.id <= (model.done or UUID(int=0)))
            )
            counted = select(done, func.count()).where(Document.status == Status.READY)
            finished, documents = (await session.execute(counted)).one()
            found.append(Progress(model.name, model.slot, model.state, model.since, finished, documents))
        return found


async def advance(resources: Resources, slot: int) -> None:
    """Embed for some seconds, and ask for a further task, or switch when nothing is left."""
    deadline = time.monotonic() + processing.SLICE_SECONDS
    while time.monotonic() < deadline:
        async with resources.db.transaction() as session:  # never a replica
            model = await session.get(EmbeddingModel, slot)
            if model is None or model.state == ModelState.LEAVING:
                return
            documents = (await session.scalars(_following(model.done).where(Document.status == Status.READY))).all()
        if not documents:
            await _switch(resources, model)
            return
        for document_id in documents:
            if not await processing.embed(resources, document_id, model, deadline):
                break
            await _reached(resources, model, document_id)
    async with resources.db.transaction() as session:
        enqueue(session, tasks.reembed, slot)


async def remove_leaving(resources: Resources, now: datetime | None = None) -> None:
    """Delete the vectors of a model that has left, for some seconds; the next run goes on."""
    before = (now or datetime.now(UTC)) - LEAVING_GRACE
    deadline = time.monotonic() + processing.SLICE_SECONDS
    while time.monotonic() < deadline:
        async with resources.db.transaction() as session:
            leaving = select(EmbeddingModel).where(
                EmbeddingModel.state == ModelState.LEAVING, EmbeddingModel.since < before
            )
            model = await session.scalar(leaving.with_for_update(skip_locked=True))
            if model is None:
                return
            documents = (await session.scalars(_following(model.done))).all()
            if not documents:
                await session.delete(model)
                log.info("embedding_model_removed", model=model.name)
                return
            await session.execute(
                delete(DocumentEmbedding).where(
                    DocumentEmbedding.document_id.in_(documents), DocumentEmbedding.slot == model.slot
                )
            )
            model.done = documents[-1]


async def _switch(resources: Resources, model: EmbeddingModel) -> None:
    """Make a model the active one when no document lacks its vectors; else go on."""
    async with resources.db.transaction() as session:
        models = {found.slot: found for found in await _locked(session)}
        coming = models.get(model.slot)
        if coming is None or coming.state != ModelState.COMING:
            return
        # Ready since the last look; with vectors of both, but whoever says so must have seen them.
        if (await session.scalars(_following(coming.done).where(Document.status == Status.READY))).first():
            enqueue(session, tasks.reembed, model.slot)
            return
        old = models[1 - model.slot]
        # One after the other: each state belongs to one model at most.
        for changed, state in ((old, ModelState.LEAVING), (coming, ModelState.ACTIVE)):
            changed.state, changed.done, changed.since = state, None, datetime.now(UTC)
            await session.flush()
    log.warning("embedding_model_switched", old=old.name, new=model.name)


async def _locked(session: AsyncSession) -> list[EmbeddingModel]:
    """All models, held until the transaction ends; no document becomes ready meanwhile."""
    return list(await session.scalars(select(EmbeddingModel).order_by(EmbeddingModel.slot).with_for_update()))


def _following(done: UUID | None) -> Select[UUID]:
    following = select(Document.id).order_by(Document.id).limit(AT_ONCE)
    return following.where(Document.id > done) if done else following


async def _reached(resources: Resources, model: EmbeddingModel, document_id: UUID) -> None:
    """Keep how far a model has come. Never back: two tasks may be at it."""
    async with resources.db.transaction() as session:
        await session.execute(
            update(EmbeddingModel)
            .where(
                EmbeddingModel.slot == model.slot,
                EmbeddingModel.name == model.name,
                EmbeddingModel.state == model.state,
                or_(EmbeddingModel.done.is_(None), EmbeddingModel.done < document_id),
            )
            .values(done=document_id)
        )
