"""Keeping in step what a crash leaves apart: rows, tasks and files."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy import Uuid, cast, func, select, update

from app.core.outbox import OutboxTask, State
from app.core.resources import Resources
from app.features.documents import tasks
from app.features.documents.models import Document, Status
from app.features.documents.service.library import PREFIX, key
from app.features.documents.service.processing import GIVEN_UP

log = structlog.get_logger(__name__)

# An object this young may belong to an upload that has not committed yet.
ORPHAN_AGE = timedelta(hours=1)
# How far back orphans are looked for; the sweep runs every hour.
ORPHAN_REACH = timedelta(days=7)


async def fail_abandoned(resources: Resources) -> int:
    """Fail the documents that wait for a task which is dead or gone; returns how many.

    Document and task are written in one transaction, so there are none unless a worker was killed just after it had
    given a task up.
    """
    at_work = select(cast(OutboxTask.args[0].astext, Uuid)).where(
        OutboxTask.name.in_([tasks.process.name, tasks.process_large.name]), OutboxTask.state != State.DEAD
    )
    async with resources.db.transaction() as session:
        failed = await session.scalars(
            update(Document)
            .where(Document.status.in_([Status.PENDING, Status.PROCESSING]), Document.id.not_in(at_work))
            .values(status=Status.FAILED, error=GIVEN_UP, processed_at=func.now())
            .returning(Document.id)
        )
        found = failed.all()
    for document_id in found:
        log.warning("document_abandoned", document_id=str(document_id))
    return len(found)


async def remove_orphans(resources: Resources, now: datetime | None = None) -> int:
    """Delete files without a document, which a crash during an upload left behind; returns how many.

    Ids tell when they were made, so only recent keys are listed, however many objects there are.
    """
    now = now or datetime.now(UTC)
    removed = 0
    for prefix in _recent_prefixes(now):
        stored = await resources.storage.list(prefix)
        old = {found for item in stored if item.modified < now - ORPHAN_AGE and (found := _id_of(item.key))}
        if not old:
            continue
        async with resources.db.read() as session:
            known = set(await session.scalars(select(Document.id).where(Document.id.in_(old))))
        for orphan in old - known:
            await resources.storage.delete(key(orphan))
            log.warning("orphan_removed", document_id=str(orphan))
            removed += 1
    return removed


def _recent_prefixes(now: datetime) -> Iterator[str]:
    """Beginnings of the keys of recent ids: their first 24 bits count spans of 2**24 milliseconds, four and a half hours."""
    first, last = (int((now - age).timestamp() * 1000) >> 24 for age in (ORPHAN_REACH, ORPHAN_AGE))
    for span in range(first, last + 1):
        yield f"{PREFIX}{span:06x}"


def _id_of(name: str) -> UUID | None:
    try:
        return UUID(name.removeprefix(PREFIX))
    except ValueError:
        return None  # not one of ours
