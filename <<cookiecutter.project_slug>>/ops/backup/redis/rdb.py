"""What Redis' snapshot file says of itself, without loading it."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ops.backup.errors import Damaged

MAGIC = (b"REDIS", b"VALKEY")
HEAD = 9  # the magic word and the version fill it together
AUX, FUNCTION, SELECT, RESIZE, END = 0xFA, 0xF5, 0xFE, 0xFB, 0xFF
TAIL = 9  # the mark of the end and a CRC-64
# Jones' polynomial, bits reversed, as Redis uses it.
POLYNOMIAL = 0x95AC9329AC4BC9B5
PIECE = 1024 * 1024


@dataclass(frozen=True)
class Facts:
    """What a snapshot holds.

    Attributes:
        redis_version: of the server that wrote it.
        keys: in the first database that has any, at the moment of the snapshot; the broker uses one.
        expiring: how many of these have an end, and may be gone when they are counted again.
    """

    redis_version: str
    keys: int
    expiring: int


def facts(file: Path) -> Facts:
    """Read the head and the end of a snapshot.

    Raises:
        Damaged: it is none, or not all of it.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(HEAD)
        if not head.startswith(MAGIC) or size < HEAD + TAIL:
            raise Damaged(f"{file.name} is no snapshot of Redis")
        try:
            found = _head(stream)
        except (ValueError, IndexError) as error:
            raise Damaged(f"{file.name} has no readable head: {error}") from error
        stream.seek(-TAIL, 2)
        if stream.read(1)[0] != END:
            raise Damaged(f"{file.name} ends too early")
    return found


def check(file: Path) -> Facts:
    """The same, and compare the checksum that Redis wrote at its end. Some seconds for each 10 MB.

    Raises:
        Damaged: it is none, or not what Redis wrote.
    """
    found = facts(file)
    with file.open("rb") as stream:
        left = file.stat().st_size - 8
        crc = 0
        while left:
            piece = stream.read(min(PIECE, left))
            crc = crc64(piece, crc)
            left -= len(piece)
        written = int.from_bytes(stream.read(8), "little")
    if written and written != crc:  # nothing where `rdbchecksum no` was set
        raise Damaged(f"{file.name} is not what Redis wrote: its CRC differs")
    return found


def _table() -> list[int]:
    table = []
    for number in range(256):
        crc = number
        for _ in range(8):
            crc = crc >> 1 ^ POLYNOMIAL if crc & 1 else crc >> 1
        table.append(crc)
    return table


_TABLE = _table()


def crc64(data: bytes, crc: int = 0) -> int:
    """Redis' checksum, continued from `crc`."""
    table = _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


def _head(stream: BinaryIO) -> Facts:
    """Everything up to the first key."""
    version, keys, expiring = "", 0, 0
    while (code := stream.read(1)[0]) in (AUX, FUNCTION, SELECT, RESIZE):
        if code == AUX:
            name, value = _string(stream), _string(stream)
            if name in (b"redis-ver", b"valkey-ver"):
                version = value.decode(errors="replace")
        elif code == FUNCTION:
            _string(stream)
        elif code == SELECT:
            _length(stream)
        else:
            keys, expiring = _length(stream)[0], _length(stream)[0]
            break
    return Facts(version, keys, expiring)


def _length(stream: BinaryIO) -> tuple[int, bool]:
    """A length, and whether it stands for a number written as such."""
    first = stream.read(1)[0]
    kind = first >> 6
    if kind == 0:
        return first & 0x3F, False
    if kind == 1:
        return (first & 0x3F) << 8 | stream.read(1)[0], False
    if kind == 3:
        return first & 0x3F, True
    return int.from_bytes(stream.read(8 if first & 1 else 4), "big"), False


def _string(stream: BinaryIO) -> bytes:
    length, special = _length(stream)
    if not special:
        return stream.read(length)
    if length > 2:
        raise ValueError("a compressed word where none is expected")
    return str(int.from_bytes(stream.read(1 << length), "little", signed=True)).encode()
