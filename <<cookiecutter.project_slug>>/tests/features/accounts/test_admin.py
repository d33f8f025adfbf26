"""The admin page: superusers come in, nobody else does, and what they do there is done by the same code as elsewhere."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import select, text, update

from app.core.audit import AuditEntry
from app.core.outbox import OutboxTask, State
from app.core.settings import Admin
from app.features.accounts.models import SignInSession, User
from tests.features.accounts.conftest import PASSWORD, Person

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.core.resources import Resources
    from app.core.settings import Settings

MakePerson = Callable[..., Awaitable[Person]]
Browser = Callable[[], AbstractAsyncContextManager[httpx.AsyncClient]]
HERE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def page(settings: "Settings", opened: "Resources") -> "Iterator[FastAPI]":
    """The API with the admin page, as staging serves it."""
    from app.core.settings import Environment
    from app.main import create_app

    root = logging.getLogger()
    before = root.handlers[:], root.level
    admin = Admin(enabled=True, secret_key=SecretStr("a key of these tests alone"))
    app = create_app(settings.model_copy(update={"admin": admin, "environment": Environment.STAGING}))
    app.state.resources = opened
    yield app
    root.handlers[:] = before[0]
    root.setLevel(before[1])


@pytest.fixture
def browser(page: "FastAPI", resources: "Resources") -> Browser:
    """Opens a browser with cookies of its own."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(page, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://localhost", headers=HERE) as client:
            yield client

    return opened


async def sign_in(client: httpx.AsyncClient, person: Person, password: str = PASSWORD) -> httpx.Response:
    """Fill in the form."""
    return await client.post("/admin/login", data={"username": person.email, "password": password})


async def inside(client: httpx.AsyncClient, where: str = "/admin/user/list") -> bool:
    """Whether the page lets this browser in."""
    response = await client.get(where)
    assert response.status_code in (200, 302), response.status_code
    return response.status_code == 200


async def test_superusers_only(browser: Browser, make_person: MakePerson, resources: "Resources") -> None:
    """Strangers, people and staff are not let in, with the right password; superusers are; the trail tells of each."""
    superuser = await make_person(roles=["superuser"])
    async with browser() as client:
        assert not await inside(client)
        others = [await make_person(roles=roles) for roles in ([], ["staff"])]
        for person in others:
            assert (await sign_in(client, person)).status_code == 400
            assert not await inside(client)
        assert (await sign_in(client, superuser, "wrong horse battery")).status_code == 400
        assert not await inside(client)
        response = await sign_in(client, superuser)
        assert response.status_code == 302
        cookie = response.headers["set-cookie"].lower()
        for attribute in ("httponly", "secure", "samesite=strict", "path=/admin", "max-age=900"):
            assert attribute in cookie
        assert await inside(client)
    async with resources.db.read() as session:
        theirs = AuditEntry.actor.in_([superuser.id, *(person.id for person in others)])
        acts = list(await session.scalars(select(AuditEntry.action).where(theirs, AuditEntry.action.like("admin.%"))))
        sessions = list(await session.scalars(select(SignInSession.user_id)))
    assert sorted(acts) == ["admin.refused", "admin.refused", "admin.signed_in"]
    assert sessions == [superuser.id]


async def test_who_is_no_superuser_any_more_is_out_at_once(
    browser: Browser, make_person: MakePerson, resources: "Resources"
) -> None:
    """Switched off, degraded, or signed out everywhere: the next click leads to the door."""

    async def change(statement: Any) -> None:
        async with resources.db.transaction() as session:
            await session.execute(statement)

    person = await make_person(roles=["superuser"])
    mine = update(User).where(User.id == person.id)
    async with browser() as client:
        await sign_in(client, person)
        for wrong, right in (({"active": False}, {"active": True}), ({"roles": ["staff"]}, {"roles": ["superuser"]})):
            await change(mine.values(**wrong))
            assert not await inside(client)
            await change(mine.values(**right))
            await sign_in(client, person)
            assert await inside(client)
        await change(text("DELETE FROM sign_in_sessions"))
        assert not await inside(client)


async def test_signing_out_ends_the_session_and_not_only_the_cookie(browser: Browser, make_person: MakePerson) -> None:
    """A copy of the cookie is worth nothing afterwards."""
    async with browser() as client, browser() as thief:
        await sign_in(client, await make_person(roles=["superuser"]))
        thief.cookies.update(client.cookies)
        assert await inside(thief)
        await client.get("/admin/logout")
        assert not await inside(client)
        assert not await inside(thief)


async def test_a_session_cannot_be_given_to_somebody(browser: Browser, make_person: MakePerson) -> None:
    """Signing in makes a new one, whatever cookie was there; and a cookie that we did not sign is none."""
    async with browser() as attacker:
        await sign_in(attacker, await make_person(roles=["superuser"]))
        planted = attacker.cookies["admin"]
        victim = await make_person(roles=["superuser"])
        attacker.cookies.clear()
        response = await attacker.post(
            "/admin/login",
            data={"username": victim.email, "password": PASSWORD},
            headers={"Cookie": f"admin={planted}"},
        )
        assert response.status_code == 302
        given = response.cookies["admin"]
        assert given.split(".")[0] != planted.split(".")[0]
        for cookie, lets_in in ((given, True), (given[:-4] + "abcd", False), ("e30=" + given[4:], False)):
            attacker.cookies.clear()
            found = await attacker.get("/admin/user/list", headers={"Cookie": f"admin={cookie}"})
            assert (found.status_code == 200) is lets_in


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "", "Referer": "https://evil.example/localhost"},
        {"Sec-Fetch-Site": ""},
    ],
)
async def test_no_act_from_elsewhere(browser: Browser, headers: dict[str, str]) -> None:
    """Even with the cookie, which the browser would not have sent: neither a form, nor an action, nor a sign-out."""
    async with browser() as client:
        for method, path in (
            ("POST", "/admin/login"),
            ("GET", "/admin/outbox-task/action/rerun?pks=x"),
            ("GET", "/admin/logout"),
            ("DELETE", "/admin/user/delete?pks=x"),
        ):
            assert (await client.request(method, path, headers=headers)).status_code == 403
        own = {"Sec-Fetch-Site": "", "Origin": "https://localhost"}
        assert (await client.get("/admin/logout", headers=own)).status_code == 302


async def test_guessing_is_slowed_down(browser: Browser, make_person: MakePerson) -> None:
    """By the same count as every sign-in: then the right password is not even looked at."""
    person = await make_person(roles=["superuser"])
    async with browser() as client:
        refused = [(await sign_in(client, person, "wrong horse battery")).status_code for _ in range(5)]
        while (
            await client.post("/api/v1/accounts/sign-in", json={"email": person.email, "password": "x" * 12})
        ).status_code != 429:
            refused.append(401)
            assert len(refused) < 30
        assert (await sign_in(client, person)).status_code == 400
        assert not await inside(client)


async def test_what_is_shown(browser: Browser, make_person: MakePerson, resources: "Resources") -> None:
    """Every table opens; none of them shows a hash or can be changed; the policy for browsers is the page's own."""
    from app.core.audit import record
    from app.core.messages.models import MessageRow

    person = await make_person(roles=["superuser"])
    async with resources.db.transaction() as session:
        record(session, "tests.happened", actor=None)
        message = MessageRow(channel="email", receiver="eve@example.com", content="the whole text")
        session.add(message)
    async with browser() as client:
        response = await sign_in(client, person)
        index = await client.get("/admin/")
        assert "script-src 'self';" in index.headers["content-security-policy"]
        assert len(index.headers.get_list("content-security-policy")) == 1
        assert index.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in index.headers["content-security-policy"]
        assert (await client.get("/admin/statics/js/main.js")).status_code == 200
        views = {part.split("/")[0] for part in index.text.split("/admin/")[1:] if "/list" in part[:40]}
        assert views >= {"user", "sign-in-session", "audit-entry", "outbox-task", "message-row"}
        shown = ""
        for view in views:
            response = await client.get(f"/admin/{view}/list")
            assert response.status_code == 200, view
            shown += response.text
            for path in ("create", "edit/x", "export/csv"):
                assert (await client.get(f"/admin/{view}/{path}")).status_code in (403, 404), (view, path)
            assert (await client.delete(f"/admin/{view}/delete?pks=x")).status_code in (403, 404)
        shown += (await client.get(f"/admin/user/details/{person.id}")).text
        shown += (await client.get(f"/admin/message-row/details/{message.id}")).text
        assert person.email in shown
        assert "tests.happened" in shown
        for secret in ("argon2", "the whole text", "eve@example.com"):
            assert secret not in shown


async def test_dead_tasks_can_be_run_again_or_discarded(
    browser: Browser, make_person: MakePerson, resources: "Resources", run_tasks: Callable[[], Awaitable[list[str]]]
) -> None:
    """By a click, which leaves its trace; a task that is not dead is neither shown nor touched."""
    async with resources.db.transaction() as session:
        tasks = [
            OutboxTask(name=f"tests.{state}", args=[], queue="low", state=state, attempts=5)
            for state in (State.DEAD, State.DEAD, State.WAITING)
        ]
        session.add_all(tasks)
    again, gone, other = tasks
    person = await make_person(roles=["superuser"])
    async with browser() as client:
        refused = await client.get(f"/admin/outbox-task/action/rerun?pks={again.id}")
        assert refused.status_code == 302
        await sign_in(client, person)
        listed = (await client.get("/admin/outbox-task/list")).text
        assert str(again.id) in listed
        assert str(other.id) not in listed
        assert (await client.get(f"/admin/outbox-task/action/rerun?pks={again.id},{other.id}")).status_code == 303
        assert (await client.get(f"/admin/outbox-task/action/discard?pks={gone.id}")).status_code == 303
    async with resources.db.read() as session:
        left = {row.id: (row.state, row.attempts) for row in await session.scalars(select(OutboxTask))}
        acts = {
            row.action: (row.actor, row.details["tasks"])
            for row in await session.scalars(select(AuditEntry).where(AuditEntry.action.like("admin.task%")))
        }
    assert left[again.id] == (State.SENT, 0)
    assert left[other.id] == (State.WAITING, 5)
    assert gone.id not in left
    assert acts["admin.task_rerun"] == (person.id, [str(again.id), str(other.id)])
    assert acts["admin.task_discarded"] == (person.id, [str(gone.id)])


async def test_no_page_unless_asked_for(client: httpx.AsyncClient) -> None:
    """By default there is nothing there."""
    assert (await client.get("/admin/login")).status_code == 404
