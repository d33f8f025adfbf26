"""What Prometheus learns of documents."""

from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import func, select, text

from app.core.metrics import Sample
from app.core.resources import Resources
from app.features.documents.models import Document, Status

SWEPT = Counter(
    "documents_swept_total",
    "What the sweep mended: files without a document (orphan), documents without a file (lost), documents that nobody"
    " worked on (abandoned), uploads that were never completed (upload), and what it refused because it looked like the"
    " wrong bucket or database (refused).",
    ["what"],
)
# Counting all documents takes a fraction of a second when there are millions, and Prometheus asks every few seconds.
SAMPLE_SECONDS = 60


DOCUMENTS = Sample("documents", "Documents, by how far they have come.", "status")
PASSAGES = Sample("document_passages", "Passages that can be found, about.")


async def sample(registry: CollectorRegistry, resources: Resources) -> None:
    """Documents by status, and passages (as the planner estimates them)."""

    async def count() -> dict[str, float]:
        async with resources.db.read() as session:
            found = {
                status: float(number)
                for status, number in await session.execute(
                    select(Document.status, func.count()).group_by(Document.status)
                )
            }
            estimate = text(
                "SELECT greatest(reltuples, 0) FROM pg_class WHERE oid = CAST('document_passages' AS regclass)"
            )
            return found | {"passages": float((await session.execute(estimate)).scalar_one())}

    counted: dict[str, float] = await resources.cache.get_or_set("documents:metrics", count, SAMPLE_SECONDS)
    DOCUMENTS.put(registry, {status.value: counted.get(status, 0.0) for status in Status})
    PASSAGES.put(registry, {"": counted["passages"]})
