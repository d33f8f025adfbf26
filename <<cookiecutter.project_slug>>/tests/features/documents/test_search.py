"""Search: the right passage first, only one's own, by the right plan, whatever is typed."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.features.documents.conftest import URL, Upload
from tests.features.documents.samples import pdf

if TYPE_CHECKING:
    from app.core.resources import Resources
    from app.core.security import Principal

HANDBOOK = """# Handbook

Welcome to the company.

## Leave

### Parents

Parents may take thirty days of paid parental leave in the year after a birth.

### Sickness

Call your manager on the first day of an illness. A certificate is needed from the fourth day on.

## Expenses

Hotel bills are refunded up to 120 euros a night. Keep every receipt.
"""
RUNBOOK = """<html><body><h1>Runbook</h1><h2>Database</h2><p>To restore the database run the restore script and
check the row counts.</p><h2>Certificates</h2><p>The TLS certificate is renewed every sixty days by a timer.</p></body></html>"""
RECIPE = ["Peel the oranges and slice them thinly.", "Boil the marmalade until it sets at 104 degrees."]


async def ask(client: httpx.AsyncClient, headers: dict[str, str], query: str, limit: int = 5) -> list[dict[str, Any]]:
    """The results of a search."""
    answer = await client.post(f"{URL}/search", json={"query": query, "limit": limit}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["complete"] is True
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


@pytest.fixture
async def library(ready: Upload) -> dict[str, str]:
    """Three documents of three kinds: title → id."""
    documents = [
        await ready(HANDBOOK.encode(), "Handbook.md"),
        await ready(RUNBOOK.encode(), "Runbook.html"),
        await ready(pdf(RECIPE, bookmarks=["Fruit", "Boiling"]), "Marmalade.pdf"),
    ]
    return {document["title"]: document["id"] for document in documents}


@pytest.mark.parametrize(
    ("query", "title", "words", "heading", "page"),
    [
        ("how many days of parental leave", "Handbook", "thirty days", "Handbook > Leave > Parents", None),
        ("sick note certificate fourth day", "Handbook", "fourth day", "Handbook > Leave > Sickness", None),
        ("hotel receipt", "Handbook", "120 euros", "Handbook > Expenses", None),
        ("restore database", "Runbook", "restore script", "Runbook > Database", None),
        ("TLS certificate renewal", "Runbook", "sixty days", "Runbook > Certificates", None),
        ("boiling marmalade", "Marmalade", "104 degrees", "Boiling", 2),
        ("orange slices", "Marmalade", "Peel the oranges", "Fruit", 1),
    ],
)
async def test_the_right_passage_comes_first_with_its_source(
    client: httpx.AsyncClient,
    auth_headers: dict[str, str],
    library: dict[str, str],
    query: str,
    title: str,
    words: str,
    heading: str,
    page: int | None,
) -> None:
    """Among several documents the best passage is first, and says where it stands."""
    best = (await ask(client, auth_headers, query))[0]
    assert words in best["passage"]
    assert best | {"passage": "", "score": 0, "similarity": 0, "found_by": []} == {
        "document_id": library[title],
        "title": title,
        "passage": "",
        "page": page,
        "heading": heading,
        "score": 0,
        "similarity": 0,
        "found_by": [],
    }


async def test_what_both_parts_find_ranks_before_what_one_finds(
    client: httpx.AsyncClient, auth_headers: dict[str, str], library: dict[str, str]
) -> None:
    """The scores fall, the first is close to 1 when both parts have it first, and none found by one part exceeds a half."""
    results = await ask(client, auth_headers, "restore database")
    scores = [result["score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert results[0]["found_by"] == ["vector", "text"]
    assert results[0]["score"] == 1.0
    assert all(result["score"] <= 0.5 for result in results if len(result["found_by"]) == 1)


async def test_vectors_find_what_words_do_not(
    client: httpx.AsyncClient, auth_headers: dict[str, str], library: dict[str, str]
) -> None:
    """A typing error and another form of a word match no word, and are still found."""
    best = (await ask(client, auth_headers, "marmelade boilng"))[0]
    assert "Boil the marmalade" in best["passage"]
    assert best["found_by"] == ["vector"]


async def test_words_find_without_vectors(
    client: httpx.AsyncClient, library: dict[str, str], resources: "Resources", principal: "Principal"
) -> None:
    """With the provider away the search goes on with words alone, and says that it was not whole."""
    from app.core.ai import OfflineEmbedder, OpenAIEmbedder
    from app.features.documents.service.finding import find

    embedder = OpenAIEmbedder(
        api_key="", base_url="http://127.0.0.1:9/v1", model=OfflineEmbedder.model, timeout_seconds=1, max_retries=0
    )
    found = await find(replace(resources, embedder=embedder), principal.id, "parental leave", 5)
    await embedder.close()
    assert not found.complete
    assert {part for hit in found.hits for part in hit.found_by} == {"text"}
    assert "thirty days" in found.hits[0].passage


async def test_a_hanging_provider_does_not_hold_the_search(
    library: dict[str, str], resources: "Resources", principal: "Principal"
) -> None:
    """After DOCUMENTS_SEARCH_SECONDS words alone decide."""
    from app.core.ai import OfflineEmbedder, OpenAIEmbedder
    from app.features.documents.service.finding import find
    from app.features.documents.settings import DocumentsSettings

    hung = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hung.wait()
        writer.close()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    embedder = OpenAIEmbedder(api_key="", base_url=f"http://127.0.0.1:{port}/v1", model=OfflineEmbedder.model)
    impatient = {DocumentsSettings: DocumentsSettings(search_seconds=0.3)}
    settings = resources.settings.model_copy(update={"features": impatient})
    try:
        async with asyncio.timeout(10):
            found = await find(
                replace(resources, embedder=embedder, settings=settings), principal.id, "parental leave", 5
            )
    finally:
        hung.set()
        await embedder.close()
        server.close()
        await server.wait_closed()
    assert not found.complete
    assert "thirty days" in found.hits[0].passage


async def test_phrases_and_exclusions_are_understood(
    client: httpx.AsyncClient, auth_headers: dict[str, str], library: dict[str, str], resources: "Resources"
) -> None:
    """Words are alternatives, until somebody quotes a phrase or leaves a word out: then all must be there.

    The statistics, which autovacuum may take at any time, make no stop words of the words of so few passages.
    """
    from sqlalchemy import text

    async with resources.db.transaction() as session:
        await session.execute(text("ANALYZE document_passages"))

    async def found_by_text(query: str) -> set[str]:
        return {r["title"] for r in await ask(client, auth_headers, query, 50) if "text" in r["found_by"]}

    assert await found_by_text("certificate") == {"Handbook", "Runbook"}
    assert await found_by_text("hotel marmalade") == {"Handbook", "Marmalade"}
    assert await found_by_text("certificate -TLS") == {"Handbook"}
    assert await found_by_text('"TLS certificate"') == {"Runbook"}
    assert await found_by_text('"certificate TLS"') == set()
    assert await found_by_text('"TLS certificate" marmalade') == set()
    assert await found_by_text("well-known certificate") == {"Handbook", "Runbook"}


async def test_a_rare_word_counts_more_than_frequent_ones(
    ready: Upload, resources: "Resources", principal: "Principal"
) -> None:
    """Of a question's words, the one that few passages hold decides, against three that all the others hold."""
    from app.features.documents.landscape import landscape
    from app.features.documents.search import search

    parts = [f"# Part {n}\nThe pump of the harbour is tested by the crew." for n in range(12)]
    await ready("\n".join([*parts, "# Last\nErrors of kind KX-4711 come from a valve."]).encode())
    hits = await search(
        resources.db,
        await landscape(resources.db),
        owner_id=principal.id,
        query="when is the pump of the harbour crew showing KX-4711",
        vector=None,
        language="simple",
        limit=50,
    )
    assert hits[0].heading == "Last"
    assert len(hits) == 13
    assert hits[0].coverage > hits[1].coverage


async def test_words_of_every_passage_are_learnt_stop_words(
    client: httpx.AsyncClient, auth_headers: dict[str, str], ready: Upload, resources: "Resources"
) -> None:
    """What PostgreSQL counts in more than a tenth of the passages is left out of a question that has other words."""
    from sqlalchemy import text

    from app.features.documents.landscape import forget, landscape

    parts = [f"# Part {n}\nThe number of dock {n} is w{n}." for n in range(30)]
    await ready("\n".join(parts).encode())
    try:
        async with resources.db.read() as session:
            await session.execute(text("ANALYZE document_passages"))
        forget(resources.db)
        known = await landscape(resources.db)
        assert {"the", "of", "dock"} <= set(known.common)
        assert "w7" not in known.common
        results = await ask(client, auth_headers, "the number of w7", 50)
        assert [result["heading"] for result in results if "text" in result["found_by"]] == ["Part 7"]
        every = await ask(client, auth_headers, "the number of", 50)
        assert sum("text" in result["found_by"] for result in every) == 30
    finally:
        async with resources.db.transaction() as session:
            await session.execute(text("TRUNCATE documents CASCADE"))
        async with resources.db.read() as session:
            await session.execute(text("VACUUM ANALYZE document_passages, document_embeddings"))


async def test_no_result_falls_below_the_score_asked_for(
    client: httpx.AsyncClient, auth_headers: dict[str, str], library: dict[str, str]
) -> None:
    """`min_score` cuts the list where it stands, and the order of what is left is the same every time."""
    body = {"query": "restore database certificate", "limit": 50}
    whole = (await client.post(f"{URL}/search", json=body, headers=auth_headers)).json()["results"]
    bar = whole[1]["score"]
    cut = (await client.post(f"{URL}/search", json={**body, "min_score": bar}, headers=auth_headers)).json()["results"]
    assert cut == [result for result in whole if result["score"] >= bar]
    assert 0 < len(cut) < len(whole)


async def test_a_question_is_embedded_once_a_day(
    library: dict[str, str], resources: "Resources", principal: "Principal"
) -> None:
    """The vector of a question comes from the cache when it was asked before, whoever asked."""
    from collections.abc import Sequence

    from app.core.ai import OfflineEmbedder, lexical_vector
    from app.features.documents.service.finding import find

    class Counting:
        """An embedder as a provider's would be: worth a look into the cache."""

        model = OfflineEmbedder.model

        def __init__(self) -> None:
            self.asked: list[str] = []

        async def embed(self, texts: Sequence[str]) -> list[list[float]]:
            self.asked += texts
            return [lexical_vector(text) for text in texts]

        async def close(self) -> None:
            """Nothing is held."""

    embedder = Counting()
    counted = replace(resources, embedder=embedder)
    first = await find(counted, principal.id, "parental leave", 5)
    again = await find(counted, uuid4(), "parental leave", 5)
    once_more = await find(counted, principal.id, "parental leave", 5)
    assert embedder.asked == ["parental leave"]
    assert first.hits == once_more.hits
    assert again.hits == []


async def test_a_heading_counts_more_than_the_text(
    client: httpx.AsyncClient, auth_headers: dict[str, str], ready: Upload
) -> None:
    """A passage under a heading that names the subject beats one that mentions it."""
    await ready(b"# Zebras\nAnimals with stripes.\n# Horses\nUnlike zebras they have none.")
    results = await ask(client, auth_headers, "zebras")
    assert results[0]["heading"] == "Zebras"


async def test_each_owner_finds_only_their_own(
    client: httpx.AsyncClient,
    ready: Upload,
    auth_headers: dict[str, str],
    headers_for: "Callable[[Principal], dict[str, str]]",
) -> None:
    """The same words in two people's documents: each finds one, whatever is typed in the place of an id."""
    from app.core.security import Principal

    other = headers_for(Principal(uuid4(), frozenset()))
    mine = await ready(b"The launch code is on my desk.")
    theirs = await ready(b"The launch code is in their safe.", headers=other)
    for headers, document in ((auth_headers, mine), (other, theirs)):
        for query in ("launch code", "' OR owner_id IS NOT NULL --", theirs["id"]):
            found = {result["document_id"] for result in await ask(client, headers, query, 50)}
            assert found <= {document["id"]}
        assert (await ask(client, headers, "launch code"))[0]["document_id"] == document["id"]


TYPED = (
    "'; DROP TABLE documents; --",
    "' OR '1'='1",
    "\\",
    "%_%",
    ":vector :owner $1 %(x)s {0}",
    "&|!()<->:*",
    "a & | b",
    "((((((((((",
    '"""""',
    '"unclosed phrase',
    "-",
    "- - -",
    "-only -negations",
    "or or or",
    "a:* & b:A",
    "nul\x00in the middle",
    "\x01\x02 control \x1b[31m",
    "\u202eesrever",
    "🙂🙃",
    "ﬁ ﬂ ﬀ",
    "x" * 1000,
    "x " * 500,
    "é" * 1000,
    "[0.1,0.2]",
    "NaN",
    "null",
    "\ufeff x",
    "../../etc/passwd",
    "<script>alert(1)</script>",
)


async def test_nothing_that_is_typed_is_an_error(
    client: httpx.AsyncClient, auth_headers: dict[str, str], library: dict[str, str]
) -> None:
    """Every query within the length limit gets an answer, and changes nothing."""
    for query in TYPED:
        await ask(client, auth_headers, query)
    assert len((await client.get(URL, headers=auth_headers)).json()["items"]) == 3


async def test_hostile_content_is_found_as_it_is(
    client: httpx.AsyncClient, auth_headers: dict[str, str], ready: Upload
) -> None:
    """Text that looks like SQL, markup or a template is text."""
    text = "Robert'); DROP TABLE documents;-- {{7*7}} ${env} %(x)s <b>bold</b> \\x00 'quoted'"
    await ready(f"Plain text.\n{text}".encode())
    assert text in (await ask(client, auth_headers, "robert drop table"))[0]["passage"]


async def test_the_limit_is_kept_and_an_empty_library_is_no_error(
    client: httpx.AsyncClient, auth_headers: dict[str, str], ready: Upload
) -> None:
    """At most as many as asked for; nothing uploaded, nothing found."""
    assert await ask(client, auth_headers, "anything") == []
    await ready(b"\n".join(b"# Part %d\nThe word apple again." % n for n in range(60)))
    assert len(await ask(client, auth_headers, "apple", 3)) == 3
    assert len(await ask(client, auth_headers, "apple", 50)) == 50


async def test_postgresql_knows_every_language_that_can_be_set(resources: "Resources") -> None:
    """A language that starts the service can also be searched in."""
    from typing import get_args

    from sqlalchemy import text

    from app.features.documents.settings import Language

    async with resources.db.read() as session:
        known = set(await session.scalars(text("SELECT CAST(cfgname AS text) FROM pg_ts_config")))
    assert set(get_args(Language)) == known


async def test_another_language_knows_its_word_forms(
    resources: "Resources", upload: Upload, principal: "Principal"
) -> None:
    """With DOCUMENTS_LANGUAGE=english words find "renewed" for "renewing", which simple does not."""
    from app.features.documents.landscape import landscape
    from app.features.documents.search import search
    from app.features.documents.service.processing import process
    from app.features.documents.settings import DocumentsSettings

    async def found(language: str) -> int:
        hits = await search(
            resources.db,
            await landscape(resources.db),
            owner_id=principal.id,
            query="renewing",
            vector=None,
            language=language,
            limit=5,
        )
        return len(hits)

    english = {DocumentsSettings: DocumentsSettings(language="english")}
    document = await upload(b"Certificates have been renewed by timers.")
    await process(
        replace(resources, settings=resources.settings.model_copy(update={"features": english})), UUID(document["id"])
    )
    assert (await found("english"), await found("simple")) == (1, 0)


# The plan

SHARES = {"large": 1200, "medium": 300, "small": 100}


def near_one_of_a_few(dice: random.Random) -> Any:
    """A vector as texts have them: near others on the same subject. Without subjects no index finds anything."""
    from pgvector import HalfVector

    from app.core.ai import DIMENSIONS

    subject = random.Random(dice.randrange(20))
    return HalfVector([subject.gauss(0, 1) + dice.gauss(0, 0.5) for _ in range(DIMENSIONS)])


@pytest.fixture
async def crowd(resources: "Resources") -> "AsyncIterator[dict[str, UUID]]":
    """Three owners of very different size with sixteen hundred passages: name → id."""
    from sqlalchemy import insert, text

    from app.core.db import new_id
    from app.features.documents.models import (
        Document,
        DocumentEmbedding,
        DocumentPassage,
        EmbeddingModel,
        ModelState,
    )

    dice = random.Random(7)
    owners = {name: uuid4() for name in SHARES}
    documents = {name: new_id() for name in owners}
    order = [name for name, count in SHARES.items() for _ in range(count)]
    dice.shuffle(order)
    async with resources.db.transaction() as session:
        for name, owner in owners.items():
            session.add(
                Document(
                    id=documents[name],
                    owner_id=owner,
                    title=name,
                    file_name=name,
                    media_type="text/plain",
                    size=1,
                    sha256=name,
                )
            )
        session.add(EmbeddingModel(slot=0, name="test", state=ModelState.ACTIVE))
        await session.flush()
        for start in range(0, len(order), 200):
            rows = [
                {
                    "document_id": documents[name],
                    "position": position,
                    "owner_id": owners[name],
                    "text": f"passage {position}",
                    "language": "simple",
                }
                for position, name in enumerate(order[start : start + 200], start)
            ]
            await session.execute(insert(DocumentPassage), rows)
            vectors = [
                {name: row[name] for name in ("document_id", "position", "owner_id")}
                | {"slot": 0, "embedding": near_one_of_a_few(dice)}
                for row in rows
            ]
            await session.execute(insert(DocumentEmbedding), vectors)
    async with resources.db.read() as session:
        await session.execute(text("ANALYZE document_passages, document_embeddings"))
    yield owners
    # The statistics of a table that is emptied now would mislead whoever looks at plans next.
    async with resources.db.transaction() as session:
        await session.execute(text("TRUNCATE documents CASCADE"))
    async with resources.db.read() as session:
        await session.execute(text("VACUUM ANALYZE document_passages, document_embeddings"))


async def rows_of(
    resources: "Resources", plan: Any, owner: UUID | None, seed: int, *, explain: bool = False
) -> list[Any]:
    """Rows of a search by one plan, or the lines of its EXPLAIN."""
    from sqlalchemy import text

    from app.features.documents.landscape import landscape
    from app.features.documents.search import SCAN_SETTINGS, Plan, scan_values, statement

    known = await landscape(resources.db)
    parameters = {
        "query": "nothing",
        "strict": False,
        "common": "",
        "total": 100.0,
        "vector": near_one_of_a_few(random.Random(seed)).to_text(),
        "language": "simple",
        "limit": 10,
        "min_score": 0.0,
    }
    if owner:
        parameters["owner"] = owner
    sql = statement(plan, known.slot, owner)
    async with resources.db.transaction() as session:
        if plan is Plan.INDEX:
            await session.execute(SCAN_SETTINGS, scan_values(known, owner))
        return list(await session.execute(text(f"EXPLAIN {sql.text}") if explain else sql, parameters))


async def test_statistics_tell_who_holds_how_much(resources: "Resources", crowd: dict[str, UUID]) -> None:
    """What PostgreSQL estimates of an owner's passages is near the truth, and an unknown owner has few."""
    from app.features.documents.landscape import landscape

    known = await landscape(resources.db)
    assert (known.model, known.slot) == ("test", 0)
    assert known.passages_of(None) == pytest.approx(1600, rel=0.1)
    for name, count in SHARES.items():
        assert known.passages_of(crowd[name]) == pytest.approx(count, rel=0.3)
    assert known.passages_of(uuid4()) == 0


@pytest.mark.parametrize(
    ("passages", "share", "plan"),
    [
        (100_000, 0.01, "exact"),
        (100_000, 0.10, "exact"),
        (100_000, 0.30, "index"),
        (10_000_000, 0.002, "exact"),
        (10_000_000, 0.10, "index"),
        (1500, 1.0, "exact"),
        (100_000, 0.0, "exact"),
    ],
)
def test_the_plan_follows_the_owners_share(passages: int, share: float, plan: str) -> None:
    """Few passages are sorted, many are found by the index, and where that changes follows from the size of the table."""
    from app.features.documents.landscape import Landscape
    from app.features.documents.search import choose_plan

    owner = uuid4()
    known = Landscape("m", 0, passages, {owner: share}, 0.0, [])
    assert choose_plan(known, owner) == plan
    assert choose_plan(known, None) == "index"


async def test_postgresql_obeys_the_plan(resources: "Resources", crowd: dict[str, UUID]) -> None:
    """EXPLAIN shows the b-tree under one plan and the HNSW index under the other, for an owner of any size."""
    from app.features.documents.search import Plan

    for owner in crowd.values():
        by_index = str(await rows_of(resources, Plan.INDEX, owner, 1, explain=True))
        exactly = str(await rows_of(resources, Plan.EXACT, owner, 1, explain=True))
        assert "Index Scan using ix_document_embeddings_slot_0" in by_index
        assert "ix_document_embeddings_slot_0" not in exactly
    assert "ix_document_embeddings_owner_id_slot" in str(
        await rows_of(resources, Plan.EXACT, crowd["small"], 1, explain=True)
    )
    assert "Index Scan using ix_document_embeddings_slot_0" in str(
        await rows_of(resources, Plan.INDEX, None, 1, explain=True)
    )


async def test_both_plans_find_the_same(resources: "Resources", crowd: dict[str, UUID]) -> None:
    """The index finds 95 of 100 of what exact sorting finds, also for an owner of a sixteenth of the rows and for
    everybody; and the settings of its scan end with its transaction."""
    from sqlalchemy import text

    from app.features.documents.search import Plan

    for owner in (*crowd.values(), None):
        common = 0
        for seed in range(10):
            exact = {(row.document_id, row.position) for row in await rows_of(resources, Plan.EXACT, owner, seed)}
            near = {(row.document_id, row.position) for row in await rows_of(resources, Plan.INDEX, owner, seed)}
            assert len(exact) == len(near) == 10
            common += len(exact & near)
        assert common >= 95
    async with resources.db.read() as session:
        for setting, value in (("enable_sort", "on"), ("plan_cache_mode", "auto"), ("hnsw.iterative_scan", "off")):
            assert (await session.execute(text("SELECT current_setting(:name)"), {"name": setting})).scalar() == value


async def test_the_whole_search_by_the_index(resources: "Resources", crowd: dict[str, UUID]) -> None:
    """Best first, both parts of it, nobody else's; and a scan that gave up too early is done again exactly."""
    from app.features.documents import search
    from app.features.documents.landscape import landscape

    known = await landscape(resources.db)

    async def found(owner: UUID | None, passages: float, shares: dict[UUID, float]) -> list[search.Hit]:
        supposed = replace(known, passages=passages, shares=shares)
        vector = near_one_of_a_few(random.Random(3)).to_list()
        return await search.search(
            resources.db, supposed, owner_id=owner, query="passage", vector=vector, language="simple", limit=20
        )

    large, small = crowd["large"], crowd["small"]
    hits = await found(large, 10_000_000, {large: 0.5})
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert {part for hit in hits for part in hit.found_by} == {search.Part.VECTOR, search.Part.TEXT}
    assert {hit.title for hit in hits} == {"large"}
    assert {hit.title for hit in await found(None, 10_000_000, {})} > {"large"}
    # Supposed to own half, this owner of a sixteenth and of a hundred passages is searched by the index, whatever it costs.
    assert {hit.title for hit in await found(small, 10_000_000, {small: 0.5})} == {"small"}
    nobody = uuid4()
    assert await found(nobody, 10_000_000, {nobody: 0.5}) == []


async def test_everywhere_is_for_staff_and_on_record(
    client: httpx.AsyncClient,
    ready: Upload,
    headers_for: "Callable[[Principal], dict[str, str]]",
    resources: "Resources",
) -> None:
    """Staff find everybody's passages, which leaves a trail that does not say what they looked for; others may not."""
    from sqlalchemy import select

    from app.core.audit import AuditEntry
    from app.core.security import Principal, Role

    people = [Principal(uuid4(), frozenset()) for _ in range(2)]
    documents = {(await ready(b"The zebra crossing.", headers=headers_for(person)))["id"] for person in people}
    staff = Principal(uuid4(), frozenset({Role.STAFF}))
    body = {"query": "zebra"}
    answer = await client.post(f"{URL}/search/everywhere", json=body, headers=headers_for(staff))
    assert {result["document_id"] for result in answer.json()["results"]} == documents
    refused = await client.post(f"{URL}/search/everywhere", json=body, headers=headers_for(people[0]))
    assert refused.status_code == 403
    async with resources.db.read() as session:
        trail = (await session.scalars(select(AuditEntry).where(AuditEntry.actor == staff.id))).all()
    assert [entry.action for entry in trail] == ["documents.searched_everywhere"]
    assert "zebra" not in str(trail[0].details)
