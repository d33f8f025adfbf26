"""Keeping in step what a crash leaves apart: rows, tasks and files.

The files are compared with the rows in the order of their keys, which is the order of the ids, a page at a time and so
many a run; the next run goes on where this one ended, and after the last key it begins anew. So each run is bounded
however many files there are, and every file is looked at whatever its age.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Uuid, and_, cast, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from app.core.outbox import OutboxTask, State
from app.core.resources import Resources
from app.core.storage import QUARANTINE, ObjectNotFound, StoredObject
from app.core.tasks import enqueue
from app.features.documents import tasks
from app.features.documents.metrics import SWEPT
from app.features.documents.models import Document, DocumentPassage, DocumentSweep, DocumentUpload, Status
from app.features.documents.service import notices
from app.features.documents.service.library import LOST, PREFIX, key
from app.features.documents.service.processing import GIVEN_UP
from app.features.documents.settings import DocumentsSettings

log = structlog.get_logger(__name__)

# An object this young may belong to an upload that has not committed yet; a row this young, to an object put after the
# listing.
GRACE = timedelta(hours=1)
PAGE = 1000
# Rows changed by one run of each of the other chores; what is left waits for the next.
AT_ONCE = 1000
# How long a completed upload can be completed again, with the same answer.
REMEMBERED = timedelta(days=1)
# More than so many that do not match, and more than half of a page, are no crash: this is another bucket, an older
# database, or a store that lists nothing. Then nothing is changed, and the metric and the log say so.
SUSPICIOUS = 100


async def fail_abandoned(resources: Resources) -> int:
    """Fail the documents that wait for a task which is dead or gone; returns how many.

    Document and task are written in one transaction, so there are none unless a worker was killed just after it had
    given a task up.
    """
    at_work = select(cast(OutboxTask.args[0].astext, Uuid)).where(
        OutboxTask.name.in_([tasks.process.name, tasks.process_large.name]), OutboxTask.state != State.DEAD
    )
    chosen = (
        select(Document.id)
        .where(Document.status.in_([Status.PENDING, Status.PROCESSING]), Document.id.not_in(at_work))
        .limit(AT_ONCE)
    )
    async with resources.db.transaction() as session:
        failed = await session.execute(
            update(Document)
            .where(Document.id.in_(chosen.scalar_subquery()), Document.status != Status.READY)
            .values(status=Status.FAILED, error=GIVEN_UP, passages=0, processed_at=func.now())
            .returning(Document.id, Document.owner_id)
        )
        owners: dict[UUID, UUID] = {row.id: row.owner_id for row in failed}
        await session.execute(delete(DocumentPassage).where(DocumentPassage.document_id.in_(owners)))
    _note("abandoned", list(owners))
    for document_id, owner_id in owners.items():
        await notices.tell(resources, owner_id, document_id, Status.FAILED, error=GIVEN_UP)
    return len(owners)


async def remove_expired(resources: Resources, now: datetime | None = None) -> int:
    """Take away uploads that were never completed, with what was sent for them; returns how many."""
    now = now or datetime.now(UTC)
    chosen = (
        select(DocumentUpload.id)
        .where(
            or_(
                and_(DocumentUpload.document_id.is_(None), DocumentUpload.expires_at < now),
                DocumentUpload.expires_at < now - REMEMBERED,
            )
        )
        .limit(AT_ONCE)
    )
    async with resources.db.transaction() as session:
        gone = await session.execute(
            delete(DocumentUpload)
            .where(DocumentUpload.id.in_(chosen.scalar_subquery()))
            .returning(DocumentUpload.id, DocumentUpload.document_id)
        )
        expired = [upload_id for upload_id, document_id in gone if document_id is None]
        for upload_id in expired:
            enqueue(session, tasks.remove_upload, str(upload_id))
    _note("upload", expired)
    return len(expired)


async def empty_quarantine(resources: Resources, now: datetime | None = None) -> int:
    """Delete what lies in quarantine longer than any upload may take; returns how many.

    An address can be used again after its upload was completed, and a crash can come before the deletion's task.
    """
    now = now or datetime.now(UTC)
    old = now - GRACE - timedelta(seconds=resources.settings.of(DocumentsSettings).upload_seconds)
    # Ids sort by time, so what is old comes first.
    stored = await resources.storage.list(QUARANTINE, limit=AT_ONCE)
    leftover = [item.key for item in stored if item.modified < old]
    for name in leftover:
        await resources.storage.delete(name)
    _note("upload", leftover)
    return len(leftover)


async def compare(resources: Resources, now: datetime | None = None) -> None:
    """Delete files without a document, and fail documents without a file, among the next of them."""
    now = now or datetime.now(UTC)
    async with resources.db.read() as session:
        reached = await session.scalar(select(DocumentSweep.reached)) or PREFIX
    for _ in range(max(1, resources.settings.of(DocumentsSettings).sweep_files // PAGE)):
        stored = await resources.storage.list(PREFIX, after=reached, limit=PAGE)
        last = len(stored) < PAGE
        await _compare_page(resources, reached, stored, last=last, before=now - GRACE)
        reached = PREFIX if last else stored[-1].key
        row = {"id": 1, "reached": reached}
        async with resources.db.transaction() as session:
            await session.execute(
                insert(DocumentSweep).values(row).on_conflict_do_update(index_elements=["id"], set_=row)
            )
        if last:
            return


async def _compare_page(
    resources: Resources, reached: str, stored: Sequence[StoredObject], *, last: bool, before: datetime
) -> None:
    files = {found: item.modified for item in stored if (found := _id_of(item.key))}
    between: list[ColumnElement[bool]] = [Document.created_at < before]
    if (first := _id_of(reached)) is not None:
        between.append(Document.id > first)
    elif reached != PREFIX:  # a key that is none of ours: rows begin where the files do
        between.append(Document.id >= min(files, default=UUID(int=2**128 - 1)))
    if not last:
        between.append(Document.id <= max(files, default=UUID(int=0)))
    async with resources.db.transaction() as session:  # never a replica, which may lack the newest rows
        # Asked after the listing: a row that is gone by then was deleted, and its file is to go as well.
        known = set(await session.scalars(select(Document.id).where(Document.id.in_(files))))
        ready = set(await session.scalars(select(Document.id).where(*between, Document.status == Status.READY)))
    orphans = [found for found, modified in files.items() if found not in known and modified < before]
    lost = [found for found in ready if found not in files]
    if _suspicious(orphans, files) or _suspicious(lost, ready):
        SWEPT.labels("refused").inc()
        log.error("sweep_refused", files=len(files), orphans=len(orphans), documents=len(ready), lost=len(lost))
        return
    for orphan in orphans:
        await resources.storage.delete(key(orphan))
    _note("orphan", orphans)
    for document_id in lost:
        await _fail_lost(resources, document_id)


def _suspicious(wrong: Sequence[UUID], among: Any) -> bool:
    return len(wrong) > SUSPICIOUS and len(wrong) * 2 > len(among)


async def _fail_lost(resources: Resources, document_id: UUID) -> None:
    try:
        await resources.storage.head(key(document_id))
    except ObjectNotFound:
        async with resources.db.transaction() as session:
            owner_id = await session.scalar(
                update(Document)
                .where(Document.id == document_id, Document.status == Status.READY)
                .values(status=Status.FAILED, error=LOST, passages=0, processed_at=func.now())
                .returning(Document.owner_id)
            )
            if owner_id:
                await session.execute(delete(DocumentPassage).where(DocumentPassage.document_id == document_id))
        _note("lost", [document_id])
        if owner_id:
            await notices.tell(resources, owner_id, document_id, Status.FAILED, error=LOST)


def _note(what: str, found: Sequence[UUID | str]) -> None:
    if found:
        SWEPT.labels(what).inc(len(found))
        log.warning("documents_swept", what=what, count=len(found), first=str(found[0]))


def _id_of(name: str) -> UUID | None:
    try:
        return UUID(name.removeprefix(PREFIX))
    except ValueError:
        return None  # not one of ours
