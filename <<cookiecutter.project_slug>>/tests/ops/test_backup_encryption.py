"""What lies in the store can be read by nobody else, and nothing can be changed in it unseen."""

import itertools
import os
from collections.abc import Callable

import pytest

from ops.backup.encryption import FRAME_BYTES, TAG_BYTES, decrypt, encrypt
from ops.backup.errors import Damaged, NoKey

KEYS = {"k1": os.urandom(32)}
PLACE = "dump/000001-20261121T030000Z.dump"
HEAD = 4 + 2 + 2 + 12 + 48
SIZES = (0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES)


def sealed(plain: bytes, piece: int = 700_001) -> bytes:
    """Encrypted, handed over in odd pieces."""
    return b"".join(encrypt((plain[at : at + piece] for at in range(0, len(plain), piece)), KEYS, PLACE))


def opened(data: bytes, place: str = PLACE, piece: int = 300_007) -> bytes:
    """Decrypted, as a network would bring it."""
    return b"".join(decrypt((data[at : at + piece] for at in range(0, len(data), piece)), KEYS, place))


@pytest.mark.parametrize("size", SIZES)
def test_it_comes_back(size: int) -> None:
    """Around every boundary of a frame; and nothing of it can be seen."""
    plain = os.urandom(size)
    data = sealed(plain)
    assert opened(data) == plain
    assert size < 64 or plain[:64] not in data  # a byte or two are somewhere in any ciphertext
    assert data != sealed(plain)


def frames(data: bytes) -> list[bytes]:
    """Head and frames."""
    step = FRAME_BYTES + TAG_BYTES
    return [data[:HEAD], *(data[at : at + step] for at in range(HEAD, len(data), step))]


HARMS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "cut within a frame": lambda parts: [*parts[:-1], parts[-1][:-1]],
    "cut between frames": lambda parts: parts[:-1],
    "cut to the head": lambda parts: parts[:1],
    "cut within the head": lambda parts: [parts[0][:30]],
    "empty": lambda _: [],
    "two frames changed places": lambda parts: [parts[0], parts[2], parts[1], *parts[3:]],
    "a frame twice": lambda parts: [*parts[:2], parts[1], *parts[2:]],
    "a frame is missing": lambda parts: [*parts[:2], *parts[3:]],
    "something behind the end": lambda parts: [*parts, b"more"],
    "one bit": lambda parts: [*parts[:2], bytes([parts[2][0] ^ 1]) + parts[2][1:], *parts[3:]],
    "the key's id": lambda parts: [parts[0].replace(b"k1", b"k2"), *parts[1:]],
    "the head of another object": lambda parts: [sealed(b"")[:HEAD], *parts[1:]],
    "not encrypted at all": lambda _: [b"PGDMP and so on, as long as a head would be" * 3],
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
def test_any_change_is_refused(harm: Callable[[list[bytes]], list[bytes]]) -> None:
    """Before its end, so that nothing can be done with it."""
    data = sealed(os.urandom(3 * FRAME_BYTES + 5))
    assert opened(b"".join(frames(data)))
    with pytest.raises(Damaged):
        opened(b"".join(harm(frames(data))))


def test_one_object_cannot_stand_in_for_another() -> None:
    """An older backup under a newer name would otherwise pass for it."""
    with pytest.raises(Damaged, match="another name"):
        opened(sealed(b"older"), PLACE.replace("000001", "000002"))


def test_the_key_that_is_lacking_is_named() -> None:
    """So that somebody knows which one to look for."""
    with pytest.raises(NoKey, match="'k1'"):
        b"".join(decrypt([sealed(b"text")], {"k2": KEYS["k1"]}, PLACE))


def test_memory_does_not_grow_with_the_stream() -> None:
    """What goes in comes out at once: never more than two frames are held."""
    taken = 0

    def endless() -> "itertools.chain[bytes]":
        def count(piece: bytes) -> bytes:
            nonlocal taken
            taken += 1
            return piece

        return itertools.chain(map(count, itertools.repeat(bytes(FRAME_BYTES), 100)))

    stream = decrypt(encrypt(endless(), KEYS, PLACE), KEYS, PLACE)
    for number in range(1, 20):
        next(stream)
        assert taken <= number + 3
