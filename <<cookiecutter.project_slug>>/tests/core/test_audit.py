"""The audit trail: written with the act or not at all, never rewritten, and not kept for ever."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import DBAPIError

from app.core.audit import AuditEntry, prune, record
from app.core.logging import client_address, request_id

if TYPE_CHECKING:
    from app.core.resources import Resources


async def entries(resources: "Resources", actor: UUID) -> list[AuditEntry]:
    """What somebody has done, oldest first."""
    async with resources.db.read() as session:
        found = await session.scalars(select(AuditEntry).where(AuditEntry.actor == actor).order_by(AuditEntry.id))
        return list(found)


async def test_an_act_is_kept_with_where_it_came_from(resources: "Resources") -> None:
    """Who, what, to whom, from which address, in which request."""
    actor, subject = uuid4(), uuid4()
    client_address.set("203.0.113.7")
    request_id.set("a-request")
    async with resources.db.transaction() as session:
        record(session, "tests.acted", actor=actor, subject=str(subject), count=3)
    (entry,) = await entries(resources, actor)
    assert (entry.action, entry.subject, entry.client, entry.request_id, entry.details) == (
        *("tests.acted", str(subject), "203.0.113.7", "a-request"),
        {"count": 3},
    )
    assert abs(entry.created_at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_an_act_undone_leaves_no_entry(resources: "Resources") -> None:
    """The entry is part of the transaction."""
    actor = uuid4()

    async def act_and_fail() -> None:
        async with resources.db.transaction() as session:
            record(session, "tests.acted", actor=actor)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await act_and_fail()
    assert await entries(resources, actor) == []


async def test_no_secret_gets_in(resources: "Resources") -> None:
    """Masked as in the logs, at any depth."""
    actor = uuid4()
    async with resources.db.transaction() as session:
        record(session, "tests.acted", actor=actor, password="hunter22", to=["ada@example.com", {"token": "abc"}])
    (entry,) = await entries(resources, actor)
    assert entry.details == {"password": "***", "to": ["***", {"token": "***"}]}


@pytest.mark.parametrize(
    "rewrite",
    [update(AuditEntry).values(action="nothing"), delete(AuditEntry), text("TRUNCATE audit_log")],
    ids=["update", "delete", "truncate"],
)
async def test_nobody_rewrites_it(resources: "Resources", rewrite: Any) -> None:
    """Not the service's own role either, which owns the table."""
    actor = uuid4()
    async with resources.db.transaction() as session:
        record(session, "tests.acted", actor=actor)
    with pytest.raises(DBAPIError, match="append-only"):
        async with resources.db.transaction() as session:
            await session.execute(rewrite)
    assert [entry.action for entry in await entries(resources, actor)] == ["tests.acted"]


async def test_what_is_old_goes(resources: "Resources") -> None:
    """By the task that beat calls, after AUDIT_KEEP_DAYS; what is a day younger stays."""
    actor, days = uuid4(), resources.settings.audit.keep_days
    async with resources.db.transaction() as session:
        old = AuditEntry(action="tests.old", actor=actor, subject="", client="", request_id="", details={})
        old.created_at = datetime.now(UTC) - timedelta(days=days + 1)
        young = AuditEntry(action="tests.young", actor=actor, subject="", client="", request_id="", details={})
        young.created_at = datetime.now(UTC) - timedelta(days=days - 1)
        session.add_all([old, young])
    await prune(resources)
    assert "tests.old" not in [entry.action for entry in await entries(resources, actor)]
    assert "tests.young" in [entry.action for entry in await entries(resources, actor)]
