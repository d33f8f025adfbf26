"""What the admin page shows of documents: that they are there, and how far they have come; never what they say."""

from typing import TYPE_CHECKING

from app.features.documents.models import Document

if TYPE_CHECKING:
    from sqladmin import ModelView


def views() -> list[type["ModelView"]]:
    """Documents by owner and status, without name, digest and text."""
    from app.core.admin import read_only

    class DocumentView(read_only(), model=Document):  # type: ignore[misc, call-arg]  # made at run time
        name = "Document"
        name_plural = "Documents"
        column_list = (
            Document.id,
            Document.owner_id,
            Document.status,
            Document.passages,
            Document.error,
            Document.created_at,
        )
        column_details_list = column_list
        column_default_sort = (Document.created_at, True)

    return [DocumentView]
