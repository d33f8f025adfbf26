"""The store: what was written comes back, what was not written whole does not exist."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from pydantic import SecretStr

from app.core.settings import Storage
from devstack import Stack
from ops.backup import store as storing
from ops.backup.choose import choose
from ops.backup.config import Config
from ops.backup.errors import BackupError, Damaged, NoKey
from ops.backup.manifest import Manifest, new_id
from ops.backup.store import Store

NOW = datetime(2026, 11, 21, 3, tzinfo=UTC)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A store of its own."""
    with Stack(tmp_path_factory.mktemp("store"), ["storage"]) as stack:
        yield stack


@pytest.fixture
def config(servers: Stack) -> Config:
    """An empty place in it."""
    env = servers.env
    config = Config(
        dsn="",
        admin_dsn="",
        store=Storage(
            endpoint_url=env["BACKUP_S3_ENDPOINT_URL"],
            bucket=env["BACKUP_S3_BUCKET"],
            access_key=env["BACKUP_S3_ACCESS_KEY"],
            secret_key=SecretStr(env["BACKUP_S3_SECRET_KEY"]),
        ),
        prefix=f"{uuid4()}/",
        keep={},
        keys={"k1": os.urandom(32)},
        may_make_bucket=True,
    )
    Store(config).open()
    return config


def made(store: Store, text: bytes = b"text") -> Manifest:
    """A backup of one object."""
    sequence, id_ = store.next_id("redis")
    manifest = Manifest("redis", id_, sequence, NOW, (store.write(f"redis/{id_}.rdb", [text]),))
    store.commit(manifest)
    return manifest


@pytest.mark.parametrize("encrypts", [True, False])
@pytest.mark.parametrize("size", [0, 1000, 2500])
def test_an_object_comes_back(config: Config, size: int, encrypts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty, in one request, and in parts."""
    monkeypatch.setattr(storing, "PART_BYTES", 2000)
    store, plain = Store(replace(config, encrypts=encrypts)), os.urandom(size)
    part = store.write("redis/x", [plain])
    assert bool(part.encrypted_with) == encrypts
    assert b"".join(store.read(part)) == plain
    (stored,) = store.listing()
    assert (stored.name, stored.size) == (part.name, part.size)


def test_an_upload_that_fails_half_way_is_nothing(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither under its name nor among those that the store still waits for."""
    monkeypatch.setattr(storing, "PART_BYTES", 1000)
    store = Store(config)

    def breaks() -> Iterator[bytes]:
        yield bytes(5000)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        store.write("redis/x", breaks())
    assert store.listing() == []


def test_the_order_is_that_of_making_whatever_the_clock_says(config: Config) -> None:
    """Also after a manifest that cannot be read: its number is taken."""
    store = Store(config)
    first, second = made(store), made(store)
    store.write(f"redis/{new_id(7, NOW)}.json", [b"not a manifest"])
    third = made(store)
    assert [first.sequence, second.sequence, third.sequence] == [1, 2, 8]
    assert [backup.manifest for backup in store.backups("redis")] == [first, second, third]
    assert store.backups("dump") == []
    assert [line for line in store.unreadable("redis") if "000007" in line]


def test_what_is_not_encrypted_is_not_believed(config: Config) -> None:
    """Whoever can write to the bucket could have put it there; said aloud, it is read."""
    plain = Store(replace(config, encrypts=False))
    manifest = made(plain)
    store = Store(config)
    assert store.backups("redis") == []
    with pytest.raises(NoKey, match="BACKUP_ENCRYPTION=off"):
        choose(store, "redis", manifest.id)
    assert choose(plain, "redis").id == manifest.id


def test_a_backup_without_its_key_is_said_to_be_one(config: Config) -> None:
    """Not simply missing: somebody has to look for the key."""
    manifest = made(Store(config))
    other = Store(replace(config, keys={"k2": os.urandom(32)}))
    assert other.backups("redis") == []
    with pytest.raises(BackupError, match="'k1'"):
        choose(other, "redis")
    with pytest.raises(Damaged, match="'k1'"):
        choose(other, "redis", manifest.id)


def test_the_manifest_survives_its_own_format(config: Config) -> None:
    """And anything else is refused by name."""
    manifest = made(Store(config))
    assert Manifest.from_json(manifest.to_json(), manifest.name) == manifest
    fields = json.loads(manifest.to_json())
    wrong = (b"", b"[]", b"{}", json.dumps({**fields, "format": 99}).encode())
    for text in wrong:
        with pytest.raises(Damaged, match="redis/"):
            Manifest.from_json(text, manifest.name)
    with pytest.raises(Damaged, match="holds the manifest of"):
        Manifest.from_json(manifest.to_json(), "redis/000009-20261121T030000Z.json")


def test_dumps_of_the_first_format_are_still_read(config: Config) -> None:
    """They lie at the top of the prefix, not encrypted, under their whole key."""
    store, name = Store(replace(config, encrypts=False)), "000003-20261001T030000Z"
    part = store.write(f"{name}.dump", [b"PGDMP"])
    contents = {"tables": {"public.thing": 3}, "extensions": [], "revisions": []}
    first = {
        "format": 1,
        "id": name,
        "sequence": 3,
        "created_at": NOW.isoformat(),
        "object": f"{config.prefix}{name}.dump",
        "size": part.size,
        "sha256": part.sha256,
        "database": "app",
        "server_version": "18.4",
        "contents": contents,
        "outside": {"grants": None, "settings": []},
    }
    store.write(f"{name}.json", [json.dumps(first).encode()])
    manifest = choose(store, "dump")
    assert manifest.id == name
    assert manifest.details["contents"] == contents
    assert b"".join(store.read(manifest.only)) == b"PGDMP"
    assert store.next_id("dump")[0] == 4
