"""Idempotency keys: however often and however a request is repeated, and whoever dies meanwhile, it has one effect."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import func, select, text, update

from app.core.db import new_id
from app.core.idempotency import IdempotentAnswer, prune
from app.core.outbox import OutboxTask
from app.core.security import Principal

if TYPE_CHECKING:
    from app.core.resources import Resources
    from tests.core.conftest import RunService, SettingsWith

Eventually = Callable[..., Awaitable[Any]]
ORDERS = "/api/v1/probe/orders"
MINE = f"{ORDERS}/mine"


def key() -> dict[str, str]:
    """A fresh one."""
    return {"Idempotency-Key": str(uuid4())}


async def effects(resources: "Resources") -> int:
    """What was done: two tasks for each order."""
    async with resources.db.read() as session:
        return await session.scalar(select(func.count()).select_from(OutboxTask)) or 0


async def test_the_same_again(web: httpx.AsyncClient, resources: "Resources") -> None:
    """The same answer with the same headers, marked; the work is done once, and within it what it wrote can be read."""
    sent = key()
    first = await web.post(ORDERS, json={"name": "x"}, headers=sent)
    again = await web.post(ORDERS, json={"name": "x"}, headers=sent)
    assert (first.status_code, first.json()["count"]) == (201, 2)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert await effects(resources) == 2
    assert await resources.broker.redis.llen("low") == 2, "its tasks were sent after the commit"


async def test_without_a_key_each_request_counts(web: httpx.AsyncClient, resources: "Resources") -> None:
    """And nothing is stored."""
    for _ in range(2):
        assert (await web.post(ORDERS, json={"name": "x"})).status_code == 201
    assert await effects(resources) == 4
    async with resources.db.read() as session:
        assert (await session.scalars(select(IdempotentAnswer))).all() == []


@pytest.mark.parametrize("changed", [{"json": {"name": "y"}}, {"params": {"a": "b"}}])
async def test_the_same_key_with_another_request(
    web: httpx.AsyncClient, resources: "Resources", changed: dict[str, Any]
) -> None:
    """It is refused, and nothing happens."""
    sent = key()
    await web.post(ORDERS, json={"name": "x"}, headers=sent)
    answer = await web.post(ORDERS, **({"json": {"name": "x"}} | changed), headers=sent)
    assert (answer.status_code, answer.json()["code"]) == (422, "key_reused")
    assert await effects(resources) == 2


@pytest.mark.parametrize("bad", ["", "x" * 201, "two words", "caf\xe9"])
async def test_a_key_that_is_none(web: httpx.AsyncClient, resources: "Resources", bad: str) -> None:
    """It is refused rather than ignored."""
    answer = await web.post(ORDERS, json={"name": "x"}, headers={b"Idempotency-Key": bad.encode("latin-1")})
    assert answer.status_code == 422
    assert await effects(resources) == 0


async def test_what_is_refused_leaves_nothing_behind(web: httpx.AsyncClient, resources: "Resources") -> None:
    """The work done before the refusal is undone, and the key is free for another attempt."""
    sent = key()
    assert (await web.post(ORDERS, json={"name": "x", "fail": True}, headers=sent)).status_code == 409
    assert (await web.post(ORDERS, json={"name": 1}, headers=sent)).status_code == 422
    assert await effects(resources) == 0
    assert (await web.post(ORDERS, json={"name": "x"}, headers=sent)).status_code == 201
    assert await effects(resources) == 2


async def test_two_at_once(
    web: httpx.AsyncClient, resources: "Resources", probe: ModuleType, eventually: Eventually
) -> None:
    """The second is told to come back, and then gets the answer of the first."""
    sent = key()
    first = asyncio.create_task(web.post(ORDERS, json={"name": "x", "wait": True}, headers=sent))
    await eventually(lambda: resources.cache.redis.llen(probe.BEGUN))
    second = await web.post(ORDERS, json={"name": "x", "wait": True}, headers=sent)
    assert (second.status_code, second.json()["code"]) == (409, "request_under_way")
    assert second.headers["retry-after"] == "1"
    assert (await web.post(ORDERS, json={"name": "x"}, headers=key())).status_code == 201, "another key is free"
    await resources.cache.redis.set(probe.GATE, 1)
    answer = await first
    again = await web.post(ORDERS, json={"name": "x", "wait": True}, headers=sent)
    assert (again.status_code, again.json()) == (201, answer.json())
    assert await effects(resources) == 4


async def test_many_at_once(web: httpx.AsyncClient, resources: "Resources") -> None:
    """One does the work, whoever it is."""
    sent = key()
    answers = await asyncio.gather(*(web.post(ORDERS, json={"name": "x"}, headers=sent) for _ in range(8)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    assert await effects(resources) == 2


async def test_killed_between_the_work_and_the_answer(
    web: httpx.AsyncClient,
    resources: "Resources",
    probe: ModuleType,
    run_service: "RunService",
    free_port: int,
    eventually: Eventually,
) -> None:
    """Nothing has happened then, the key is free at once, and the repetition has the one effect."""
    sent = key()
    service = run_service("serve", "--port", str(free_port))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{free_port}", timeout=60) as client:

        async def up() -> bool:
            try:
                return (await client.get("/health")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(up)
        first = asyncio.create_task(client.post(ORDERS, json={"name": "x", "wait": True}, headers=sent))
        await eventually(lambda: resources.cache.redis.llen(probe.BEGUN))
        service.kill()
        with pytest.raises(httpx.TransportError):
            await first
    await resources.cache.redis.set(probe.GATE, 1)

    async def done() -> bool:  # the database notices the end of a connection in its own time
        return (await web.post(ORDERS, json={"name": "x", "wait": True}, headers=sent)).status_code == 201

    await eventually(done, 10)
    assert await effects(resources) == 2


async def test_a_form_is_the_same_whatever_separates_its_parts(
    web: httpx.AsyncClient, resources: "Resources", headers_for: Callable[[Principal], dict[str, str]]
) -> None:
    """Clients make up a boundary for each attempt. Another file is another request, and another person has other keys."""
    sent = key()
    mine, hers = (headers_for(Principal(new_id(), frozenset())) | sent for _ in range(2))
    large = b"a" * 1_500_000

    async def post(headers: dict[str, str], data: bytes = large, name: str = "a.txt") -> httpx.Response:
        return await web.post(MINE, files={"file": (name, data, "text/plain")}, headers=headers)

    first, again, other = await post(mine), await post(mine), await post(hers)
    assert first.json()["bytes"] == len(large)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert other.json()["id"] != first.json()["id"]
    assert "idempotency-replayed" not in other.headers
    assert (await post(mine, large[:-1] + b"b")).json()["code"] == "key_reused"
    assert (await post(mine, name="b.txt")).json()["code"] == "key_reused"
    assert (await post(sent)).status_code == 401, "who may not ask gets no answer, stored or not"


async def test_a_day_later_it_is_a_new_request(web: httpx.AsyncClient, resources: "Resources") -> None:
    """Before the sweep has been, and after it."""
    sent = key()
    answers = []
    for _ in range(3):
        answers.append((await web.post(ORDERS, json={"name": "x"}, headers=sent)).json()["id"])
        async with resources.db.transaction() as session:
            await session.execute(update(IdempotentAnswer).values(created_at=func.now() - timedelta(hours=25)))
        if len(answers) == 2:
            await prune(resources)
            async with resources.db.read() as session:
                assert (await session.scalars(select(IdempotentAnswer))).all() == []
    assert len(set(answers)) == 3


async def test_what_is_stored(web: httpx.AsyncClient, resources: "Resources") -> None:
    """Neither key nor request, nor an answer that says it may not be kept."""
    sent = key()
    await web.post(ORDERS, json={"name": "tell nobody"}, headers=sent)
    await web.post(ORDERS, json={"name": "x", "secret": True}, headers=key())
    async with resources.db.read() as session:
        rows = (await session.execute(text("SELECT idempotent_answers::text AS row FROM idempotent_answers"))).all()
    (row,) = rows
    assert sent["Idempotency-Key"] not in row.row
    assert "tell nobody" not in row.row


async def test_when_the_database_is_away(
    make_app: Callable[..., Any], settings_with: "SettingsWith", visit: Callable[..., Any], dead_port: int
) -> None:
    """503 at once, as without a key."""
    app = make_app(settings_with(DATABASE_URL=f"postgresql://app:x@127.0.0.1:{dead_port}/app"))
    async with visit(app) as client:
        answer = await client.post(ORDERS, json={"name": "x"}, headers=key())
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")


async def test_other_tasks_have_transactions_of_their_own(resources: "Resources") -> None:
    """A session serves one task at a time; and what fails within the whole can be caught there."""

    async def write() -> None:
        async with resources.db.transaction() as session:
            session.add(OutboxTask(name="x", args=[], queue="low", context={}))

    async def fail(within: Callable[[], Any], *before: Callable[[], Awaitable[None]]) -> None:
        async with within():
            for step in before:
                await step()
            await write()
            raise RuntimeError

    async def elsewhere() -> None:
        await asyncio.create_task(write())

    with pytest.raises(RuntimeError):
        await fail(resources.db.whole, elsewhere)
    assert await effects(resources) == 1
    async with resources.db.whole():
        with pytest.raises(RuntimeError):
            await fail(resources.db.transaction)
        await write()
    assert await effects(resources) == 2


def test_the_document_knows_it(make_app: Callable[..., Any], settings: Any) -> None:
    """The header and the refusals are in the OpenAPI document of the routes that have it, and of no other."""
    paths = make_app(settings).openapi()["paths"]
    operation = paths[ORDERS]["post"]
    (header,) = [parameter for parameter in operation["parameters"] if parameter["in"] == "header"]
    assert header["name"] == "Idempotency-Key"
    assert {"409", "422"} <= set(operation["responses"])
    assert "409" not in paths["/api/v1/probe/things"]["post"]["responses"]
