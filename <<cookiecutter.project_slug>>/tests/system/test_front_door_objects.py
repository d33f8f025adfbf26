"""The object store's own door: signed addresses of one bucket pass, and nothing else of the store; a real store judges them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config

from devstack import Stack
from tests.system.door import HOST, Door, document, headers, opened, replaced, status

FILES = "files.example.com"
TEXT = b"what a browser brings"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The store that development has, which checks signatures."""
    with Stack(tmp_path_factory.mktemp("store"), ["storage"]) as made:
        yield made


@pytest.fixture(scope="module")
def variables(stack: Stack) -> dict[str, str]:
    """The door of the store, open."""
    return {
        "NGINX_STORAGE": "on",
        "STORAGE_HOST": FILES,
        "STORAGE_BUCKET": stack.env["STORAGE_BUCKET"],
        "STORAGE_SERVER": f"127.0.0.1:{stack.ports['storage']}",
    }


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, variables: dict[str, str]) -> Iterator[Door]:
    """A door before nothing but the store."""
    with opened(tmp_path_factory.mktemp("door"), 1, variables) as made:
        yield made


Sign = Callable[..., str]


@pytest.fixture(scope="module")
def sign(stack: Stack, door: Door) -> Sign:
    """Path and query of an address, as the application signs it for browsers; the signature covers the public name."""

    def client(address: str) -> object:
        return boto3.client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id=stack.env["STORAGE_ACCESS_KEY"],
            aws_secret_access_key=stack.env["STORAGE_SECRET_KEY"],
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    client(stack.env["STORAGE_ENDPOINT_URL"]).create_bucket(Bucket=stack.env["STORAGE_BUCKET"])  # type: ignore[attr-defined]

    def sign(method: str, key: str = "a key", *, bucket: str = "") -> str:
        parameters = {"Bucket": bucket or stack.env["STORAGE_BUCKET"], "Key": key}
        url = client(f"https://{FILES}").generate_presigned_url(method, Params=parameters, ExpiresIn=60)  # type: ignore[attr-defined]
        parts = urlsplit(url)
        return f"{parts.path}?{parts.query}"

    return sign


def ask(door: Door, method: str, path: str, body: bytes = b"", fields: str = "", host: str = FILES) -> bytes:
    """As a page on another host does."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: https://app.example.com\r\nContent-Length: {len(body)}\r\n"
    return door.send(f"{head}{fields}Connection: close\r\n\r\n".encode() + body, name=host)


def test_a_browser_brings_and_fetches_by_signed_addresses(door: Door, sign: Sign) -> None:
    """The store believes the signature behind nginx; the page may read the answer; uploads have the limit of all bodies."""
    put = ask(door, "PUT", sign("put_object"), TEXT)
    assert status(put) == 200, put
    got = ask(door, "GET", sign("get_object"))
    assert (status(got), got.split(b"\r\n\r\n", 1)[1]) == (200, TEXT)
    found = headers(got)
    assert found["access-control-allow-origin"] == ["*"]
    assert "default-src 'none'" in found["content-security-policy"][0], "what people upload runs nothing"
    assert len(found["x-content-type-options"]) == len(found["strict-transport-security"]) == 1
    asked = ask(door, "OPTIONS", sign("put_object"), fields="Access-Control-Request-Method: PUT\r\n")
    assert status(asked) == 204
    assert headers(asked)["access-control-allow-methods"] == ["GET, HEAD, PUT"]
    assert status(ask(door, "PUT", sign("put_object"), bytes(11 * 2**20 + 1))) == 413


def test_nothing_else_of_the_store_is_reached(door: Door, sign: Sign, stack: Stack) -> None:
    """Neither without a signature, nor with one for another bucket, nor by another method, nor under the API's name."""
    bucket = stack.env["STORAGE_BUCKET"]
    ask(door, "PUT", sign("put_object"), TEXT)
    good = sign("get_object")
    for method, path, expected in [
        ("GET", f"/{bucket}/a%20key", 403),
        ("GET", f"/{bucket}/a%20key?X-Amz-Signature=short", 403),
        ("GET", "/", 404),
        ("GET", f"/{bucket}", 404),
        ("GET", f"/{bucket}?list-type=2", 404),
        ("GET", sign("get_object", bucket="backup"), 404),
        ("GET", "/health/live", 404),
        ("DELETE", good, 405),
        ("POST", good, 405),
        ("GET", good.replace(f"/{bucket}/", f"/{bucket}/../{bucket}/"), 400),
    ]:
        answer = ask(door, method, path)
        assert status(answer) == expected, (method, path)
        assert document(answer)["status"] == expected
    assert status(ask(door, "GET", good, host=HOST)) == 404, "the API's host has no objects"
    assert status(ask(door, "GET", "/api/v1/echo")) == 404, "and the store's host has no API"


def test_the_store_still_judges(door: Door, sign: Sign) -> None:
    """A signature that is wrong, of another key, or for another method passes nginx and not the store."""
    ask(door, "PUT", sign("put_object"), TEXT)
    good = sign("get_object")
    forged = good[:-1] + ("0" if good[-1] != "0" else "1")
    assert status(ask(door, "GET", forged)) == 403
    assert status(ask(door, "PUT", good, b"other")) == 403
    assert status(ask(door, "GET", good.replace("a%20key", "another"))) == 403
    secret = "Authorization: AWS4-HMAC-SHA256 Credential=x\r\nCookie: a=b\r\n"
    assert status(ask(door, "GET", good, fields=secret)) == 200, "what a client adds of its own is left at the door"


def test_it_is_shut_unless_asked_for(tmp_path: Path, sign: Sign, variables: dict[str, str]) -> None:
    """Then the name is nobody's: no certificate is shown for it, and no store is reached."""
    with opened(tmp_path, 1, variables | {"NGINX_STORAGE": "off"}) as shut:
        with pytest.raises(OSError, match="UNRECOGNIZED_NAME"):
            ask(shut, "GET", sign("get_object"))
        assert status(shut.get(sign("get_object"), host=FILES, tls=False)) == 421


def test_a_signature_for_another_host_is_found_out(tmp_path: Path, sign: Sign, variables: dict[str, str]) -> None:
    """The negative: were another name passed on, no signature would fit."""
    fault = replaced("conf.d/site/objects.conf", "Host $host$is_request_port$request_port", "Host $proxy_host")
    with opened(tmp_path, 1, variables, change=fault) as broken:
        assert status(ask(broken, "PUT", sign("put_object"), TEXT)) == 403
