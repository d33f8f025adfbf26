"""What the owner of a document is told at once, when connected (docs/realtime.md)."""

from typing import Any
from uuid import UUID

from app.core.resources import Resources
from app.features.documents.models import Status


async def tell(resources: Resources, owner_id: UUID, document_id: UUID, status: Status, **facts: Any) -> None:
    """Say that a document has come to a status. Call it after the commit; a run that is repeated tells it again."""
    await resources.events.publish(owner_id, f"document.{status.value}", {"id": str(document_id), **facts})
