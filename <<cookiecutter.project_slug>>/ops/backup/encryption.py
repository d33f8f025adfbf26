"""Backups that only their owner can read: encrypted here, before they leave for the store.

Each object has a key of its own (AES-256-GCM), which stands in its head, wrapped by a key of BACKUP_KEYS whose id is there
as well. What follows are frames of up to a megabyte. A frame's nonce is its number and whether it is the last one, so that a
frame that is missing, moved or repeated, and an end that came early, are refused; the object's name is part of what is
authenticated with its key, so that one object cannot stand in for another. (The construction is STREAM, as in age and Tink.)
"""

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ops.backup.errors import Damaged, NoKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# magic (4) · version (1) · length of the key's id (1) · id · nonce (12) · wrapped key (32 + 16), then the frames
MAGIC = b"OPBK"
VERSION = 1
FRAME_BYTES = 1024 * 1024
TAG_BYTES = 16
NONCE_BYTES = 12
DATA_KEY_BYTES = 32
WRAPPED_BYTES = NONCE_BYTES + DATA_KEY_BYTES + TAG_BYTES
FIXED_BYTES = len(MAGIC) + 2

Keys = Mapping[str, bytes]


def encrypt(pieces: Iterable[bytes], keys: Keys, place: str) -> Iterator[bytes]:
    """Encrypt a stream under the first key, in constant memory.

    Args:
        pieces: the plain bytes, cut anyhow.
        keys: by their ids, the current one first.
        place: name of the object that will hold it.
    """
    name, key = next(iter(keys.items()))
    data_key, nonce = os.urandom(DATA_KEY_BYTES), os.urandom(NONCE_BYTES)
    head = MAGIC + bytes([VERSION, len(name)]) + name.encode("ascii")
    yield head + nonce + _cipher(key).encrypt(nonce, data_key, head + place.encode())
    cipher = _cipher(data_key)
    for number, frame, last in _frames(pieces, FRAME_BYTES):
        yield cipher.encrypt(_nonce(number, last), frame, None)


def decrypt(pieces: Iterable[bytes], keys: Keys, place: str) -> Iterator[bytes]:
    """The plain bytes again; each piece that comes out is authentic, and that it was the last one is known at the end.

    Raises:
        NoKey: the key is not among ours.
        Damaged: it was changed, cut, put together anew, or belongs to another name.
    """
    stream = _Reader(pieces)
    cipher = _cipher(_data_key(stream, keys, place))
    for number, frame, last in _frames(stream.rest(), FRAME_BYTES + TAG_BYTES):
        yield _opened(cipher, _nonce(number, last), frame, place)


def is_encrypted(head: bytes) -> bool:
    """Whether an object begins like an encrypted one."""
    return head.startswith(MAGIC)


def _data_key(stream: "_Reader", keys: Keys, place: str) -> bytes:
    from cryptography.exceptions import InvalidTag

    fixed = stream.take(FIXED_BYTES)
    if len(fixed) < FIXED_BYTES or not is_encrypted(fixed) or fixed[len(MAGIC)] != VERSION:
        raise Damaged(f"{place} is not encrypted as backups are")
    head = fixed + stream.take(fixed[-1])
    name = head[FIXED_BYTES:].decode("ascii", errors="replace")
    wrapped = stream.take(WRAPPED_BYTES)
    if name not in keys:
        raise NoKey(
            f"BACKUP_KEYS lacks the key {name!r}, which {place} was encrypted with",
            "add it behind the current one: BACKUP_KEYS=current,older",
        )
    try:
        return _cipher(keys[name]).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], head + place.encode())
    except (InvalidTag, ValueError) as error:
        raise Damaged(
            f"{place} cannot be opened with the key {name!r}: it was changed, belongs to another name, or the key is wrong"
        ) from error


def _opened(cipher: "AESGCM", nonce: bytes, frame: bytes, place: str) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        return cipher.decrypt(nonce, frame, None)
    except (InvalidTag, ValueError) as error:
        raise Damaged(f"{place} is not what was encrypted: changed, cut or put together anew") from error


def _frames(pieces: Iterable[bytes], size: int) -> Iterator[tuple[int, bytes, bool]]:
    """Cut a stream anew: number, bytes, whether it is the last. Even an empty stream has one frame, or its end could be cut."""
    number, buffer = 0, bytearray()
    for piece in pieces:
        buffer += piece
        # One byte more is needed to know that a full frame is not the last one.
        while len(buffer) > size:
            yield number, bytes(buffer[:size]), False
            del buffer[:size]
            number += 1
    yield number, bytes(buffer), True


def _nonce(number: int, last: bool) -> bytes:
    return struct.pack(">3xQ?", number, last)


def _cipher(key: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


class _Reader:
    """The beginning of a stream by the byte, its rest as it comes."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._buffer = b""

    def take(self, size: int) -> bytes:
        """So many bytes; fewer at the end."""
        while len(self._buffer) < size and (piece := next(self._pieces, None)) is not None:
            self._buffer += piece
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def rest(self) -> Iterator[bytes]:
        """Everything else."""
        yield self._buffer
        yield from self._pieces
