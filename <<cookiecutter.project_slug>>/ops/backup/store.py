"""Where backups lie: their objects and manifests under one prefix of an S3 bucket, encrypted before they leave.

<prefix>/<kind>/<id>.json      the manifest, written last
<prefix>/<kind>/<id>.<what>    its objects
<prefix>/wal/…                 the write-ahead log, which belongs to the physical backups
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from app.core.storage import client
from ops.backup import encryption
from ops.backup.config import Config
from ops.backup.errors import BackupError, Damaged, NoKey
from ops.backup.manifest import SUFFIX, Kind, Manifest, Part, new_id, sequence_of
from ops.backup.scratch import ADVICE

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

CHUNK = 1024 * 1024
# Ten thousand parts, S3's limit, are 312 GB. One at a time is in memory.
PART_BYTES = 32 * CHUNK
PARTS = 10_000
MISSING = ("NoSuchKey", "404")
DENIED = ("AccessDenied", "403")
MAY_NOT_DELETE = (
    "keys that may not delete are good ones: BACKUP_DELETE=off, and a lifecycle of the bucket, docs/backup.md"
)


@dataclass(frozen=True)
class Stored:
    """An object as a listing shows it: its name below the prefix; `modified` is the store's own clock."""

    name: str
    size: int
    modified: datetime


@dataclass(frozen=True)
class Backup:
    """A manifest with what the store says of it.

    Attributes:
        stored_at: when the store received the manifest.
        fault: why it cannot be restored; empty for a good one.
    """

    manifest: Manifest
    stored_at: datetime
    fault: str = ""


class Store:
    """The bucket. Every failure of the store is a `BackupError`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._bucket = config.store.bucket
        self._s3: S3Client = client(config.store)

    @property
    def encrypts(self) -> bool:
        """Whether what is written is encrypted."""
        return self._config.encrypts and bool(self._config.keys)

    def open(self) -> None:
        """Make sure that the bucket is there.

        Raises:
            BackupError: it is not, or the keys do not open it.
        """
        try:
            self._s3.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in ("404", "NoSuchBucket"):
                raise self._failed("open the bucket", error) from error
            if not self._config.may_make_bucket:
                raise BackupError(f"there is no bucket {self._bucket}", "make it, or set BACKUP_S3_BUCKET") from error
            try:
                self._s3.create_bucket(Bucket=self._bucket)
            except (ClientError, BotoCoreError) as failure:
                raise self._failed("make the bucket", failure) from failure
        except BotoCoreError as error:
            raise self._failed("reach the store", error) from error

    # Objects

    def write(self, name: str, pieces: Iterable[bytes]) -> Part:
        """Store a stream, encrypted where there are keys, in constant memory. A failure leaves no object of that name.

        Args:
            name: its key below the prefix; also what it is bound to, so that it cannot stand in for another one.
            pieces: the plain bytes. What they raise ends the upload and goes on to the caller.
        """
        key_id = next(iter(self._config.keys)) if self.encrypts else ""
        outgoing = encryption.encrypt(pieces, self._config.keys, name) if key_id else iter(pieces)
        digest, size = hashlib.sha256(), 0

        def measured() -> Iterator[bytes]:
            nonlocal size
            for piece in outgoing:
                digest.update(piece)
                size += len(piece)
                yield piece

        try:
            self._send(name, _cut(measured(), PART_BYTES))
        except (ClientError, BotoCoreError) as error:
            raise self._failed(f"write {name}", error) from error
        return Part(name, size, digest.hexdigest(), key_id)

    def write_file(self, name: str, file: Path) -> Part:
        """Store a file."""
        with file.open("rb") as opened:
            return self.write(name, iter(lambda: opened.read(CHUNK), b""))

    def read(self, part: Part) -> Iterator[bytes]:
        """The plain bytes of an object; it is what was written only if the iteration comes to its end.

        Raises:
            NoKey: its key is not among ours.
            Damaged: it is missing, or not what was written.
        """
        stored = self._compared(part)
        if part.encrypted_with:
            return encryption.decrypt(stored, self._config.keys, part.name)
        if self.encrypts:
            raise _not_encrypted(part.name)
        return stored

    def read_named(self, name: str) -> Iterator[bytes]:
        """The plain bytes of an object that is in no manifest; the caller knows its checksum.

        Raises:
            NoKey: its key is not among ours.
            Damaged: it is missing, or not what was written.
        """
        stored = self._raw(name)
        first = next(stored, b"")
        if encryption.is_encrypted(first):
            return encryption.decrypt(chain([first], stored), self._config.keys, name)
        if self.encrypts:
            raise _not_encrypted(name)
        return chain([first], stored)

    def fetch(self, part: Part, target: Path) -> None:
        """Write the plain bytes of an object to a file.

        Raises:
            Damaged: it is missing, or not what was written.
        """
        pieces = self.read(part)
        try:
            with target.open("wb") as file:
                for piece in pieces:
                    file.write(piece)
        except OSError as error:
            raise BackupError(f"{target} cannot be written: {error}", ADVICE) from error

    def check(self, part: Part) -> None:
        """Read an object back to its end.

        Raises:
            Damaged: it is missing, or not what was written.
        """
        for _ in self.read(part):
            pass

    def delete(self, *names: str) -> None:
        """Delete objects."""
        try:
            for name in names:
                self._s3.delete_object(Bucket=self._bucket, Key=self._key(name))
        except ClientError as error:
            denied = error.response.get("Error", {}).get("Code") in DENIED
            raise self._failed("delete what is too old", error, MAY_NOT_DELETE if denied else "") from error
        except BotoCoreError as error:
            raise self._failed("delete what is too old", error) from error

    def listing(self, folder: str = "", *, deep: bool = True) -> list[Stored]:
        """What lies below a folder of the prefix; without `deep` only what lies in it directly."""
        try:
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._key(folder), Delimiter="" if deep else "/"
            )
            return [
                Stored(item["Key"].removeprefix(self._config.prefix), item["Size"], item["LastModified"])
                for page in pages
                for item in page.get("Contents", [])
            ]
        except (ClientError, BotoCoreError) as error:
            raise self._failed("list the backups", error) from error

    # Backups

    def next_id(self, kind: Kind) -> tuple[int, str]:
        """Sequence and id of the next backup of a kind. Whoever asks holds a lock until the manifest is written."""
        taken = [sequence_of(stored.name) for stored in self._manifests(kind)]
        sequence = 1 + max(taken, default=0)
        return sequence, new_id(sequence, datetime.now(UTC))

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest: from here on it is a backup."""
        self.write(manifest.name, [manifest.to_json()])

    def backups(self, kind: Kind) -> list[Backup]:
        """Every backup of a kind, oldest first by sequence. A look at names and sizes: only reading one proves it."""
        objects = {stored.name: stored for stored in self.of(kind)}
        found: list[Backup] = []
        for name, stored in objects.items():
            if name.endswith(SUFFIX):
                try:
                    manifest = self.manifest(name)
                except Damaged:
                    continue  # counts for nothing: neither as good nor as something to delete
                found.append(Backup(manifest, stored.modified, self._fault(manifest, objects)))
        return sorted(found, key=lambda backup: (backup.manifest.sequence, backup.manifest.id))

    def of(self, kind: Kind) -> list[Stored]:
        """Everything of a kind. Before there were kinds, dumps lay at the top of the prefix."""
        older = self.listing(deep=False) if kind == "dump" else []
        return older + self.listing(f"{kind}/")

    def unreadable(self, kind: Kind) -> list[str]:
        """The manifests that cannot be read, each with the reason: damaged, or for want of a key."""
        found = []
        for stored in self._manifests(kind):
            try:
                self.manifest(stored.name)
            except Damaged as error:
                found.append(f"{stored.name}: {str(error).splitlines()[0]}")
        return found

    def manifest(self, name: str) -> Manifest:
        """Read a manifest.

        Raises:
            NoKey: its key is not among ours.
            Damaged: that is no manifest of ours.
        """
        return Manifest.from_json(self.plain(name), name)

    def plain(self, name: str) -> bytes:
        """Something small that no manifest names: a manifest itself, or notes.

        Raises:
            NoKey: its key is not among ours.
            Damaged: it is missing, or was changed.
        """
        return b"".join(self.read_named(name))

    # Uploads that never ended

    def abort_unfinished(self, older_than: timedelta) -> list[str]:
        """Give up uploads whose process died; they are no objects, but the store keeps and bills their parts."""
        try:
            pages = self._s3.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._config.prefix
            )
            uploads = [upload for page in pages for upload in page.get("Uploads", [])]
            if not uploads:
                return []
            # By the store's clock alone: each answer carries it.
            answer = self._s3.head_bucket(Bucket=self._bucket)["ResponseMetadata"]["HTTPHeaders"]["date"]
            limit = datetime.strptime(answer, "%a, %d %b %Y %H:%M:%S %Z").replace(tzinfo=UTC) - older_than
            old = [upload for upload in uploads if upload["Initiated"] < limit]
            for upload in old:
                self._s3.abort_multipart_upload(Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in (
                "NotImplemented",
                "MethodNotAllowed",
                "501",
                "NoSuchUpload",
            ):
                return []  # small stores do not list them
            raise self._failed("look for unfinished uploads", error) from error
        except (BotoCoreError, KeyError) as error:
            raise self._failed("look for unfinished uploads", error) from error
        return [upload["Key"].removeprefix(self._config.prefix) for upload in old]

    def _key(self, name: str) -> str:
        return f"{self._config.prefix}{name}"

    def _manifests(self, kind: Kind) -> list[Stored]:
        return [stored for stored in self.of(kind) if stored.name.endswith(SUFFIX)]

    def _fault(self, manifest: Manifest, objects: dict[str, Stored]) -> str:
        for part in manifest.parts:
            stored = objects.get(part.name)
            if stored is None:
                return f"{part.name} is missing"
            if stored.size != part.size:
                return f"{part.name} has {stored.size} bytes instead of {part.size}"
            if part.encrypted_with and part.encrypted_with not in self._config.keys:
                return f"BACKUP_KEYS lacks the key {part.encrypted_with!r}"
        return ""

    def _send(self, name: str, parts: Iterator[bytes]) -> None:
        """One request for what is small, else a multipart upload, which is no object before its last word."""
        bucket, key = self._bucket, self._key(name)
        first, second = next(parts, b""), next(parts, None)
        if second is None:
            self._s3.put_object(Bucket=bucket, Key=key, Body=first)
            return
        upload = self._s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        try:
            done: list[CompletedPartTypeDef] = []
            for number, body in enumerate(chain([first, second], parts), 1):
                if number > PARTS:
                    raise BackupError(f"{name} is larger than {PARTS * PART_BYTES / 1e9:.0f} GB", "raise PART_BYTES")
                answer = self._s3.upload_part(Bucket=bucket, Key=key, PartNumber=number, UploadId=upload, Body=body)
                done.append({"PartNumber": number, "ETag": answer["ETag"]})
            self._s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": done})
        except BaseException:
            self._s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
            raise

    def _raw(self, name: str) -> Iterator[bytes]:
        try:
            body = self._s3.get_object(Bucket=self._bucket, Key=self._key(name))["Body"]
            yield from body.iter_chunks(CHUNK)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in MISSING:
                raise Damaged(f"{name} is not in the store") from error
            raise self._failed(f"read {name}", error) from error
        except (BotoCoreError, OSError) as error:
            raise self._failed(f"read {name}", error) from error

    def _compared(self, part: Part) -> Iterator[bytes]:
        """The stored bytes, held against the manifest."""
        digest, size = hashlib.sha256(), 0
        for piece in self._raw(part.name):
            digest.update(piece)
            size += len(piece)
            yield piece
        if size != part.size:
            raise Damaged(f"{part.name} has {size} bytes instead of {part.size}", "take another one: --from ID")
        if digest.hexdigest() != part.sha256:
            raise Damaged(f"{part.name} is not what was written: its checksum differs", "take another one: --from ID")

    def _failed(self, what: str, error: Exception, advice: str = "") -> BackupError:
        place = self._config.store.endpoint_url or "AWS S3"
        said = f"could not {what} in bucket {self._bucket} at {place}: {error}"
        return BackupError(said, advice or "check BACKUP_S3_…; on a desk, `make dev` has the store and has to run")


def _not_encrypted(name: str) -> NoKey:
    return NoKey(
        f"{name} is not encrypted, though there are BACKUP_KEYS: it is from before them, or somebody else put it there",
        "BACKUP_ENCRYPTION=off reads it",
    )


def _cut(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of exactly that size, the last one smaller."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        while len(buffer) >= size:
            yield bytes(buffer[:size])
            del buffer[:size]
    if buffer:
        yield bytes(buffer)
