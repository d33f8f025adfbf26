"""The search of the baked project as PostgreSQL's own SQL: what is left when the service is taken away."""

import re
from typing import Any
from uuid import UUID


async def product_statement(query: str, owner: UUID, limit: int) -> tuple[str, list[Any]]:
    """The statement of a search by the exact plan, and its arguments in order, the limit last."""
    from app.core.ai import OfflineEmbedder
    from app.core.db import Database
    from app.core.settings import load_settings
    from app.features import settings_of_features
    from app.features.documents.landscape import landscape
    from app.features.documents.search import Plan, statement, values
    from app.features.documents.settings import DocumentsSettings
    from sqlalchemy.dialects.postgresql import asyncpg

    async def nothing(*_: object) -> None:
        """No task is sent."""

    settings = load_settings(settings_of_features())
    db = Database(settings.database, nothing)
    known = await landscape(db)
    await db.close()
    (vector,) = await OfflineEmbedder().embed([query])
    language = settings.of(DocumentsSettings).language
    given = values(known, owner_id=owner, query=query, vector=vector, language=language, limit=limit)
    compiled = statement(Plan.EXACT, known.slot, owner).compile(dialect=asyncpg.dialect())
    names = list(compiled.positiontup or ())
    order = [name for name in dict.fromkeys(names) if name != "limit"] + ["limit"]
    sql = re.sub(r"\$(\d+)", lambda match: f"${order.index(names[int(match[1]) - 1]) + 1}", compiled.string)
    return sql, [given[name] for name in order]
