"""Runs in the baked project with its Python: how well and how fast its search finds, on real PostgreSQL.

First the questions of `quality.py`, then a corpus of `corpus.py`: recall and speed of the product's own search beside an exact
scan and beside plain pgvector as its documentation shows it, each asked the same in turn. Writes JSON.
"""

import argparse
import asyncio
import http.client
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import load  # puts the project on the path
from corpus import SHARES, Corpus
from corpus import load as load_corpus
from corpus import queries as make_queries
from devstack import Stack
from devstack.ports import LOOPBACK, random_free
from quality import SETS, by_kind, marks, passages, questions
from statement import product_statement

DEPTH = 10
ROUTE_QUESTIONS = 40
NO_WORD = "-"  # a question without a word: the vectors alone decide
EXACT = "(embedding <=> CAST($1 AS halfvec)) + 0"
PLAIN = "embedding <=> CAST($1 AS halfvec)"
Rows = Sequence[tuple[UUID, int]]
Way = Callable[[str], Awaitable[Rows]]


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        parts = ("postgres", "cache", "broker", "storage")
        with Stack(Path(name) / "stack", parts, load.TOKEN) as stack:
            os.environ.update({key: str(value) for key, value in stack.env.items()})
            stack.run("-m", "app.cli", "migrate")
            found: dict[str, Any] = {"quality": {asked: asyncio.run(quality(asked)) for asked in SETS}}
            found |= asyncio.run(at_scale(options.passages, options.queries))
            found["route"] = route(stack)
    print(json.dumps(found))


def say(line: str) -> None:
    """What happens, on stderr."""
    print(line, file=sys.stderr, flush=True)


# How well


async def quality(name: str) -> dict[str, Any]:
    """On one set of questions: marks of words alone, of vectors alone and of both, with `simple` and with the set's language."""
    from app.core.db import Database
    from app.core.settings import load_settings
    from app.features import settings_of_features
    from app.features.documents import landscape, search

    settings = load_settings(settings_of_features())
    db = Database(settings.database, nothing)
    connection = await asyncpg.connect(settings.database.dsn())
    names, asked = list(passages()), questions(name)
    found: dict[str, Any] = {"passages": len(names), "questions": len(asked)}
    for language in ("simple", "english"):
        owner = await fill(connection, language)
        landscape.forget(db)
        known = await landscape.landscape(db)
        rankings: dict[str, list[Any]] = {"words": [], "vectors": [], "both": []}
        for question in asked:
            vector = await embedded(question.text)
            for part, given in (("words", None), ("both", vector)):
                hits = await search.search(
                    db, known, owner_id=owner, query=question.text, vector=given, language=language, limit=DEPTH
                )
                rankings[part].append((question, [names[hit.position] for hit in hits]))
            hits = await search.search(
                db, known, owner_id=owner, query=NO_WORD, vector=vector, language=language, limit=DEPTH
            )
            rankings["vectors"].append((question, [names[hit.position] for hit in hits]))
        found[language] = {
            part: {"all": vars(marks(entries)), **{kind: vars(value) for kind, value in by_kind(entries).items()}}
            for part, entries in rankings.items()
        }
        await connection.execute("TRUNCATE documents, embedding_models CASCADE")
    await connection.close()
    await db.close()
    return found


async def fill(connection: asyncpg.Connection, language: str) -> UUID:
    """Store the passages of the questions as one document; returns its owner."""
    owner, document = uuid4(), uuid4()
    await connection.execute(
        "INSERT INTO embedding_models (slot, name, state) VALUES (0, 'offline-lexical-1', 'active')"
    )
    await connection.execute(
        "INSERT INTO documents (id, owner_id, title, file_name, media_type, size, sha256, status, passages)"
        " VALUES ($1, $2, 'Handbook', 'handbook.md', 'text/markdown', 1, 'x', 'ready', 0)",
        document,
        owner,
    )
    for position, (heading, text) in enumerate(passages().values()):
        await connection.execute(
            "INSERT INTO document_passages (document_id, position, owner_id, heading, text, language)"
            " VALUES ($1, $2, $3, $4, $5, CAST(CAST($6 AS text) AS regconfig))",
            *(document, position, owner, heading, text, language),
        )
        await connection.execute(
            "INSERT INTO document_embeddings (document_id, position, slot, owner_id, embedding)"
            " VALUES ($1, $2, 0, $3, CAST(CAST($4 AS text) AS halfvec))",
            *(document, position, owner, halfvec(await embedded(f"{heading}\n{text}"))),
        )
    await connection.execute("ANALYZE document_passages")
    return owner


async def embedded(text: str) -> list[float]:
    """The vector of a text by the provider that needs no network."""
    from app.core.ai import OfflineEmbedder

    return (await OfflineEmbedder().embed([text]))[0]


def halfvec(vector: Sequence[float]) -> str:
    """As PostgreSQL reads it."""
    return "[" + ",".join(f"{value:.5g}" for value in vector) + "]"


# How fast


async def at_scale(count: int, asked: int) -> dict[str, Any]:
    """Recall and time over everything and within owners of two sizes."""
    from app.core.db import Database
    from app.core.settings import load_settings
    from app.features import settings_of_features
    from app.features.documents import landscape
    from app.features.documents.search import choose_plan, search

    settings = load_settings(settings_of_features())
    connection = await asyncpg.connect(settings.database.dsn())
    corpus = Corpus(count)
    seconds = await load_corpus(connection, corpus)
    say(f"loaded {count:,} passages: " + ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))
    await connection.execute("RESET maintenance_work_mem")
    db = Database(settings.database, nothing)
    known = await landscape.landscape(db)
    vectors = await make_queries(connection, asked, seed=99)
    size = await connection.fetchval("SELECT pg_relation_size('ix_document_embeddings_slot_0')")
    found: dict[str, Any] = {"passages": count, "load": seconds, "index_bytes": size, "scopes": {}}
    for name in ("everything", *SHARES):
        owner = None if name == "everything" else Corpus.owner(name)

        async def product(vector: str, words: str = NO_WORD, owner: UUID | None = owner) -> Rows:
            numbers = json.loads(vector)
            hits = await search(db, known, owner_id=owner, query=words, vector=numbers, language="simple", limit=DEPTH)
            return [(hit.document_id, hit.position) for hit in hits]

        async def whole(vector: str) -> Rows:
            return await product(vector, three_words(corpus, vector))

        ways: dict[str, Way] = {
            "exact": sql(connection, EXACT, owner),
            "plain": sql(connection, PLAIN, owner),
            "product": product,
            "product with words": whole,
        }
        found["scopes"][name] = await compared(ways, vectors) | {"plan": choose_plan(known, owner)}
        say(f"{name}: {json.dumps(found['scopes'][name])}")
    await db.close()
    await connection.close()
    return found


def three_words(corpus: Corpus, vector: str) -> str:
    """A question's words: one that is frequent, one in between, a rare one."""
    number = len(vector) * 7 + int(vector[3:6].replace(".", "").replace(",", "") or 0)
    return " ".join(corpus.vocabulary[start + number % width] for start, width in ((40, 60), (400, 600), (4000, 9000)))


def sql(connection: asyncpg.Connection, order: str, owner: UUID | None) -> Way:
    """Plain SQL for the ten nearest: the planner decides."""
    scope = "AND owner_id = $2" if owner else ""
    statement = (
        f"SELECT document_id, position FROM document_embeddings WHERE slot = 0 {scope} ORDER BY {order} LIMIT {DEPTH}"
    )

    async def ask(vector: str) -> Rows:
        rows = await connection.fetch(statement, vector, *([owner] if owner else []))
        return [(row[0], row[1]) for row in rows]

    return ask


async def compared(ways: Mapping[str, Way], vectors: Sequence[str]) -> dict[str, Any]:
    """Every way asked every question in turn; exact is the truth for the others' recall."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    recall: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():  # plans and caches are warm
        for vector in vectors[:3]:
            await way(vector)
    for vector in vectors:
        truth: set[tuple[UUID, int]] = set()
        for name, way in ways.items():
            began = time.perf_counter()
            rows = await way(vector)
            times[name].append(time.perf_counter() - began)
            truth = truth or set(rows)
            recall[name].append(len(truth & set(rows)) / len(truth))
    return {
        name: {
            "recall": mean(recall[name]),
            "p50": median(times[name]),
            "p95": sorted(times[name])[int(len(times[name]) * 0.95)],
            "per_second": len(times[name]) / sum(times[name]),
        }
        for name in ways
    }


# What the route adds


def route(stack: Stack) -> dict[str, Any]:
    """One client: a request for a search beside the statement that it runs, within an owner of 1 % of the rows."""
    from app.core.security import Principal, issue_token
    from app.core.settings import load_settings
    from app.features import settings_of_features

    owner = Corpus.owner("1 %")
    token, _ = issue_token(load_settings(settings_of_features()).auth, Principal(owner, frozenset()))
    port = random_free(set(stack.ports.values()))
    body = json.dumps({"query": "anything", "limit": DEPTH}).encode()
    first = load.http("POST", "/api/v1/documents/search", body, f"Authorization: Bearer {token}")
    command = ("app.cli", "serve", "--host", LOOPBACK, "--port", str(port))
    with load.server(port, first, {**stack.env, **load.PRODUCTION}, *command):
        return asyncio.run(beside_its_statement(port, token, owner))


async def beside_its_statement(port: int, token: str, owner: UUID) -> dict[str, Any]:
    """Medians in seconds of both, in turn."""
    from app.core.settings import load_settings
    from app.features import settings_of_features

    corpus = Corpus(0)
    connection = await asyncpg.connect(load_settings(settings_of_features()).database.dsn())
    client = http.client.HTTPConnection(LOOPBACK, port)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    times: dict[str, list[float]] = {"route": [], "statement": []}
    for step in range(ROUTE_QUESTIONS):
        question = " ".join(corpus.vocabulary[at + step] for at in (60, 600, 6000))
        statement, arguments = await product_statement(question, owner, DEPTH)
        prepared = await connection.prepare(statement)
        for _ in range(3):
            began = time.perf_counter()
            client.request("POST", "/api/v1/documents/search", json.dumps({"query": question, "limit": DEPTH}), headers)
            answer = client.getresponse()
            results = json.loads(answer.read())["results"]
            times["route"].append(time.perf_counter() - began)
            began = time.perf_counter()
            rows = await prepared.fetch(*arguments)
            times["statement"].append(time.perf_counter() - began)
            if [result["document_id"] for result in results] != [str(row["document_id"]) for row in rows]:
                raise SystemExit(f"the route and its statement found different things for {question!r}")
    await connection.close()
    return {name: median(values) for name, values in times.items()}


async def nothing(*_: object) -> None:
    """No task is sent."""


if __name__ == "__main__":
    main()
