"""Lists by the page: every row on exactly one page, whatever happens in between; a cursor is taken from its list only."""

import base64
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import httpx
import orjson
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from sqlalchemy import delete, select

from app.core.db import new_id
from app.core.errors import install_error_handlers
from app.core.outbox import OutboxTask
from app.core.pagination import BadCursor, Page, Paging, Place, fetch
from app.core.resources import AppResources

if TYPE_CHECKING:
    from app.core.resources import Resources

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
BY = (OutboxTask.created_at, OutboxTask.id)


async def put(resources: "Resources", *minutes: int) -> list[OutboxTask]:
    """A row for each number, made so many minutes after the beginning."""
    made = [
        OutboxTask(
            id=new_id(), name="x", args=[], queue="low", context={}, created_at=BEGAN + timedelta(minutes=minute)
        )
        for minute in minutes
    ]
    async with resources.db.transaction() as session:
        session.add_all(made)
    return made


async def pages(resources: "Resources", limit: int, **how: Any) -> list[list[OutboxTask]]:
    """Every page of all rows."""
    found: list[list[OutboxTask]] = []
    place: Place | None = Place(limit)
    while place:
        async with resources.db.read() as session:
            page = await fetch(session, select(OutboxTask), place, by=BY, **how)
        found.append(list(page.rows))
        place = Place(limit, page.next) if page.next else None
    return found


async def test_rows_of_the_same_moment_stand_on_one_page_each(resources: "Resources") -> None:
    """The id decides where the time does not; both directions; the last page may be full."""
    await put(resources, 0, 1, 1, 1, 1, 2)
    for ascending in (False, True):
        found = await pages(resources, 2, ascending=ascending)
        keys = [(row.created_at, row.id) for page in found for row in page]
        assert [len(page) for page in found] == [2, 2, 2]
        assert keys == sorted(keys, reverse=not ascending)
        assert len(set(keys)) == 6
    assert [len(page) for page in await pages(resources, 100)] == [6]


async def test_inserts_and_deletes_between_two_pages(resources: "Resources") -> None:
    """Neither repeats a row nor skips one, also when the row that the cursor names is gone."""
    made = await put(resources, 0, 1, 2, 3, 4)
    async with resources.db.read() as session:
        first = await fetch(session, select(OutboxTask), Place(2), by=BY)
    assert [row.id for row in first.rows] == [made[4].id, made[3].id]
    await put(resources, 5)
    async with resources.db.transaction() as session:
        await session.execute(delete(OutboxTask).where(OutboxTask.id.in_([made[3].id, made[1].id])))
    async with resources.db.read() as session:
        rest = await fetch(session, select(OutboxTask), Place(2, first.next), by=BY)
    assert [row.id for row in rest.rows] == [made[2].id, made[0].id]
    assert rest.next is None


def cursor(*values: Any) -> str:
    """A cursor that somebody made."""
    return base64.urlsafe_b64encode(orjson.dumps(values)).rstrip(b"=").decode()


LIST = "task_outbox.created_at,task_outbox.id"
ID = "01934f2c-7a1e-7c43-9d1b-5b0f6a2e8c11"


@pytest.mark.parametrize(
    "bad",
    [
        "x",
        "ü",
        "\x00",
        "a" * 400,
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        base64.urlsafe_b64encode(b"[" * 290).decode(),
        cursor(),
        cursor(LIST),
        cursor(LIST, BEGAN, ID, 1),
        cursor("messages.id", BEGAN, ID),
        cursor(LIST, "2026-01-01", ID),
        cursor(LIST, "2026-01-01T00:00:00", ID),
        cursor(LIST, BEGAN, "x"),
        cursor(LIST, BEGAN, 5),
        cursor(LIST, None, None),
        cursor(LIST, [1], {"a": 1}),
        base64.urlsafe_b64encode(b'{"0": 1}').decode(),
    ],
)
async def test_a_cursor_that_is_none(resources: "Resources", bad: str) -> None:
    """It is refused as such, whatever it holds."""
    async with resources.db.read() as session:
        with pytest.raises(BadCursor):
            await fetch(session, select(OutboxTask), Place(2, bad), by=BY)


async def test_cursors_of_words_and_numbers(resources: "Resources") -> None:
    """A list may be sorted by what its columns hold."""
    await put(resources, 0, 1, 2)
    by = (OutboxTask.name, OutboxTask.attempts, OutboxTask.id)
    async with resources.db.read() as session:
        page = await fetch(session, select(OutboxTask), Place(2), by=by)
        assert len((await fetch(session, select(OutboxTask), Place(2, page.next), by=by)).rows) == 1
        name = "task_outbox.name,task_outbox.attempts,task_outbox.id"
        for wrong in ((1, 1, ID), ("a\x00", 1, ID), ("a", "1", ID), ("a", True, ID)):
            with pytest.raises(BadCursor):
                await fetch(session, select(OutboxTask), Place(2, cursor(name, *wrong)), by=by)


class Item(BaseModel):
    """An entry of the list below."""

    model_config = ConfigDict(from_attributes=True)

    name: str


async def test_as_a_route(resources: "Resources") -> None:
    """The answer, the link to the next page with the other parameters kept, and what is refused."""
    app = FastAPI()
    install_error_handlers(app)
    app.state.resources = resources

    @app.get("/list")
    async def listing(resources: AppResources, paging: Paging) -> Page[Item]:
        async with resources.db.read() as session:
            found = await fetch(session, select(OutboxTask), paging, by=BY)
        return paging.page(found, Item.model_validate)

    await put(resources, 0, 1, 2)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        first = await client.get("/list", params={"limit": 2, "status": "a b"})
        following = first.links["next"]["url"]
        assert following.startswith("/list?")
        assert parse_qs(following.partition("?")[2]) == {
            "limit": ["2"],
            "status": ["a b"],
            "cursor": [first.json()["next"]],
        }
        second = await client.get(following)
        assert second.json() == {"items": [{"name": "x"}], "next": None}
        assert "link" not in second.headers
        for params in ({"limit": 0}, {"limit": 101}, {"limit": "x"}, {"cursor": "x"}, {"cursor": "a" * 401}):
            assert (await client.get("/list", params=params)).status_code == 422
        assert (await client.get("/list", params={"cursor": "x"})).json()["code"] == "bad_cursor"
