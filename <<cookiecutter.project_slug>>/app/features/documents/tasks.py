"""Background work of documents. Each task calls its service; arguments are ids."""

from datetime import timedelta
from uuid import UUID

from app.core.resources import Resources
from app.core.tasks import Periodic, Queue, task
from app.features.documents.service import answering, deletion, processing, reembedding, sweep

LIMIT = timedelta(minutes=15)


async def give_up(resources: Resources, document_id: str) -> None:
    """The last attempt to process a document has failed: tell its owner instead of leaving it at work for ever."""
    await processing.fail(resources, UUID(document_id), processing.GIVEN_UP)


# Reading takes DOCUMENTS_EXTRACT_SECONDS at most, a slice of embedding 20 s and the batch it ends with.
@task("documents.process", queue=Queue.MEDIUM, max_attempts=5, limit=LIMIT, on_dead=give_up)
async def process(resources: Resources, document_id: str) -> None:
    """Make a document searchable."""
    await processing.process(resources, UUID(document_id))


@task("documents.process_large", queue=Queue.LOW, max_attempts=5, limit=LIMIT, on_dead=give_up)
async def process_large(resources: Resources, document_id: str) -> None:
    """The same for what takes long: it begins, or goes on, when nothing else is waiting."""
    await processing.process(resources, UUID(document_id))


@task("documents.remove_object", queue=Queue.LOW, max_attempts=20)
async def remove_object(resources: Resources, document_id: str) -> None:
    """Delete the file of a deleted document."""
    await deletion.remove_object(resources, UUID(document_id))


@task("documents.remove_upload", queue=Queue.LOW, max_attempts=20)
async def remove_upload(resources: Resources, upload_id: str) -> None:
    """Delete what was sent to a signed address, when it was taken in or refused."""
    await deletion.remove_upload(resources, UUID(upload_id))


@task("documents.reconcile", queue=Queue.LOW, durable=False)
async def reconcile(resources: Resources) -> None:
    """Mend what a crash left. What needs only the database comes first, for the store may be away."""
    await sweep.fail_abandoned(resources)
    await sweep.remove_expired(resources)
    await sweep.empty_quarantine(resources)
    await sweep.compare(resources)


@task("documents.forget_answers", queue=Queue.LOW, durable=False)
async def forget_answers(resources: Resources) -> None:
    """Delete answers, and what was thought of them, when they are old."""
    await answering.forget_old(resources)


@task("documents.reembed", queue=Queue.LOW, max_attempts=20, limit=LIMIT)
async def reembed(resources: Resources, slot: int) -> None:
    """Go on with the vectors of a model."""
    await reembedding.advance(resources, slot)


@task("documents.remove_model", queue=Queue.LOW, durable=False)
async def remove_model(resources: Resources) -> None:
    """Delete the vectors of a model that is no longer searched."""
    await reembedding.remove_leaving(resources)


SCHEDULE = {
    "documents.reconcile": Periodic(reconcile, timedelta(hours=1)),
    "documents.forget_answers": Periodic(forget_answers, timedelta(days=1)),
    "documents.remove_model": Periodic(remove_model, timedelta(minutes=5)),
}
