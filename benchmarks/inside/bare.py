"""The plain application that the service is compared with: FastAPI, and for the search an asyncpg pool, nothing else.

Same models, same statement, same rows; no middleware, no session, no sign-in, no choice of plan, and the query's vector is
there already.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI, Request
from pydantic import BaseModel


class Alive(BaseModel):
    """What /health says."""

    status: str
    version: str


def health() -> FastAPI:
    """The health route alone."""
    app = FastAPI()
    version = os.environ["BARE_VERSION"]

    @app.get("/health")
    async def alive() -> Alive:
        return Alive(status="healthy", version=version)

    return app


def search() -> FastAPI:
    """The search route alone."""
    from app.features.documents.schemas import Found, SearchIn, SearchOut
    from app.features.documents.search import Part

    sql, arguments = json.loads(os.environ["BARE_SEARCH"])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=5, max_size=10) as pool:
            app.state.pool = pool
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/api/v1/documents/search")
    async def search(body: SearchIn, request: Request) -> SearchOut:
        rows = await request.app.state.pool.fetch(sql, *arguments, body.limit)
        return SearchOut(
            results=[
                Found(
                    document_id=row["document_id"],
                    title=row["title"],
                    passage=row["text"],
                    page=row["page"],
                    heading=row["heading"],
                    score=float(row["score"]),
                    similarity=None if row["distance"] is None else round(1 - row["distance"], 4),
                    found_by=[part for part in Part if row[f"{part.value}_rank"] is not None],
                )
                for row in rows
                if row["document_id"] is not None
            ],
            complete=True,
        )

    return app
