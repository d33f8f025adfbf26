"""Which rows of documents name objects, for the check after a restore."""

from app.core.storage import NamedObjects

# A failed one may be failed because its file is lost.
OBJECTS = (NamedObjects("documents", "SELECT 'documents/' || id FROM documents WHERE status <> 'failed'"),)
