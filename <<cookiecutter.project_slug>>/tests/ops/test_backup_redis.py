"""The broker comes back from a snapshot, in memory and on disk, and what is not whole is refused."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import Redis

from app.core.settings import Storage
from devstack import Stack
from ops.backup.config import Config, Keep
from ops.backup.errors import BackupError, Busy, Damaged, Refused
from ops.backup.lock import only_one
from ops.backup.redis import rdb
from ops.backup.redis.server import Server
from ops.backup.redis.snapshot import run, verify
from ops.backup.restore.redis import restore
from ops.backup.store import Store


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A broker and a store that these tests may ruin."""
    with Stack(tmp_path_factory.mktemp("servers"), ("broker", "storage")) as stack:
        yield stack


@pytest.fixture
def config(servers: Stack, tmp_path: Path) -> Config:
    """A place in the store of its own; the database is away."""
    env = servers.env
    return Config(
        dsn="postgresql://nobody@127.0.0.1:1/none",
        admin_dsn="",
        store=Storage(
            endpoint_url=env["BACKUP_S3_ENDPOINT_URL"],
            bucket="backup",
            access_key=env["BACKUP_S3_ACCESS_KEY"],
            secret_key=SecretStr(env["BACKUP_S3_SECRET_KEY"]),
        ),
        prefix=f"{tmp_path.name}/",
        keep={"redis": Keep(7, 3)},
        keys={"test": b"k" * 32},
        may_make_bucket=True,
        broker=env["BROKER_URL"],
    )


@pytest.fixture
def broker(servers: Stack) -> Iterator[Redis]:
    """The broker, empty at first."""
    with Redis.from_url(servers.env["BROKER_URL"]) as redis:
        redis.flushall()
        yield redis


def fill(broker: Redis) -> None:
    """Every kind of value that Celery keeps there, and one that is large."""
    broker.lpush("critical", "first", "second")
    broker.hset("unacked", "tag", "message")
    broker.zadd("unacked_index", {"tag": 17.5})
    broker.sadd("_kombu.binding.celery", "celery")
    broker.set("soon", "gone", ex=1000)
    broker.set("large", "\0\r\n" * 200_000)


def look(broker: Redis) -> dict[bytes, bytes]:
    """Every key with its value, as Redis writes it down."""
    return {key: broker.dump(key) or b"" for key in broker.scan_iter()}


def test_a_lost_broker_comes_back_and_stays_after_a_restart(servers: Stack, config: Config, broker: Redis) -> None:
    """With the append-only file on, which is not read from where a snapshot would be laid."""
    fill(broker)
    before = look(broker)
    manifest = run(config).manifest
    assert manifest.details["keys"] == len(before)
    broker.flushall()
    result = restore(config)
    assert (result.keys, result.kept) == (len(before), None)
    assert look(broker) == before
    assert 0 < broker.ttl("soon") <= 1000
    assert broker.info("persistence")["aof_enabled"] == 1
    assert not any(broker.config_get("masterauth").values())
    broker.lpush("critical", "third")  # it is nobody's replica
    after = look(broker)
    servers.processes["broker"].kill()
    servers.processes["broker"].start()
    assert look(broker) == after


def test_a_broker_with_keys_is_refused_and_with_force_kept(config: Config, broker: Redis) -> None:
    """Tasks of today are not lost for those of an hour ago by a slip of the finger."""
    broker.set("old", "1")
    run(config)
    broker.flushall()
    broker.set("new", "1")
    before = look(broker)
    with pytest.raises(Refused, match="has 1 keys"):
        restore(config)
    assert look(broker) == before
    kept = restore(config, force=True).kept
    assert set(look(broker)) == {b"old"}
    assert kept
    restore(config, kept, force=True)
    assert look(broker) == before


def test_an_empty_broker_is_a_backup_too(config: Config, broker: Redis) -> None:
    """No task waits: that is the usual case, and no fault."""
    assert run(config).manifest.details["keys"] == 0
    broker.set("later", "1")
    assert restore(config, force=True).keys == 0


@pytest.mark.parametrize(
    "harm",
    [lambda data: data[: len(data) // 2], lambda data: data[:-20] + b"\xff" + data[-19:], lambda _data: b""],
    ids=["truncated", "one byte", "empty"],
)
def test_what_is_not_whole_is_refused(servers: Stack, config: Config, broker: Redis, harm: object) -> None:
    """The live keys stay, also with force."""
    assert callable(harm)
    fill(broker)
    manifest = run(config).manifest
    file = servers.data / "storage/backup" / config.prefix / manifest.only.name
    file.write_bytes(harm(file.read_bytes()))
    servers.processes["storage"].restart()
    before = look(broker)
    with pytest.raises(Damaged):
        restore(config, manifest.id, force=True)
    with pytest.raises(Damaged):
        verify(config, manifest.id)
    assert look(broker) == before


def test_a_restore_that_is_cut_off_leaves_what_was_there(
    config: Config, broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker takes writes again, and holds what it held."""
    fill(broker)
    run(config)
    broker.delete("large")
    before = look(broker)

    def cut(connection: object, *_: object) -> None:
        raise OSError("the network is gone")

    monkeypatch.setattr("ops.backup.redis.replication.Primary._send", cut)
    monkeypatch.setattr("ops.backup.redis.server.REACH_SECONDS", 1)
    with pytest.raises(BackupError, match="the network is gone"):
        restore(config, force=True)
    assert broker.info("replication")["role"] == "master"
    broker.set("on", "we go")
    broker.delete("on")
    assert look(broker) == before


def test_a_stranger_gets_no_snapshot(servers: Stack, config: Config, broker: Redis, tmp_path: Path) -> None:
    """Who does not know the password that only the broker was told gets an error."""
    from ops.backup.redis.replication import Primary, Target, fetch

    file = tmp_path / "dump.rdb"
    fill(broker)
    fetch(Target.of(config.broker), file)
    with Primary(file, "127.0.0.1") as primary:
        for secret in ("", ":wrong@"):
            with pytest.raises(BackupError):
                fetch(Target.of(f"redis://{secret}127.0.0.1:{primary.port}"), tmp_path / "stolen")
            assert not primary.sent
        fetch(Target.of(f"redis://:{primary.password}@127.0.0.1:{primary.port}"), tmp_path / "given")
    assert (tmp_path / "given").read_bytes() == file.read_bytes()


def test_redis_own_checksum_is_compared(config: Config, broker: Redis, tmp_path: Path) -> None:
    """What came wrong from Redis itself has a right digest of ours."""
    from ops.backup.redis.replication import Target, fetch

    file = tmp_path / "dump.rdb"
    fill(broker)
    fetch(Target.of(config.broker), file)
    assert rdb.check(file).keys == 6
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    rdb.facts(file)
    with pytest.raises(Damaged, match="CRC"):
        rdb.check(file)
    assert rdb.crc64(b"123456789") == 0xE9C6D914C4B8D9CA


def test_a_broker_that_is_away_or_keeps_us_out_is_said(config: Config) -> None:
    """And leaves no backup."""
    for url, words in (("redis://127.0.0.1:1/0", "127.0.0.1:1"), (config.broker.replace("//:", "//:x"), "AUTH")):
        with pytest.raises(BackupError, match=words):
            run(replace(config, broker=url))
    assert not Store(config).backups("redis")
    with pytest.raises(BackupError, match="check BROKER_"):
        Server("redis://127.0.0.1:1/0").keys()


def test_one_run_at_a_time(config: Config) -> None:
    """Also where the database, which keeps the lock for all machines, is away."""
    with only_one(config, "redis"), pytest.raises(Busy, match="another run of redis"):
        run(config)
