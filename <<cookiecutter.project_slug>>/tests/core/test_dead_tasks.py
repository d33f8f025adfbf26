"""Tasks that failed for good: they can be seen, run again and forgotten, and nothing else is touched."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from types import ModuleType
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from typer.testing import CliRunner, Result

from app.core.db import new_id
from app.core.outbox import State
from app.core.tasks import execute
from tests.core.asking import ask, left

if TYPE_CHECKING:
    from app.core.resources import Resources

Command = Callable[..., Awaitable[Result]]


@pytest.fixture
async def command(resources: "Resources") -> AsyncIterator[Command]:
    """Runs `python -m app.cli tasks …` in a thread of its own; logging is as before afterwards."""
    from app.cli import cli

    root = logging.getLogger()
    before = root.handlers[:], root.level

    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, cli, ["tasks", *arguments])

    yield run
    root.handlers[:] = before[0]
    root.setLevel(before[1])


async def bury(resources: "Resources", probe: ModuleType, *names: str) -> list[UUID]:
    """Let tasks fail as often as they may."""
    ids = await ask(resources, probe.hang, *names)
    for identity, name in zip(ids, names, strict=True):
        assert await execute(resources, probe.hang, identity, [name]) == "dead"
    return ids


async def test_listed_run_again_and_forgotten(resources: "Resources", probe: ModuleType, command: Command) -> None:
    """Each command touches the dead tasks that it names, and tells of those that it could not find."""
    first, second, third = await bury(resources, probe, "a", "b", "c")
    (alive,) = await ask(resources, probe.note, "alive")

    listed = await command("dead")
    assert [line.split()[1] for line in listed.output.splitlines()] == [str(third), str(second), str(first)]
    assert "probe.hang  1  TimeoutError()" in listed.output
    (newest,) = (await command("dead", "--json", "--limit", "1")).output.splitlines()
    assert json.loads(newest)["args"] == ["c"]

    again = await command("rerun", str(first))
    assert (again.exit_code, again.output.splitlines()[-1]) == (0, "rerun: 1 tasks")
    states = [("probe.hang", State.SENT, 0), ("probe.hang", State.DEAD, 1), ("probe.hang", State.DEAD, 1)]
    # Sorted: the ids of one millisecond come in any order.
    assert sorted(await left(resources)) == sorted([*states, ("probe.note", State.SENT, 0)])
    assert await resources.broker.redis.llen("high") == 4, "three times asked for, once again"

    partly = await command("discard", str(second), str(alive), str(new_id()))
    assert partly.exit_code == 1
    assert "discard: 1 tasks" in partly.output
    assert "not dead" in partly.output
    assert sorted(await left(resources)) == sorted([states[0], states[2], ("probe.note", State.SENT, 0)])

    # The second life ends as the first one did.
    assert await execute(resources, probe.hang, first, ["a"]) == "dead"
    assert (await command("rerun", "--all")).output.splitlines()[-1] == "rerun: 2 tasks"
    assert (await command("discard", "--all")).output.splitlines()[-1] == "discard: 0 tasks"
    assert len(await left(resources)) == 3


@pytest.mark.parametrize("arguments", [["rerun"], ["discard"], ["rerun", "--all", str(UUID(int=1))]])
async def test_which_ones_must_be_said(command: Command, arguments: list[str]) -> None:
    """Neither nothing nor both: a slip must not forget everything."""
    result = await command(*arguments)
    assert result.exit_code == 1
    assert "--all" in result.output


async def test_without_a_database_it_says_so(command: Command, monkeypatch: pytest.MonkeyPatch, dead_port: int) -> None:
    """In a line, not with a traceback."""
    monkeypatch.setenv("DATABASE_URL", f"postgresql://app:hunter2@127.0.0.1:{dead_port}/app")
    result = await command("dead")
    assert result.exit_code == 1
    assert str(dead_port) in result.output
    assert "hunter2" not in result.output
    assert "Traceback" not in result.output
