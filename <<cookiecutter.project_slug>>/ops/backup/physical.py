"""What pg_basebackup writes, read as it comes: every file held against the checksums in PostgreSQL's own manifest.

pg_verifybackup does the same for files on a disk. This needs no disk, so that a backup can be read back from the store and
proven wherever the backup runs; what is restored is unpacked by the same code, and pg_verifybackup looks at it again.
"""

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ops.backup.ahead import ahead
from ops.backup.errors import Damaged
from ops.backup.wal.names import read_lsn

MANIFEST = "backup_manifest"
# Not in PostgreSQL's manifest: the log, which has checksums of its own in every record.
UNLISTED = ("pg_wal", MANIFEST)
CHUNK = 1024 * 1024
BLOCK = 64 * 1024
# What zlib calls a stream with gzip's head and checksum.
GZIP = 31


@dataclass(frozen=True)
class Physical:
    """A copy of a cluster.

    Attributes:
        start: position in the log from which it must be replayed,
        end: and up to which, or it is no consistent copy.
        size: bytes of its files.
    """

    system: str
    timeline: int
    start: int
    end: int
    files: int
    size: int


def read(pieces: Iterator[bytes], into: Path | None = None) -> Physical:
    """Read a copy to its end, and unpack it if a folder is given.

    Args:
        pieces: of the compressed archive.
        into: an empty folder.

    Raises:
        Damaged: a file is missing, is too many, or is not what the server read.
    """
    found: dict[str, tuple[int, str]] = {}
    manifest = b""
    # Fetched, decrypted and unpacked on one core, while the other one compares and writes.
    plain = ahead(_unpacked(pieces))
    try:
        with tarfile.open(fileobj=_File(plain), mode="r|", bufsize=BLOCK) as archive:
            for member in archive:
                if member.name == MANIFEST:
                    manifest = _bytes(archive, member)
                if member.isfile():
                    found[member.name] = _file(archive, member, into)
                elif member.isdir():
                    _folder(member, into)
                else:
                    raise Damaged(f"{member.name} is neither file nor folder; tablespaces are not supported")
            if into is not None and manifest:
                (into / MANIFEST).write_bytes(manifest)
        for _ in plain:  # the last word of a checksum comes at the very end
            pass
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Damaged(f"the copy cannot be unpacked: {error}") from error
    finally:
        plain.close()
    return _compare(manifest, found)


def _unpacked(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """What gzip packed, in small pieces: tarfile's own way copies all that it has ahead for each file, however small.

    Raises:
        Damaged: it is not what gzip wrote, or ends before its end.
    """
    machine = zlib.decompressobj(GZIP)
    try:
        for piece in pieces:
            left = piece
            while left and not machine.eof:
                yield machine.decompress(left, CHUNK)
                left = machine.unconsumed_tail
        while not machine.eof and (rest := machine.decompress(b"", CHUNK)):
            yield rest
    except zlib.error as error:
        raise Damaged(f"the copy cannot be unpacked: {error}") from error
    if not machine.eof:
        raise Damaged("the copy cannot be unpacked: it ends before its end")


def _file(archive: tarfile.TarFile, member: tarfile.TarInfo, into: Path | None) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    if member.name == MANIFEST:
        return 0, ""
    source = archive.extractfile(member)
    assert source is not None
    target = _safe(into, member.name).open("wb") if into is not None else None
    try:
        while piece := source.read(CHUNK):
            digest.update(piece)
            size += len(piece)
            if target:
                target.write(piece)
    finally:
        if target:
            target.close()
    if into is not None:
        _safe(into, member.name).chmod(0o600)
    return size, digest.hexdigest()


def _folder(member: tarfile.TarInfo, into: Path | None) -> None:
    if into is not None:
        _safe(into, member.name).mkdir(mode=0o700, parents=True, exist_ok=True)


def _safe(into: Path, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise Damaged(f"the copy holds a file outside of it: {name}")
    return into / path


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    source = archive.extractfile(member)
    assert source is not None
    return source.read()


def _compare(text: bytes, found: dict[str, tuple[int, str]]) -> Physical:
    try:
        # Its last line is the checksum of all before it.
        body, _, last = text.rpartition(b'"Manifest-Checksum"')
        manifest: dict[str, Any] = json.loads(text)
        if hashlib.sha256(body).hexdigest() != manifest["Manifest-Checksum"] or not last:
            raise Damaged("PostgreSQL's manifest is not what the server wrote")
        listed = {entry["Path"]: entry for entry in manifest["Files"]}
        first, last_range = manifest["WAL-Ranges"][0], manifest["WAL-Ranges"][-1]
        system = str(manifest["System-Identifier"])
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"the copy has no manifest that could be read: {error!r}") from error
    for path, entry in listed.items():
        size, sha256 = found.get(path, (-1, ""))
        if size != entry["Size"]:
            raise Damaged(f"{path} has {size} bytes instead of {entry['Size']}" if size >= 0 else f"{path} is missing")
        # Empty ones have a checksum too.
        if sha256 != entry["Checksum"]:
            raise Damaged(f"{path} is not what the server read: its checksum differs")
    if extra := [name for name in found if name not in listed and name.split("/")[0] not in UNLISTED]:
        raise Damaged(f"the copy holds {extra[0]}, which PostgreSQL's manifest does not know")
    return Physical(
        system,
        int(last_range["Timeline"]),
        read_lsn(first["Start-LSN"]),
        read_lsn(last_range["End-LSN"]),
        len(listed),
        sum(size for size, _ in found.values()),
    )


class _File(io.RawIOBase, IO[bytes]):
    """An iterator as a file that can be read from its beginning to its end."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._piece, self._at = pieces, b"", 0

    def read(self, size: int = -1) -> bytes:
        """So many bytes; fewer at the end."""
        parts: list[bytes] = []
        while size > 0:
            if self._at == len(self._piece):
                if (piece := next(self._pieces, None)) is None:
                    break
                self._piece, self._at = piece, 0
                continue
            part = self._piece[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)
