"""Where backups lie: dumps and manifests under one prefix of an S3 bucket."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from app.core.storage import client
from ops.backup.config import Config
from ops.backup.errors import BackupError, Damaged
from ops.backup.manifest import Manifest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MANIFEST = ".json"
DUMP = ".dump"
CHUNK = 1024 * 1024
# Parts of 32 MB: ten thousand of them, S3's limit, are 312 GB. Never more than four in memory.
TRANSFER = TransferConfig(multipart_threshold=32 * CHUNK, multipart_chunksize=32 * CHUNK, max_concurrency=4)


@dataclass(frozen=True)
class Stored:
    """An object as a listing shows it; `modified` is the store's own clock."""

    key: str
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

    def key(self, name: str) -> str:
        """The key of a dump or manifest."""
        return f"{self._config.prefix}{name}"

    def upload(self, file: Path, key: str) -> None:
        """Send a file, part by part."""
        try:
            self._s3.upload_file(str(file), self._bucket, key, Config=TRANSFER)
        except (ClientError, BotoCoreError, OSError) as error:
            raise self._failed(f"upload {key}", error) from error

    def put(self, key: str, data: bytes) -> None:
        """Store something small."""
        try:
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=data)
        except (ClientError, BotoCoreError) as error:
            raise self._failed(f"write {key}", error) from error

    def read(self, key: str) -> Iterator[bytes]:
        """The bytes of an object, piece by piece.

        Raises:
            Damaged: there is no such object.
        """
        try:
            body = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"]
            yield from body.iter_chunks(CHUNK)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                raise Damaged(f"{key} is not in the store") from error
            raise self._failed(f"read {key}", error) from error
        except (BotoCoreError, OSError) as error:
            raise self._failed(f"read {key}", error) from error

    def check(self, manifest: Manifest) -> None:
        """Read a dump back and compare it with its manifest.

        Raises:
            Damaged: it is not the same.
        """
        digest, size = hashlib.sha256(), 0
        for piece in self.read(manifest.object):
            digest.update(piece)
            size += len(piece)
        _compare(manifest, size, digest.hexdigest())

    def download(self, manifest: Manifest, target: Path) -> None:
        """Fetch a dump.

        Raises:
            Damaged: what came is not what the manifest says.
        """
        digest, size = hashlib.sha256(), 0
        with target.open("wb") as file:
            for piece in self.read(manifest.object):
                file.write(piece)
                digest.update(piece)
                size += len(piece)
        _compare(manifest, size, digest.hexdigest())

    def objects(self) -> list[Stored]:
        """Everything under the prefix."""
        try:
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._config.prefix)
            return [
                Stored(item["Key"], item["Size"], item["LastModified"])
                for page in pages
                for item in page.get("Contents", [])
            ]
        except (ClientError, BotoCoreError) as error:
            raise self._failed("list the backups", error) from error

    def backups(self) -> list[Backup]:
        """Every backup, oldest first by sequence. A look at names and sizes: only reading one proves it."""
        objects = {stored.key: stored for stored in self.objects()}
        found: list[Backup] = []
        for key, stored in objects.items():
            if key.endswith(MANIFEST):
                try:
                    manifest = Manifest.from_json(b"".join(self.read(key)), key)
                except Damaged:
                    continue  # counts for nothing: neither as good nor as something to delete
                dump = objects.get(manifest.object)
                if dump is None:
                    fault = "the dump is missing"
                elif dump.size != manifest.size:
                    fault = f"the dump has {dump.size} bytes instead of {manifest.size}"
                else:
                    fault = ""
                found.append(Backup(manifest, stored.modified, fault))
        return sorted(found, key=lambda backup: (backup.manifest.sequence, backup.manifest.id))

    def delete(self, *keys: str) -> None:
        """Delete objects."""
        try:
            for key in keys:
                self._s3.delete_object(Bucket=self._bucket, Key=key)
        except (ClientError, BotoCoreError) as error:
            raise self._failed("delete what is too old", error) from error

    def _failed(self, what: str, error: Exception) -> BackupError:
        place = self._config.store.endpoint_url or "AWS S3"
        return BackupError(f"could not {what} in bucket {self._bucket} at {place}: {error}", "check BACKUP_S3_…")


def _compare(manifest: Manifest, size: int, sha256: str) -> None:
    if size != manifest.size:
        raise Damaged(f"{manifest.object} has {size} bytes instead of {manifest.size}", "take another one: --from ID")
    if sha256 != manifest.sha256:
        raise Damaged(f"{manifest.object} is not what was written: its checksum differs", "take another one: --from ID")
