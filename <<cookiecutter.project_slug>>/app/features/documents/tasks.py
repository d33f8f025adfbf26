"""Background work of documents. Each task calls its service; arguments are ids."""

from datetime import timedelta
from uuid import UUID

from app.core.resources import Resources
from app.core.tasks import Periodic, Queue, task
from app.features.documents import service


async def give_up(resources: Resources, document_id: str) -> None:
    """The last attempt to process a document has failed: tell its owner instead of leaving it at work for ever."""
    await service.fail(
        resources, UUID(document_id), "The file could not be processed. Upload it again to have another try."
    )


# The longest document makes 20,000 passages; a minute is usual for one of a thousand pages.
@task("documents.process", queue=Queue.MEDIUM, max_attempts=5, limit=timedelta(minutes=25), on_dead=give_up)
async def process(resources: Resources, document_id: str) -> None:
    """Make a document searchable."""
    await service.process(resources, UUID(document_id))


@task("documents.remove_object", queue=Queue.LOW, max_attempts=20)
async def remove_object(resources: Resources, document_id: str) -> None:
    """Delete the file of a deleted document."""
    await service.remove_object(resources, UUID(document_id))


@task("documents.remove_orphans", queue=Queue.LOW, durable=False)
async def remove_orphans(resources: Resources) -> None:
    """Delete files that a crash left without a document."""
    await service.remove_orphans(resources)


SCHEDULE = {"documents.remove_orphans": Periodic(remove_orphans, timedelta(hours=1))}
