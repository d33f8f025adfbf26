"""A new embedding model takes over while everybody goes on searching and uploading."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from app.core.ai import OfflineEmbedder
from tests.features.documents.conftest import Upload

if TYPE_CHECKING:
    from app.core.resources import Resources
    from app.core.security import Principal

LATER = timedelta(minutes=10)
TEXT = b"\n".join(b"# Part %d\nText of part %d about zebras." % (n, n) for n in range(4))


class Other(OfflineEmbedder):
    """Another model: the same vectors with all axes turned by one, so that the two cannot be compared."""

    model = "other"

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.before: Callable[[], Awaitable[Any]] | None = None

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """See `Embedder.embed`."""
        if self.before:
            before, self.before = self.before, None
            await before()
        self.texts += texts
        return [vector[1:] + vector[:1] for vector in await super().embed(texts)]


@pytest.fixture
def other() -> Other:
    """The new model."""
    return Other()


@pytest.fixture
def changing(resources: "Resources", other: Other) -> "Resources":
    """The resources of processes whose settings name the new model."""
    return replace(resources, embedder=other)


async def models(resources: "Resources") -> dict[str, str]:
    """Name → state."""
    from app.features.documents.service.reembedding import progress

    return {model.name: model.state for model in await progress(resources)}


async def vectors(resources: "Resources") -> dict[str, int]:
    """How many vectors each model has."""
    from sqlalchemy import text

    async with resources.db.read() as session:
        counted = "SELECT name, count(position) AS vectors FROM embedding_models LEFT JOIN document_embeddings USING (slot) GROUP BY 1"
        return {row.name: row.vectors for row in await session.execute(text(counted))}


async def found(resources: "Resources", principal: "Principal", query: str = "zebrass") -> set[tuple[str, ...]]:
    """Which parts of the search found what, for a word that only vectors find."""
    from app.features.documents.landscape import forget
    from app.features.documents.service.finding import find

    forget(resources.db)
    finding = await find(resources, principal.id, query, 50)
    assert finding.complete
    return {tuple(str(part) for part in hit.found_by) for hit in finding.hits}


async def work(resources: "Resources") -> None:
    """Run the tasks in the outbox until there are none."""
    from sqlalchemy import select

    from app.core.outbox import OutboxTask
    from app.core.tasks import execute
    from app.worker import tasks

    known = {task.name: task for task in tasks()}
    while True:
        async with resources.db.read() as session:
            rows = (await session.scalars(select(OutboxTask).order_by(OutboxTask.id))).all()
        if not rows:
            return
        for row in rows:
            assert await execute(resources, known[row.name], row.id, row.args) == "done"


async def test_a_new_model_takes_over_without_downtime(
    ready: Upload, upload: Upload, changing: "Resources", principal: "Principal", other: Other
) -> None:
    """The search goes on with the old model until everything has vectors of the new one; then all of it changes at once,
    the old vectors go, and their place is free for the next change."""
    from app.features.documents.service import processing, reembedding

    await ready(TEXT)
    assert await reembedding.begin(changing, "other") == "coming"
    assert await models(changing) == {"offline-lexical-1": "active", "other": "coming"}
    assert await found(changing, principal) == {("vector",)}
    assert other.texts == []  # asked by the old model

    document = await upload(b"Uploaded meanwhile, about zebras.")
    await processing.process(changing, UUID(document["id"]))
    await work(changing)
    assert await models(changing) == {"offline-lexical-1": "leaving", "other": "active"}
    assert await vectors(changing) == {"offline-lexical-1": 5, "other": 5}
    assert await found(changing, principal) == {("vector",)}

    await reembedding.remove_leaving(changing)  # a search may still be under way
    assert (await vectors(changing))["offline-lexical-1"] == 5
    await reembedding.remove_leaving(changing, now=datetime.now(UTC) + LATER)
    assert await vectors(changing) == {"other": 5}
    assert await found(changing, principal) == {("vector",)}

    assert await reembedding.begin(changing, "offline-lexical-1") == "coming"
    await work(changing)
    assert await models(changing) == {"offline-lexical-1": "active", "other": "leaving"}


async def test_what_is_embedded_stays_embedded_when_a_worker_dies(
    ready: Upload, changing: "Resources", other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run goes on behind the last batch that was kept: no text is paid for twice, and none left out."""
    from app.features.documents.service import processing, reembedding

    monkeypatch.setattr(processing, "EMBED_AT_ONCE", 2)
    for number in range(3):
        await ready(TEXT + b"\nDocument %d" % number)
    await reembedding.begin(changing, "other")
    batches = 0

    async def die_in_the_fourth() -> None:
        nonlocal batches
        batches += 1
        other.before = die_in_the_fourth
        if batches == 4:
            raise ConnectionError

    other.before = die_in_the_fourth
    with pytest.raises(ConnectionError):
        await reembedding.advance(changing, 1)
    assert (await vectors(changing))["other"] == len(other.texts) == 6
    assert await models(changing) == {"offline-lexical-1": "active", "other": "coming"}
    other.before = None
    await work(changing)
    assert len(other.texts) == 12
    assert await models(changing) == {"offline-lexical-1": "leaving", "other": "active"}


async def test_it_goes_by_short_tasks(ready: Upload, changing: "Resources", monkeypatch: pytest.MonkeyPatch) -> None:
    """A task whose time is over asks for another and lets others have their turn; so does a large document."""
    from sqlalchemy import func, select

    from app.core.outbox import OutboxTask
    from app.features.documents.service import processing, reembedding

    await ready(TEXT)
    await reembedding.begin(changing, "other")
    monkeypatch.setattr(processing, "SLICE_SECONDS", 0.0)
    await reembedding.advance(changing, 1)
    async with changing.db.read() as session:
        assert await session.scalar(select(func.count()).select_from(OutboxTask)) == 2
    assert (await vectors(changing))["other"] == 0
    monkeypatch.setattr(processing, "SLICE_SECONDS", 20.0)
    await work(changing)
    assert (await models(changing))["other"] == "active"


async def test_a_document_that_becomes_ready_meanwhile_has_both(
    upload: Upload, ready: Upload, changing: "Resources", other: Other
) -> None:
    """A change that begins while a document is being embedded is noticed before the document is called ready, also when
    it commits in the very moment."""
    from sqlalchemy import text

    from app.features.documents.embedding import wanted_models
    from app.features.documents.models import EmbeddingModel, ModelState
    from app.features.documents.service import processing, reembedding

    await ready(TEXT)
    document_id = UUID((await upload(b"Embedded while the change begins."))["id"])
    async with changing.db.transaction() as session:
        before = await wanted_models(session, default="nothing")
    async with changing.db.transaction() as beginning:
        await reembedding._locked(beginning)
        beginning.add(EmbeddingModel(slot=1, name="other", state=ModelState.COMING))
        await beginning.flush()
        finishing = asyncio.create_task(processing._finish(changing, document_id, before))
        waiting = text(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        async with changing.db.read() as session:
            while not await session.scalar(waiting):
                assert not finishing.done()
    assert await finishing is False
    await processing.process(changing, document_id)
    assert other.texts == ["Embedded while the change begins."]
    await reembedding.begin(changing, "other")
    await work(changing)
    assert await vectors(changing) == {"offline-lexical-1": 5, "other": 5}


async def test_there_is_room_for_two_models(ready: Upload, changing: "Resources") -> None:
    """A third is refused until the second is switched to or given up, and has left; the same one again goes on."""
    from app.features.documents.service import reembedding

    assert await reembedding.begin(changing, "other") is None  # nothing to embed: the settings decide
    assert await reembedding.cancel(changing) is None
    await ready(TEXT)
    await reembedding.begin(changing, "other")
    assert await reembedding.begin(changing, "other") == "coming"
    with pytest.raises(reembedding.ModelBusy, match="other is coming"):
        await reembedding.begin(changing, "third")
    assert await reembedding.cancel(changing) == "other"
    await work(changing)
    assert (await vectors(changing))["other"] == 0
    for name in ("other", "third"):
        with pytest.raises(reembedding.ModelBusy):
            await reembedding.begin(changing, name)
    await reembedding.remove_leaving(changing, now=datetime.now(UTC) + LATER)
    assert await reembedding.begin(changing, "other") == "coming"


async def test_gaps_of_the_active_model_are_filled(ready: Upload, resources: "Resources") -> None:
    """Asking for the model that is searched embeds what lacks its vectors, as after a migration or a restore."""
    from sqlalchemy import text

    from app.features.documents.service import reembedding

    await ready(TEXT)
    async with resources.db.transaction() as session:
        await session.execute(text("DELETE FROM document_embeddings"))
    assert await reembedding.begin(resources, resources.embedder.model) == "active"
    await work(resources)
    assert await vectors(resources) == {"offline-lexical-1": 4}
    assert await models(resources) == {"offline-lexical-1": "active"}


async def test_a_model_that_the_settings_do_not_name_is_asked_at_their_address(resources: "Resources") -> None:
    """Between the switch and the deploy that follows it, each question has a client of its own."""
    from app.core.ai import EmbeddingUnavailable
    from app.features.documents.embedding import embedder_of

    ai = resources.settings.ai.model_copy(update={"openai_base_url": "http://127.0.0.1:9/v1", "max_retries": 0})
    elsewhere = replace(resources, settings=resources.settings.model_copy(update={"ai": ai}))
    async with embedder_of(elsewhere, "text-embedding-of-tomorrow") as embedder:
        assert embedder.model == "text-embedding-of-tomorrow"
        with pytest.raises(EmbeddingUnavailable):
            await embedder.embed(["x"])
    async with embedder_of(elsewhere, resources.embedder.model) as embedder:
        assert embedder is resources.embedder


def test_the_commands_say_what_happens(migrated: object, settings: object) -> None:
    """Before there is anything to embed, in words; the settings' own model is the default."""
    from app.cli import cli

    runner = CliRunner()
    for arguments, said in (
        (["models"], "AI_EMBEDDING_MODEL is offline-lexical-1"),
        (["reembed"], "there is nothing to embed yet"),
        (["reembed", "--cancel"], "no model is coming"),
    ):
        result = runner.invoke(cli, ["documents", *arguments])
        assert (result.exit_code, said in result.output) == (0, True), result.output
