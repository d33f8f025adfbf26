"""The bucket of the application: what lies in it, with its history where the store keeps one."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from app.core.settings import Storage
from app.core.storage import QUARANTINE, client
from ops.backup.errors import BackupError, Damaged
from ops.backup.objects.journal import Life, Listed
from ops.backup.scratch import is_full

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PIECE = 1024 * 1024
GONE = ("NoSuchKey", "NoSuchVersion", "404", "PreconditionFailed", "412")
# A large object in parts, one at a time: eight objects are on their way at once as it is.
TRANSFER = TransferConfig(multipart_threshold=64 * PIECE, multipart_chunksize=64 * PIECE, use_threads=False)


class Vanished(Exception):
    """It was listed, and is gone."""


@dataclass(frozen=True)
class Copied:
    """What came with the bytes."""

    sha256: str
    content_type: str
    metadata: dict[str, str]


class Live:
    """The application's bucket. Every failure of it is a `BackupError`."""

    def __init__(self, settings: Storage) -> None:
        self._settings = settings
        self._bucket = settings.bucket
        self._s3: S3Client = client(settings)

    def keeps_versions(self) -> bool:
        """Whether the bucket keeps what is overwritten or deleted."""
        try:
            return self._s3.get_bucket_versioning(Bucket=self._bucket).get("Status") == "Enabled"
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("NoSuchBucket", "404"):
                raise self._failed("open the bucket", error, "make it: python -m app.cli init-storage") from error
            return False  # a store that does not know the question keeps none
        except BotoCoreError as error:
            raise self._failed("reach the store", error) from error

    def listing(self) -> list[Listed]:
        """Every object, and with versions everything that the bucket still has. Quarantine is nobody's loss."""
        try:
            found = self._versions() if self.keeps_versions() else self._objects()
            return [item for item in found if not item.key.startswith(QUARANTINE)]
        except (ClientError, BotoCoreError) as error:
            raise self._failed("list the objects", error) from error

    def current(self) -> dict[str, Listed]:
        """What is there now, by key."""
        try:
            return {item.key: item for item in self._objects()}
        except (ClientError, BotoCoreError) as error:
            raise self._failed("list the objects", error) from error

    def copy(self, life: Life, target: Path) -> Copied:
        """Fetch the bytes of a life.

        Raises:
            Vanished: they are gone.
        """
        which: dict[str, Any] = {"VersionId": life.version} if life.version else {"IfMatch": f'"{life.etag}"'}
        digest, size = hashlib.sha256(), 0
        try:
            answer = self._s3.get_object(Bucket=self._bucket, Key=life.key, **which)
            with target.open("wb") as file:
                for piece in answer["Body"].iter_chunks(PIECE):
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in GONE:
                raise Vanished(life.key) from error
            raise self._failed(f"read {life.key}", error) from error
        except (BotoCoreError, OSError) as error:
            if is_full(error):
                raise  # not the store's fault, and said by whoever gave the folder
            raise self._failed(f"read {life.key}", error) from error
        if size != life.size:
            raise BackupError(f"{life.key} came with {size} bytes instead of {life.size}")
        return Copied(digest.hexdigest(), answer.get("ContentType", ""), answer.get("Metadata", {}))

    def put_back(self, life: Life, source: Path) -> None:
        """Store the bytes of a life as the newest of its key, and read them back.

        Raises:
            Damaged: the store gives others than it was given.
        """
        extra: dict[str, Any] = {"Metadata": life.metadata}
        if life.content_type:
            extra["ContentType"] = life.content_type
        try:
            self._s3.upload_file(str(source), self._bucket, life.key, ExtraArgs=extra, Config=TRANSFER)
        except (ClientError, BotoCoreError, S3UploadFailedError, OSError) as error:
            raise self._failed(f"write {life.key}", error) from error
        if self.digest(life.key) != life.sha256:
            raise Damaged(f"{life.key} reads otherwise than it was written", "the store is at fault: try again")

    def digest(self, key: str) -> str:
        """Read what is there now, and say its SHA-256."""
        digest = hashlib.sha256()
        try:
            body = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"]
            for piece in body.iter_chunks(PIECE):
                digest.update(piece)
        except (ClientError, BotoCoreError, OSError) as error:
            raise self._failed(f"read {key}", error) from error
        return digest.hexdigest()

    def _objects(self) -> Iterator[Listed]:
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket):
            for item in page.get("Contents", []):
                yield Listed(item["Key"], "", item["ETag"].strip('"'), item["Size"], item["LastModified"])

    def _versions(self) -> Iterator[Listed]:
        for page in self._s3.get_paginator("list_object_versions").paginate(Bucket=self._bucket):
            # Each kind is newest first; between the two kinds only their times tell.
            for mark in page.get("DeleteMarkers", []):
                latest = mark["IsLatest"]
                yield Listed(mark["Key"], mark["VersionId"], "", 0, mark["LastModified"], deletion=True, latest=latest)
            for item in page.get("Versions", []):
                etag = item["ETag"].strip('"')
                yield Listed(
                    item["Key"], item["VersionId"], etag, item["Size"], item["LastModified"], latest=item["IsLatest"]
                )

    def _failed(self, what: str, error: Exception, advice: str = "check STORAGE_…") -> BackupError:
        place = self._settings.endpoint_url or "AWS S3"
        return BackupError(f"could not {what} in bucket {self._bucket} at {place}: {error}", advice)
