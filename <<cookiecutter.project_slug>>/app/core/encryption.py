"""Fields that only this service can read: third-party tokens and the like, at rest and in every backup.

    class Connection(Base):
        __tablename__ = "connection"
        id: Mapped[PrimaryId]
        token: Mapped[bytes] = mapped_column(Sealed)

    connection = Connection(id=(id := new_id()), token=resources.encryption.seal(token, Connection.token, id))
    token = resources.encryption.open(connection.token, Connection.token, connection.id)

Each value has a key of its own (AES-256-GCM), which is kept beside it, wrapped by a key of ENCRYPTION_KEYS whose id stands
in front. Table, column and row are part of what is authenticated: a value that was copied to another row or column, say
one's own token over another person's, is refused. To rotate is to wrap anew: the values themselves are never read.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import Column, LargeBinary, MetaData, Table, bindparam, case, func, select, tuple_, update
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import TypeDecorator

from app.core.db import Database
from app.core.settings import Encryption as EncryptionSettings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

log = structlog.get_logger(__name__)

# version (1) · length of the key's id (1) · id · nonce (12) · wrapped key (32 + 16) · nonce (12) · value (n + 16)
VERSION = 1
# Key in `session.info` of every session, for what core itself seals: messages.
IN_SESSION = "encryption"
NONCE_BYTES = 12
TAG_BYTES = 16
DATA_KEY_BYTES = 32
WRAPPED_BYTES = NONCE_BYTES + DATA_KEY_BYTES + TAG_BYTES
BATCH = 200


class DecryptionError(Exception):
    """A value cannot be read. A fault of ours or an attack, never of the client: it is a 500."""


class NoKey(DecryptionError):
    """ENCRYPTION_KEYS lacks the key: it names none, or not the one that this value was encrypted with."""


class ValueRefused(DecryptionError):
    """The value was changed, cut, or comes from another row or column."""


class Sealed(TypeDecorator[bytes]):
    """Type of a column that holds sealed values; rotation finds the columns by it. In a migration it is `LargeBinary`."""

    impl = LargeBinary
    cache_ok = True


class Encryption:
    """Seals and opens values.

    Args:
        settings: the keys, the current one first.
    """

    def __init__(self, settings: EncryptionSettings) -> None:
        self._settings = settings

    @property
    def current(self) -> str:
        """Id of the key that encrypts.

        Raises:
            NoKey: there is none.
        """
        if not self._ciphers:
            raise NoKey("ENCRYPTION_KEYS is empty; make a key: python -m app.cli encryption new-key")
        return next(iter(self._ciphers))

    @property
    def known(self) -> tuple[str, ...]:
        """Ids of all keys, the current one first."""
        return tuple(self._ciphers)

    def seal(self, text: str, column: InstrumentedAttribute[Any], *row: object) -> bytes:
        """Encrypt a value for one place.

        Args:
            text: the value.
            column: the model's attribute that will hold it.
            row: the row's primary key; it has to be known already, so make the id before the row.
        """
        place = _place(_column(column), row)
        data_key = os.urandom(DATA_KEY_BYTES)
        nonce = os.urandom(NONCE_BYTES)
        return self._wrap(data_key, place) + nonce + _cipher(data_key).encrypt(nonce, text.encode(), place)

    def open(self, sealed: bytes, column: InstrumentedAttribute[Any], *row: object) -> str:
        """Decrypt a value that was sealed for this place.

        Raises:
            NoKey: its key is not among ours.
            ValueRefused: it is not what was sealed, or not for this place.
        """
        from cryptography.exceptions import InvalidTag

        place = _place(_column(column), row)
        data_key, rest = self._unwrap(sealed, place)
        try:
            return _cipher(data_key).decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], place).decode()
        except (InvalidTag, ValueError) as error:
            raise ValueRefused("the value was changed, or belongs to another row or column") from error

    def rewrap(self, sealed: bytes, column: Column[Any], *row: object) -> bytes:
        """The same value under the current key; what is in it stays unread.

        Raises:
            NoKey, ValueRefused: as `open` does.
        """
        place = _place(column, row)
        data_key, rest = self._unwrap(sealed, place)
        return self._wrap(data_key, place) + rest

    def head(self) -> bytes:
        """How every value under the current key begins."""
        return _head(self.current)

    @cached_property
    def _ciphers(self) -> Mapping[str, "AESGCM"]:
        return {name: _cipher(key) for name, key in self._settings.by_id().items()}

    def _wrap(self, data_key: bytes, place: bytes) -> bytes:
        head = self.head()
        nonce = os.urandom(NONCE_BYTES)
        return head + nonce + self._ciphers[self.current].encrypt(nonce, data_key, head + place)

    def _unwrap(self, sealed: bytes, place: bytes) -> tuple[bytes, bytes]:
        from cryptography.exceptions import InvalidTag

        name = key_id(sealed)
        head = _head(name)
        if len(sealed) < len(head) + WRAPPED_BYTES + NONCE_BYTES + TAG_BYTES:
            raise ValueRefused("the value is cut")
        if name not in self._ciphers:
            raise NoKey(f"ENCRYPTION_KEYS lacks the key {name!r}, which this value was encrypted with")
        wrapped, rest = sealed[len(head) : len(head) + WRAPPED_BYTES], sealed[len(head) + WRAPPED_BYTES :]
        try:
            data_key = self._ciphers[name].decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], head + place)
        except InvalidTag as error:
            raise ValueRefused("the value was changed, or belongs to another row or column") from error
        return data_key, rest


def key_id(sealed: bytes) -> str:
    """Id of the key that a value was sealed with.

    Raises:
        ValueRefused: this is no sealed value.
    """
    if len(sealed) < 2 or sealed[0] != VERSION or len(sealed) < 2 + sealed[1]:
        raise ValueRefused("this is no sealed value")
    try:
        return sealed[2 : 2 + sealed[1]].decode("ascii")
    except UnicodeDecodeError as error:
        raise ValueRefused("this is no sealed value") from error


def _head(name: str) -> bytes:
    return bytes([VERSION, len(name)]) + name.encode("ascii")


def _place(column: Column[Any], row: Sequence[object]) -> bytes:
    """Table, column and row as bytes, each in its own quotes: no two places read alike."""
    if not row or None in row:
        raise ValueError("a value is sealed for a row: make its id first")
    return json.dumps([column.table.fullname, column.name, *map(str, row)]).encode()


def _column(attribute: InstrumentedAttribute[Any]) -> Column[Any]:
    (column,) = attribute.property.columns
    assert isinstance(column, Column)
    return column


def _cipher(key: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


# Rotation


@dataclass(slots=True)
class Standing:
    """The values of one column by the key they are under.

    Attributes:
        column: table and column.
        keys: how many values are under each key; the key "?" stands for what is no sealed value.
    """

    column: str
    keys: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Rotation:
    """What a rotation did.

    Attributes:
        rewrapped: values that are under the current key now.
        refused: one line for each value that could not be, with its place and the reason.
    """

    rewrapped: int = 0
    refused: list[str] = field(default_factory=list)


def sealed_columns(metadata: MetaData) -> list[Column[Any]]:
    """Every column of type `Sealed`."""
    return [column for table in metadata.sorted_tables for column in table.columns if isinstance(column.type, Sealed)]


async def standing(db: Database, metadata: MetaData) -> list[Standing]:
    """How many values are under which key. Only when none is left under an old one may it be removed."""
    found = []
    async with db.read() as session:
        for column in sealed_columns(metadata):
            entry = Standing(str(column))
            # Version, length and id; what is shorter than it says is counted under what it has.
            length = case((func.length(column) > 1, func.get_byte(column, 1)), else_=0)
            head = func.substr(column, 1, 2 + length)
            rows = await session.execute(select(head, func.count()).where(column.is_not(None)).group_by(head))
            for value, count in rows:
                name = _id_or_mark(value)
                entry.keys[name] = entry.keys.get(name, 0) + count
            found.append(entry)
    return found


def _id_or_mark(head: bytes) -> str:
    try:
        return key_id(head)
    except ValueRefused:
        return "?"


async def rotate(db: Database, encryption: Encryption, metadata: MetaData, batch: int = BATCH) -> Rotation:
    """Wrap every value anew that is not under the current key, while the service goes on.

    It can be stopped at any time and run again: what is done is not looked at a second time. A row that the service
    changes meanwhile is left as the service wrote it.
    """
    done = Rotation()
    for column in sealed_columns(metadata):
        await _rotate_column(db, encryption, column, batch, done)
    return done


async def _rotate_column(db: Database, encryption: Encryption, column: Column[Any], batch: int, done: Rotation) -> None:
    table = column.table
    assert isinstance(table, Table)
    key = list(table.primary_key.columns)
    head = encryption.head()
    statement = (
        update(table)
        .where(column == bindparam("rotation_was"), *(part == bindparam(f"rotation_{part.name}") for part in key))
        .values({column: bindparam("rotation_now")})
    )
    last: Sequence[Any] | None = None
    while True:
        wanted = select(*key, column).where(column.is_not(None), func.substr(column, 1, len(head)) != head)
        if last is not None:
            wanted = wanted.where(tuple_(*key) > tuple_(*last))
        async with db.transaction() as session:
            rows = (await session.execute(wanted.order_by(*key).limit(batch))).all()
            changes = []
            for *row, value in rows:
                try:
                    now = encryption.rewrap(value, column, *row)
                except DecryptionError as error:
                    done.refused.append(f"{column} of {', '.join(map(str, row))}: {error}")
                    continue
                where = {f"rotation_{part.name}": named for part, named in zip(key, row, strict=True)}
                changes.append({"rotation_was": value, "rotation_now": now, **where})
            if changes:
                await (await session.connection()).execute(statement, changes)
        done.rewrapped += len(changes)
        if len(rows) < batch:
            return
        last = rows[-1][:-1]
        log.info("encryption_rotated", column=str(column), rewrapped=done.rewrapped)
