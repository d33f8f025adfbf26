"""S3-compatible object storage through boto3, off the event loop.

boto3 is synchronous, so every call runs in a thread of a pool of its own: a slow store fills that pool and nothing else.
"""

import asyncio
from base64 import b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import structlog

from app.core.circuit import Circuit, CircuitOpen
from app.core.errors import Unavailable
from app.core.settings import Storage as StorageSettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = structlog.get_logger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
THREADS = 8
# So many calls in a row fail, each after its own further attempts, and for so long none is made then.
FAILURES = 3
OPEN_SECONDS = 2.0
CHORE_SECONDS = 120.0
# What strangers put here by a signed address, until it has been looked at. What is left goes after two days.
QUARANTINE = "quarantine/"
QUARANTINE_DAYS = 2
PLAIN_BYTES = "application/octet-stream"


class StorageUnavailable(Unavailable):
    """The object store does not answer."""

    detail = "Files are not available at the moment. Try again shortly."


class ObjectNotFound(Exception):
    """No object has this key."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a listing tells of an object."""

    key: str
    modified: datetime
    size: int


@dataclass(frozen=True, slots=True)
class SignedPut:
    """Leave to store one object: a PUT to this address with exactly these headers."""

    url: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class NamedObjects:
    """Rows that name objects. A feature lists its own as OBJECTS in its module `objects`; a restore checks them.

    Attributes:
        rows: what they are, for people.
        query: SQL that gives the key of each object that must be there.
    """

    rows: str
    query: str


def client(settings: StorageSettings, endpoint_url: str = "") -> "S3Client":
    """A boto3 client with the project's deadlines and retries. Loading boto3 takes half a second: call it off the loop.

    Args:
        settings: of the store.
        endpoint_url: instead of the settings' own.
    """
    import boto3
    from botocore.config import Config

    made: S3Client = boto3.client(
        "s3",
        endpoint_url=endpoint_url or settings.endpoint_url or None,
        region_name=settings.region,
        aws_access_key_id=settings.access_key or None,
        aws_secret_access_key=settings.secret_key.get_secret_value() or None,
        config=Config(
            # Presigned addresses would otherwise be of version 2, which stores and most of AWS' regions refuse.
            signature_version="s3v4",
            connect_timeout=settings.timeout_seconds,
            read_timeout=settings.timeout_seconds,
            retries={"mode": "standard", "total_max_attempts": 3},
            # A name of its own for each bucket needs wildcard DNS, which stores other than AWS rarely have.
            s3={"addressing_style": "path" if settings.endpoint_url else "auto"},
            # Stores other than AWS do not all know the newer checksum headers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            max_pool_connections=THREADS,
        ),
    )
    return made


class Storage:
    """The application's bucket."""

    name = "storage"

    def __init__(self, settings: StorageSettings) -> None:
        self._settings = settings
        self._bucket = settings.bucket
        self.circuit = Circuit(self.name, FAILURES, OPEN_SECONDS, counts=(StorageUnavailable,))
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="storage")
        self._making = Lock()
        self._made: S3Client | None = None
        self._signing: S3Client | None = None

    async def put(self, key: str, data: bytes, content_type: str) -> None:
        """Store an object; an earlier one of the same key becomes an old version.

        Raises:
            StorageUnavailable: the store does not answer.
        """
        await self._call(lambda s3: s3.put_object(Bucket=self._bucket, Key=key, Body=data, ContentType=content_type))

    async def get(self, key: str, most: int | None = None) -> bytes:
        """The bytes of an object.

        Args:
            key: of the object.
            most: read no more than so many.

        Raises:
            ObjectNotFound: no object has this key.
            StorageUnavailable: the store does not answer.
        """
        return await self._call(lambda s3: s3.get_object(Bucket=self._bucket, Key=key)["Body"].read(most))

    async def head(self, key: str) -> StoredObject:
        """What the store tells of an object without sending it.

        Raises:
            ObjectNotFound: no object has this key.
            StorageUnavailable: the store does not answer.
        """
        found = await self._call(lambda s3: s3.head_object(Bucket=self._bucket, Key=key))
        return StoredObject(key, found["LastModified"], found["ContentLength"])

    async def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no error."""
        await self._call(lambda s3: s3.delete_object(Bucket=self._bucket, Key=key))

    async def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[StoredObject]:
        """Objects whose key begins with `prefix`, in the order of their keys.

        Args:
            prefix: begins every key.
            after: only keys behind this one.
            limit: at most so many; all unless given.
        """

        def pages(s3: "S3Client") -> list[StoredObject]:
            config: Any = {"MaxItems": limit, "PageSize": min(limit, 1000)} if limit else {}
            found = s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=prefix, StartAfter=after, PaginationConfig=config
            )
            return [
                StoredObject(item["Key"], item["LastModified"], item["Size"])
                for page in found
                for item in page.get("Contents", [])
            ]

        return await self._call(pages)

    async def presigned_url(
        self, key: str, seconds: int = 300, *, content_type: str = "", disposition: str = ""
    ) -> str:
        """An address at which anyone may fetch the object for a while. Made without asking the store.

        Args:
            key: of the object.
            seconds: how long the address is good.
            content_type: what the answer says it is, instead of what was said when it was stored.
            disposition: the answer's Content-Disposition.
        """
        parameters = {"Bucket": self._bucket, "Key": key}
        if content_type:
            parameters["ResponseContentType"] = content_type
        if disposition:
            parameters["ResponseContentDisposition"] = disposition
        return await self._run(
            lambda _: self._signer.generate_presigned_url("get_object", Params=parameters, ExpiresIn=seconds)
        )

    async def presigned_put(self, key: str, seconds: int, *, size: int, sha256: bytes | None = None) -> SignedPut:
        """Leave for anyone to store one object under this key, for a while. Made without asking the store.

        The address is good for exactly this size and kind, and for these bytes where the store knows checksums. It may be
        used more than once, so what was stored by it is looked at and copied, never believed.

        Args:
            key: of the object.
            seconds: how long the address is good.
            size: in bytes.
            sha256: digest of the bytes.
        """
        headers = {"Content-Type": PLAIN_BYTES}
        parameters: dict[str, Any] = {
            "Bucket": self._bucket, "Key": key, "ContentLength": size, "ContentType": PLAIN_BYTES
        }  # fmt: skip
        if sha256:
            parameters["ChecksumSHA256"] = headers["x-amz-checksum-sha256"] = b64encode(sha256).decode()
        url = await self._run(
            lambda _: self._signer.generate_presigned_url("put_object", Params=parameters, ExpiresIn=seconds)
        )
        return SignedPut(url, headers)

    async def ensure_bucket(self, *, strict: bool, origins: Sequence[str] = ()) -> None:
        """Make the bucket, keep old versions in it for a while, and give up half-finished uploads.

        Args:
            strict: fail when the store offers no versioning or lifecycle, as development stores do not.
            origins: of pages that may use signed addresses.
        """
        # A chore of many calls, for which nobody waits.
        await self._run(
            partial(_ensure_bucket, settings=self._settings, strict=strict, origins=origins), seconds=CHORE_SECONDS
        )

    async def check(self) -> None:
        """Raise when the store does not answer or the bucket is missing."""
        await self._run(lambda s3: s3.head_bucket(Bucket=self._bucket))  # whatever the circuit thinks of it

    async def load(self) -> None:
        """Load boto3 ahead of the first use, which has a deadline."""
        await asyncio.get_running_loop().run_in_executor(self._threads, lambda: self._client)

    async def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def _client(self) -> "S3Client":
        with self._making:  # boto3 can use one client from many threads, but not make two at once
            if self._made is None:
                self._made = client(self._settings)
            return self._made

    @property
    def _signer(self) -> "S3Client":
        """The client whose addresses are those that people reach the store at; its signatures cover the host."""
        if not self._settings.public_url:
            return self._client
        with self._making:
            if self._signing is None:
                self._signing = client(self._settings, self._settings.public_url)
            return self._signing

    async def _call(self, work: Callable[["S3Client"], R]) -> R:
        """Ask the store, unless it did not answer lately."""
        try:
            async with self.circuit.guard():
                return await self._run(work)
        except CircuitOpen as error:
            raise StorageUnavailable from error

    async def _run(self, work: Callable[["S3Client"], R], seconds: float = 0.0) -> R:
        seconds = seconds or self._settings.deadline_seconds
        if self._made is None:  # loading boto3 is not the store's fault
            await self.load()
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._guarded, work)
        except TimeoutError as error:  # the thread goes on until the deadlines of its own calls
            log.warning("storage_failed", error=f"no answer within {seconds:g} s")
            raise StorageUnavailable from error

    def _guarded(self, work: Callable[["S3Client"], R]) -> R:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return work(self._client)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                raise ObjectNotFound(str(error)) from error
            log.warning("storage_failed", error=str(error))
            raise StorageUnavailable from error
        except BotoCoreError as error:
            log.warning("storage_failed", error=str(error))
            raise StorageUnavailable from error


def _make_bucket(s3: "S3Client", bucket: str, region: str) -> None:
    try:
        if region == "us-east-1":
            s3.create_bucket(Bucket=bucket)
        else:
            place: Any = {"LocationConstraint": region}  # the stubs know AWS' regions alone
            s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=place)
    except s3.exceptions.BucketAlreadyOwnedByYou:
        return  # two deploys at once: the other one was faster
    log.info("bucket_made", bucket=bucket)


def _ensure_bucket(s3: "S3Client", settings: StorageSettings, strict: bool, origins: Sequence[str]) -> None:
    from botocore.exceptions import ClientError

    bucket = settings.bucket
    if not any(found.get("Name") == bucket for found in s3.list_buckets().get("Buckets", [])):
        _make_bucket(s3, bucket, settings.region)
    steps: list[tuple[str, Callable[[], object]]] = [
        ("versioning", lambda: s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})),
        (
            "lifecycle",
            lambda: s3.put_bucket_lifecycle_configuration(
                Bucket=bucket,
                LifecycleConfiguration={
                    "Rules": [
                        {
                            "ID": "old-versions",
                            "Status": "Enabled",
                            "Filter": {"Prefix": ""},
                            "NoncurrentVersionExpiration": {"NoncurrentDays": settings.old_versions_days},
                            # A deletion whose last old version is gone marks nothing any more.
                            "Expiration": {"ExpiredObjectDeleteMarker": True},
                            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
                        },
                        {
                            "ID": "quarantine",
                            "Status": "Enabled",
                            "Filter": {"Prefix": QUARANTINE},
                            "Expiration": {"Days": QUARANTINE_DAYS},
                        },
                    ]
                },
            ),
        ),
    ]
    rule: Any = {
        "AllowedOrigins": list(origins),
        "AllowedMethods": ["GET", "HEAD", "PUT"],
        "AllowedHeaders": ["content-type", "x-amz-checksum-sha256"],
        "MaxAgeSeconds": 3600,
    }
    for what, step in steps:
        try:
            step()
        except ClientError as error:
            if strict:
                raise
            log.warning("bucket_feature_missing", feature=what, bucket=bucket, error=str(error))
    if origins:
        try:
            s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})
        except ClientError as error:
            # Not fatal anywhere: some stores have one rule for all buckets, which lets every origin in.
            log.warning("bucket_feature_missing", feature="cors", bucket=bucket, error=str(error))
