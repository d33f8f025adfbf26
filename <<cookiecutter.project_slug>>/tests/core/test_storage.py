"""Object storage: bytes come back as they went, and a store that is away holds up nobody."""

import asyncio
import contextlib
import hashlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from app.core.storage import ObjectNotFound, Storage, StorageUnavailable, client

if TYPE_CHECKING:
    from app.core.resources import Resources
    from app.core.settings import Settings
    from tests.core.conftest import SettingsWith, Without


@pytest.fixture
async def storage(resources: "Resources") -> AsyncIterator[Storage]:
    """The store of the stack, emptied afterwards."""
    yield resources.storage
    for found in await resources.storage.list(""):
        await resources.storage.delete(found.key)


async def test_bytes_come_back(storage: Storage) -> None:
    """Any bytes, under any key; a second put replaces them."""
    for key, data in (("a/b", b"\x00\xff"), ("a/ü ?#%+.txt", b""), ("a/big", b"x" * 6_000_000)):
        await storage.put(key, data, "application/octet-stream")
        assert await storage.get(key) == data
    await storage.put("a/b", b"new", "text/plain")
    assert await storage.get("a/b") == b"new"


async def test_what_is_missing(storage: Storage) -> None:
    """Distinct from a store that is away: trying again will not help. Deleting it is no error."""
    with pytest.raises(ObjectNotFound):
        await storage.get("nothing")
    await storage.delete("nothing")
    await storage.put("x", b"x", "text/plain")
    await storage.delete("x")
    with pytest.raises(ObjectNotFound):
        await storage.get("x")


async def test_listing(storage: Storage) -> None:
    """Every key that begins so, with the time of its last change."""
    for key in ("list/a", "list/b/c", "other"):
        await storage.put(key, b"x", "text/plain")
    found = await storage.list("list/")
    assert sorted(item.key for item in found) == ["list/a", "list/b/c"]
    assert all(abs(item.modified.timestamp() - time.time()) < 120 for item in found)
    assert await storage.list("none/") == []
    assert [item.key for item in await storage.list("list/", after="list/a", limit=5)] == ["list/b/c"]
    assert [(item.key, item.size) for item in await storage.list("list/", limit=1)] == [("list/a", 1)]


async def test_an_object_can_be_asked_for_in_part(storage: Storage) -> None:
    """Its size without its bytes, and no more bytes than wanted."""
    await storage.put("part", b"0123456789", "text/plain")
    assert (await storage.head("part")).size == 10
    assert await storage.get("part", 4) == b"0123"
    with pytest.raises(ObjectNotFound):
        await storage.head("nothing")


async def test_presigned_address(storage: Storage) -> None:
    """Whoever has it may fetch this object, and only this, without keys."""
    await storage.put("signed", b"for you", "text/plain")
    await storage.put("other", b"not for you", "text/plain")
    address = await storage.presigned_url("signed")
    async with httpx.AsyncClient() as browser:
        assert (await browser.get(address)).content == b"for you"
        assert (await browser.get(address.split("?")[0])).status_code in (400, 403)
        assert (await browser.get(address.replace("/signed?", "/other?"))).status_code == 403


async def test_a_presigned_answer_is_what_the_signature_says(storage: Storage) -> None:
    """Its type and disposition cannot be changed by whoever has the address."""
    await storage.put("signed", b"for you", "text/plain")
    address = await storage.presigned_url("signed", content_type="text/csv", disposition='attachment; filename="a.csv"')
    async with httpx.AsyncClient() as browser:
        answer = await browser.get(address)
        assert answer.headers["Content-Type"] == "text/csv"
        assert answer.headers["Content-Disposition"] == 'attachment; filename="a.csv"'
        assert (await browser.get(address.replace("a.csv", "a.exe"))).status_code == 403


async def test_a_presigned_upload_is_for_one_object(storage: Storage) -> None:
    """Another size, kind, key or digest is refused by the store; its address is the public one when there is one."""
    data = b"as announced"
    put = await storage.presigned_put("signed", 60, size=len(data), sha256=hashlib.sha256(data).digest())
    async with httpx.AsyncClient() as browser:

        async def status(address: str, content: bytes, **other: str) -> int:
            answer = await browser.put(address, content=content, headers=put.headers | other)
            return answer.status_code

        assert await status(put.url, data + b"!") == 403
        assert await status(put.url, data, **{"Content-Type": "text/html"}) == 403
        assert await status(put.url, data, **{"x-amz-checksum-sha256": "AAAA"}) == 403
        assert await status(put.url.replace("/signed?", "/other?"), data) == 403
        assert await storage.list("") == []
        assert await status(put.url, data) == 200
    assert await storage.get("signed") == data


async def test_addresses_are_the_public_ones(settings_with: "SettingsWith") -> None:
    """Inside a network the store has another name than for browsers, and a signature covers the name."""
    storage = Storage(settings_with(STORAGE_PUBLIC_URL="https://files.example.com").storage)
    assert (await storage.presigned_url("a")).startswith("https://files.example.com/app/a?")
    assert (await storage.presigned_put("a", 60, size=1)).url.startswith("https://files.example.com/app/a?")
    await storage.close()


async def test_a_thread_for_each_call(storage: Storage, hung: "Without") -> None:
    """Many calls at once wait beside the loop, which goes on: here it is the loop that ends their wait."""
    with hung("storage"):
        calls = [asyncio.create_task(storage.put(f"many/{n}", b"x" * 100_000, "text/plain")) for n in range(30)]
        done, _ = await asyncio.wait(calls, timeout=0.1)
        assert not done
    await asyncio.gather(*calls)
    assert len(await storage.list("many/")) == 30


async def test_the_first_calls_may_come_at_once(settings: "Settings", resources: "Resources") -> None:
    """boto3 makes its client once, however many ask for it."""
    fresh = Storage(settings.storage)
    await asyncio.gather(*(fresh.check() for _ in range(8)))
    await fresh.close()


@pytest.mark.parametrize("how", ["dead", "silent"])
async def test_a_store_that_is_away(settings_with: "SettingsWith", dead_port: int, silent_port: int, how: str) -> None:
    """503, after the deadline at the latest, and the loop is free."""
    port = dead_port if how == "dead" else silent_port
    storage = Storage(
        settings_with(STORAGE_ENDPOINT_URL=f"http://127.0.0.1:{port}", STORAGE_TIMEOUT_SECONDS="0.3").storage
    )
    call = asyncio.create_task(storage.get("x"))
    worst = 0.0
    while not call.done():
        began = time.monotonic()
        await asyncio.sleep(0.01)
        worst = max(worst, time.monotonic() - began)
    with pytest.raises(StorageUnavailable):
        await call
    assert worst < 1
    await storage.close()


async def test_wrong_keys(settings_with: "SettingsWith") -> None:
    """The store checks signatures: a wrong secret is a store that is not available, not an object that is missing."""
    storage = Storage(settings_with(STORAGE_SECRET_KEY="wrong" * 8).storage)
    with pytest.raises(StorageUnavailable):
        await storage.get("x")
    await storage.close()


async def test_a_missing_bucket(settings_with: "SettingsWith", resources: "Resources") -> None:
    """Health notices, and the command that makes it may run again and again."""
    storage = Storage(settings_with(STORAGE_BUCKET="another").storage)
    with pytest.raises((ObjectNotFound, StorageUnavailable)):
        await storage.check()
    await storage.ensure_bucket(strict=False)
    await storage.ensure_bucket(strict=False)
    await storage.check()
    await storage.close()


async def test_a_development_store_lacks_features(resources: "Resources") -> None:
    """Tolerated in development, an error elsewhere: versions are what an accident is undone with."""
    await resources.storage.ensure_bucket(strict=False, origins=["https://app.example.com"])
    with pytest.raises(StorageUnavailable):
        await resources.storage.ensure_bucket(strict=True)


@pytest.fixture(scope="module")
def moto_port() -> Iterator[int]:
    """A server that knows all of S3's configuration, and checks no signature."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert time.monotonic() < deadline
            assert server.poll() is None
            time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
async def test_the_bucket_keeps_old_versions(settings_with: "SettingsWith", moto_port: int, region: str) -> None:
    """Versioning on, old versions and half-finished uploads removed after a while; a second run changes nothing."""
    settings = settings_with(
        STORAGE_ENDPOINT_URL=f"http://127.0.0.1:{moto_port}",
        STORAGE_BUCKET=f"bucket-{region}",
        STORAGE_REGION=region,
        STORAGE_OLD_VERSIONS_DAYS="17",
    ).storage
    storage = Storage(settings)
    origins = ("https://app.example.com",)
    await asyncio.gather(*(storage.ensure_bucket(strict=True, origins=origins) for _ in range(3)))
    await storage.ensure_bucket(strict=True, origins=origins)
    await storage.put("x", b"old", "text/plain")
    await storage.put("x", b"new", "text/plain")
    await storage.delete("x")
    await storage.close()

    def look() -> tuple[Any, Any, Any, Any]:
        s3 = client(settings)
        return (
            s3.get_bucket_versioning(Bucket=settings.bucket),
            s3.get_bucket_lifecycle_configuration(Bucket=settings.bucket),
            s3.list_object_versions(Bucket=settings.bucket),
            s3.get_bucket_cors(Bucket=settings.bucket),
        )

    versioning, lifecycle, versions, cors = await asyncio.to_thread(look)
    assert versioning["Status"] == "Enabled"
    rule, quarantine = lifecycle["Rules"]
    assert (quarantine["Filter"]["Prefix"], quarantine["Expiration"]["Days"]) == ("quarantine/", 2)
    assert cors["CORSRules"][0]["AllowedOrigins"] == ["https://app.example.com"]
    assert rule["Status"] == "Enabled"
    assert rule["NoncurrentVersionExpiration"]["NoncurrentDays"] == 17
    assert rule["Expiration"]["ExpiredObjectDeleteMarker"] is True
    assert rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 1
    assert len(versions["Versions"]) == 2


async def test_the_store_may_come_back(storage: Storage, without: "Without", eventually: Callable[..., Any]) -> None:
    """An error while it was away is not remembered."""
    await storage.put("x", b"x", "text/plain")
    neighbour = without("storage")
    await asyncio.to_thread(neighbour.__enter__)
    try:
        with pytest.raises(StorageUnavailable):
            await storage.get("x")
    finally:
        await asyncio.to_thread(neighbour.__exit__, None, None, None)
    assert await storage.get("x") == b"x"


async def test_a_silent_store_costs_its_deadline_a_few_times_only(
    settings_with: "SettingsWith", resources: "Resources", hung: "Without", eventually: Callable[..., Any]
) -> None:
    """Then it is not asked for a while, addresses are made all the same, and soon it is used again."""
    storage = Storage(settings_with(STORAGE_DEADLINE_SECONDS="0.4", STORAGE_TIMEOUT_SECONDS="0.5").storage)
    await storage.put("x", b"x", "text/plain")
    try:
        with hung("storage"):
            began = time.monotonic()
            failed = await asyncio.gather(*(storage.get("x") for _ in range(3)), return_exceptions=True)
            assert {type(error) for error in failed} == {StorageUnavailable}
            assert time.monotonic() - began < 2
            began = time.monotonic()
            for _ in range(20):
                with pytest.raises(StorageUnavailable):
                    await storage.get("x")
            assert time.monotonic() - began < 0.2
            assert await storage.presigned_url("x")
            with pytest.raises(StorageUnavailable):
                await storage.check()

        async def works() -> bool:
            try:
                return await storage.get("x") == b"x"
            except StorageUnavailable:
                return False

        await eventually(works, 10)
    finally:
        await storage.close()
