"""Sealed fields: what was swapped, changed, cut or sealed by somebody else is refused; keys rotate while the service writes."""

import asyncio
import re
import shlex
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from pydantic import SecretStr, ValidationError
from sqlalchemy import LargeBinary, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.core.db import PrimaryId, new_id
from app.core.encryption import (
    DecryptionError,
    Encryption,
    NoKey,
    Sealed,
    ValueRefused,
    key_id,
    rotate,
    standing,
)
from app.core.envfile import write
from app.core.project import ROOT
from app.core.settings import Encryption as EncryptionSettings
from app.core.settings import SettingsError, load_settings
from app.core.settings.encryption import new_key
from devstack import Stack
from tests.core.commands import Command, command, each

if TYPE_CHECKING:
    from app.core.resources import Resources

OLD, NEW = new_key(date(2026, 1, 1)), new_key(date(2026, 11, 21))
OLD_ID, NEW_ID = OLD.split(":", maxsplit=1)[0], NEW.split(":", maxsplit=1)[0]
SECRET = "ya29.token-of-somebody, ü and 日本"


class Own(DeclarativeBase):
    """Tables of these tests alone; no migration knows them."""


class Vault(Own):
    """What a feature with third-party tokens would have."""

    __tablename__ = "test_vault"

    id: Mapped[PrimaryId]
    token: Mapped[bytes | None] = mapped_column(Sealed)
    refresh: Mapped[bytes | None] = mapped_column(Sealed)
    plain: Mapped[bytes | None] = mapped_column(LargeBinary)


def encryption(*keys: str) -> Encryption:
    """Sealing with the first of these keys."""
    return Encryption(EncryptionSettings(keys=SecretStr(",".join(keys))))


@pytest.fixture
async def vault(resources: "Resources") -> AsyncIterator["Resources"]:
    """The resources, with the table."""
    async with resources.db.engine.begin() as connection:
        await connection.run_sync(Own.metadata.create_all)
    yield resources
    async with resources.db.engine.begin() as connection:
        await connection.run_sync(Own.metadata.drop_all)


async def filled(resources: "Resources", cipher: Encryption, count: int) -> list[UUID]:
    """Rows with a token each."""
    ids = sorted(new_id() for _ in range(count))
    async with resources.db.transaction() as session:
        session.add_all(
            Vault(id=row, token=cipher.seal(f"{SECRET} {row}", Vault.token, row), plain=b"left alone") for row in ids
        )
    return ids


async def under(resources: "Resources") -> dict[str, int]:
    """How many tokens are under which key."""
    found = {entry.column: entry.keys for entry in await standing(resources.db, Own.metadata)}
    assert set(found) == {"test_vault.token", "test_vault.refresh"}
    return found["test_vault.token"]


# One value


def test_a_value_is_opened_where_it_was_sealed() -> None:
    """Any text; never the same bytes twice; nothing of the text in them."""
    cipher, row = encryption(NEW), new_id()
    for value in (SECRET, "", "x" * 100_000):
        sealed = cipher.seal(value, Vault.token, row)
        assert cipher.open(sealed, Vault.token, row) == value
        assert sealed != cipher.seal(value, Vault.token, row)
        assert value.encode() not in sealed or not value
    assert key_id(sealed) == NEW_ID


def test_a_value_of_another_place_is_refused() -> None:
    """Another row or another column, in the same table and under the same key."""
    cipher, mine, theirs = encryption(NEW), new_id(), new_id()
    sealed = cipher.seal(SECRET, Vault.token, mine)
    for column, row in ((Vault.token, theirs), (Vault.refresh, mine)):
        with pytest.raises(ValueRefused, match="another row or column"):
            cipher.open(sealed, column, row)
    # The parts of two good values do not fit together either: another value under this place's key.
    other = cipher.seal("mine as well", Vault.token, mine)
    cut = len(sealed) - len(SECRET.encode()) - 28
    with pytest.raises(ValueRefused):
        cipher.open(sealed[:cut] + other[cut:], Vault.token, mine)


def test_every_bit_counts() -> None:
    """A value that was changed anywhere, or cut anywhere, is refused, and says nothing of its text."""
    cipher, row = encryption(NEW), new_id()
    sealed = cipher.seal(SECRET, Vault.token, row)
    for position in range(len(sealed)):
        for bit in (1, 128):
            changed = bytearray(sealed)
            changed[position] ^= bit
            with pytest.raises(DecryptionError):
                cipher.open(bytes(changed), Vault.token, row)
        with pytest.raises(ValueRefused):
            cipher.open(sealed[:position], Vault.token, row)
    with pytest.raises(ValueRefused):
        cipher.open(sealed + b"\0", Vault.token, row)


def test_a_key_that_is_not_there_is_named() -> None:
    """By its id; the same id with other bytes is no better."""
    row = new_id()
    sealed = encryption(OLD).seal(SECRET, Vault.token, row)
    with pytest.raises(NoKey, match=f"lacks the key '{OLD_ID}'"):
        encryption(NEW).open(sealed, Vault.token, row)
    with pytest.raises(ValueRefused):
        encryption(f"{OLD_ID}:{NEW.partition(':')[2]}").open(sealed, Vault.token, row)
    with pytest.raises(NoKey, match="is empty"):
        encryption().seal(SECRET, Vault.token, row)
    with pytest.raises(ValueError, match="make its id first"):
        encryption(NEW).seal(SECRET, Vault.token, None)


# Keys


@pytest.mark.parametrize(
    "keys",
    ["k1", "k1:", "k1:c2hvcnQ=", f":{OLD.partition(':')[2]}", f"a b:{OLD.partition(':')[2]}", f"{OLD},{OLD}", "k1:%%%"],
    ids=["no-colon", "no-key", "short", "no-id", "bad-id", "twice", "no-base64"],
)
def test_a_wrong_key_is_refused_at_start_and_not_shown(keys: str) -> None:
    """Too short, without id, twice the same id."""
    with pytest.raises(ValidationError) as caught:
        EncryptionSettings(keys=SecretStr(keys))
    assert OLD.partition(":")[2] not in str(caught.value)


def test_setup_makes_a_key(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It can be used as it is."""
    write(tmp_path / ".env", [])
    bare.setenv("ENV_FILE", str(tmp_path / ".env"))
    assert Encryption(load_settings().encryption).seal(SECRET, Vault.token, 1)


def test_production_needs_a_key(bare: pytest.MonkeyPatch) -> None:
    """In every project: core seals messages, which hold links that set passwords."""
    bare.setenv("ENVIRONMENT", "production")
    for keys, expected in (("", True), (NEW, False)):
        bare.setenv("ENCRYPTION_KEYS", keys)
        with pytest.raises(SettingsError) as caught:
            load_settings()
        assert any("ENCRYPTION_KEYS" in fault for fault in caught.value.faults) is expected


# Rotation


async def test_rotation_brings_everything_under_the_first_key(vault: "Resources") -> None:
    """In batches; the values read the same; then the old key is not needed, and rotating again does nothing."""
    ids = await filled(vault, encryption(OLD), 7)
    both = encryption(NEW, OLD)
    assert await under(vault) == {OLD_ID: 7}
    done = await rotate(vault.db, both, Own.metadata, batch=3)
    assert (done.rewrapped, done.refused) == (7, [])
    assert await under(vault) == {NEW_ID: 7}
    assert (await rotate(vault.db, both, Own.metadata)).rewrapped == 0
    alone = encryption(NEW)
    async with vault.db.read() as session:
        rows = (await session.scalars(select(Vault).order_by(Vault.id))).all()
    assert [row.id for row in rows] == ids
    for row in rows:
        assert row.token
        assert alone.open(row.token, Vault.token, row.id) == f"{SECRET} {row.id}"
        assert row.plain == b"left alone"


async def test_rotation_tells_what_it_cannot_read_and_does_the_rest(vault: "Resources") -> None:
    """A key that is gone, a value of another row, something that was never sealed: each is named with its place."""
    ids = await filled(vault, encryption(OLD), 5)
    gone = new_key(date(2025, 1, 1))
    gone_id = gone.partition(":")[0]
    wrong = [
        encryption(gone).seal("x", Vault.token, ids[0]),
        encryption(OLD).seal("x", Vault.token, ids[4]),
        b"\1",
        b"",
    ]
    async with vault.db.transaction() as session:
        for row, value in zip(ids, wrong, strict=False):
            await session.execute(update(Vault).where(Vault.id == row).values(token=value))
    done = await rotate(vault.db, encryption(NEW, OLD), Own.metadata, batch=2)
    assert done.rewrapped == 1
    assert [line.split(": ")[0] for line in done.refused] == [f"test_vault.token of {row}" for row in ids[:4]]
    assert gone_id in done.refused[0]
    assert await under(vault) == {NEW_ID: 1, OLD_ID: 1, gone_id: 1, "?": 2}


async def test_rotation_while_the_service_writes_loses_nothing(vault: "Resources") -> None:
    """Writers under the old key and under the new one go on; what they wrote last is what is there."""
    old, both = encryption(OLD), encryption(NEW, OLD)
    ids = await filled(vault, old, 40)
    written: dict[UUID, str] = {row: f"{SECRET} {row}" for row in ids}
    stop = asyncio.Event()

    async def write_on(cipher: Encryption, rows: list[UUID]) -> None:
        turn = 0
        while not stop.is_set():
            row = rows[turn % len(rows)]
            value = f"{turn} {row}"
            async with vault.db.transaction() as session:
                sealed = cipher.seal(value, Vault.token, row)
                await session.execute(update(Vault).where(Vault.id == row).values(token=sealed))
            written[row] = value
            turn += 1

    # The last deploy is still on its way: some processes seal with the old key, and can read both.
    writers = [
        asyncio.create_task(write_on(encryption(OLD, NEW), ids[::4])),
        asyncio.create_task(write_on(both, ids[1::4])),
    ]
    for _ in range(3):
        await rotate(vault.db, both, Own.metadata, batch=5)
    stop.set()
    await asyncio.gather(*writers)
    await rotate(vault.db, both, Own.metadata)
    assert await under(vault) == {NEW_ID: 40}
    async with vault.db.read() as session:
        rows = (await session.execute(select(Vault.id, Vault.token))).all()
    assert {row: encryption(NEW).open(token, Vault.token, row) for row, token in rows if token} == written


async def test_a_rotation_that_was_stopped_goes_on_where_it_was(vault: "Resources") -> None:
    """Each batch is a transaction of its own, and what is done is not selected again."""
    await filled(vault, encryption(OLD), 60)
    both = encryption(NEW, OLD)
    stopped = asyncio.create_task(rotate(vault.db, both, Own.metadata, batch=1))
    while (await under(vault)).get(NEW_ID, 0) < 5:
        assert not stopped.done()
    stopped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopped
    already = (await under(vault))[NEW_ID]
    assert 5 <= already < 60
    assert (await rotate(vault.db, both, Own.metadata)).rewrapped == 60 - already


# The runbook

FEATURE = '''"""A sealed column."""

from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base, PrimaryId
from app.core.encryption import Sealed


class Vault(Base):
    """What a feature with third-party tokens would have."""

    __tablename__ = "test_vault"

    id: Mapped[PrimaryId]
    token: Mapped[bytes | None] = mapped_column(Sealed)
'''


async def test_the_commands_of_the_runbook(vault: "Resources", stack: Stack, project_copy: Path) -> None:
    """Each line is run as it stands there, on a project with a sealed column: the old key is needed until it is not."""
    feature = project_copy / "app/features/vault"
    feature.mkdir()
    (feature / "__init__.py").write_text('"""Tokens."""\n')
    (feature / "models.py").write_text(FEATURE)
    listed = project_copy / "app/features/__init__.py"
    listed.write_text(re.sub(r"^FEATURES = .*$", 'FEATURES = ("vault",)', listed.read_text(), flags=re.MULTILINE))
    page = (ROOT / "docs/runbook/rotate-encryption-keys.md").read_text()
    lines = [shlex.split(line) for line in page.splitlines() if line.strip().startswith("python -m app.cli")]
    commands = {line[4]: line for line in lines}
    assert list(commands) == ["status", "new-key", "rotate"]

    def line(name: str, *keys: str) -> Command:
        return command(*commands[name][3:], ENCRYPTION_KEYS=",".join(keys))

    await filled(vault, encryption(OLD), 3)
    (made,) = each(stack.env, line("new-key", OLD), cwd=project_copy)
    fresh = made.stdout.strip()
    fresh_id = fresh.partition(":")[0]
    too_early, rotated = each(stack.env, line("status", fresh), line("rotate", fresh, OLD), cwd=project_copy)
    assert too_early.returncode == 1
    assert [line for line in too_early.stdout.splitlines() if "messages" not in line] == [
        f"test_vault.token  {OLD_ID}  3  MISSING in ENCRYPTION_KEYS",
        f"{fresh_id}  encrypts",
    ]
    assert rotated.returncode == 0, rotated.stderr
    assert rotated.stdout.splitlines()[-4:] == [
        f"rotate: 3 values are under {fresh_id} now",
        f"test_vault.token  {fresh_id}  3",
        f"{fresh_id}  encrypts",
        f"{OLD_ID}  not needed: may be removed",
    ]
