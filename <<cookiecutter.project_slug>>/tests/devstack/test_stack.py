"""The stack as a library: what tests rely on."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from devstack import Stack, StackError, guard
from devstack.ports import choose, is_free, is_open


async def _value(stack: Stack, query: str) -> object:
    connection = await asyncpg.connect(stack.env["DATABASE_URL"])
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def test_the_role_of_the_service_is_no_superuser_and_finds_vectors(tmp_path: Path) -> None:
    """Tests run with the privileges of production, also in databases they make themselves."""
    with Stack(tmp_path, ["postgres"]) as stack:
        assert asyncio.run(_value(stack, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user")) is False
        assert asyncio.run(_value(stack, "SELECT '[1,0]'::vector <=> '[0,1]'::vector")) == 1
        asyncio.run(_value(stack, "CREATE DATABASE another"))
        assert stack.sql("SELECT extname FROM pg_extension WHERE extname = 'vector'", database="another") == "vector\n"


def test_a_killed_server_starts_again_with_its_data(tmp_path: Path) -> None:
    """What a test does to a neighbour to see what the service makes of it."""
    with Stack(tmp_path, ["postgres"], durable=True) as stack:
        asyncio.run(_value(stack, "CREATE TABLE kept AS SELECT 7 AS number"))
        postgres = stack.processes["postgres"]
        members = guard.family(postgres.pid)
        assert len(members) > 1
        postgres.kill()
        assert not any(guard.alive(pid, identity) for pid, identity in members.items())
        postgres.start()
        assert asyncio.run(_value(stack, "SELECT number FROM kept")) == 7


def test_data_outlives_the_password(tmp_path: Path) -> None:
    """A new `.env` does not lock anybody out of the old data."""
    for password in ("first", "second"):
        with Stack(tmp_path, ["postgres"], {"DATABASE_PASSWORD": password}) as stack:
            assert asyncio.run(_value(stack, "SELECT 1")) == 1


def test_the_shell_of_the_developer_is_kept_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that found the address of a real database there would write to it."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://real.example.com/production")
    monkeypatch.setenv("SENTRY_DSN", "https://key@real.example.com/1")
    with Stack(tmp_path, ["postgres"]) as stack:
        assert "real.example.com" not in str(stack.env)
        assert stack.env["ENV_FILE"] == ""
    with Stack(tmp_path, ["cache"]) as stack:
        assert "DATABASE_URL" not in stack.env


def test_a_part_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    """The reason is what the program itself wrote."""
    broken = tmp_path / "postgres" / "data"
    broken.mkdir(parents=True)
    (broken / "PG_VERSION").write_text("9.6\n")
    stack = Stack(tmp_path, ["postgres", "cache"])
    with pytest.raises(StackError, match="postgres ended at once"):
        stack.start()
    assert not is_open(stack.ports["cache"])
    assert not any(process.alive for process in stack.processes.values())


def test_two_stacks_of_one_process_do_not_meet(tmp_path: Path) -> None:
    """Test processes run side by side."""
    with Stack(tmp_path / "one", ["cache"]) as one, Stack(tmp_path / "two", ["cache"]) as two:
        assert one.ports != two.ports
        assert one.env["CACHE_PASSWORD"] != two.env["CACHE_PASSWORD"]


def test_one_folder_holds_one_stack(tmp_path: Path) -> None:
    """Also within one process."""
    with Stack(tmp_path, ["cache"]), pytest.raises(StackError, match="another stack"):
        Stack(tmp_path, ["cache"]).start()


def test_a_paused_part_is_stopped_all_the_same(tmp_path: Path) -> None:
    """A process that hangs does not keep the stack from ending."""
    with Stack(tmp_path, ["cache"]) as stack:
        stack.processes["cache"].pause()
        pid = stack.processes["cache"].pid
    assert not guard.alive(pid)


def test_ports_never_collide() -> None:
    """Wanted twice means given once."""
    ports = choose(["a", "b", "c"], {"a": 26000, "b": 26000})
    assert len(set(ports.values())) == 3
    assert all(is_free(port) for port in ports.values())
