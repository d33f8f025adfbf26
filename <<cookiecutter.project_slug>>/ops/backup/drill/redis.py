"""The broker: emptied and restored, in memory and in its append-only file; then everything that must be refused."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from redis import Redis

from ops.backup.config import Keep
from ops.backup.drill.frame import Drill, Result, insist
from ops.backup.drill.rehearsal import Rehearsal
from ops.backup.errors import BackupError, Damaged, Refused
from ops.backup.redis.snapshot import run
from ops.backup.restore.redis import restore

KEYS = 20_000
HARMS: Mapping[str, Callable[[bytes], bytes]] = {
    "truncated snapshot": lambda data: data[: len(data) // 2],
    "corrupted snapshot (one byte)": lambda data: data[:99] + bytes([data[99] ^ 1]) + data[100:],
    "empty snapshot": lambda _data: b"",
}


def steps(drill: Drill, rehearsal: Rehearsal) -> None:
    """All of it."""
    with Redis.from_url(rehearsal.stack.env["BROKER_URL"]) as redis:
        broker = _Broker(rehearsal, redis)
        drill.step("write keys", broker.fill)
        drill.step("take a snapshot", broker.back_up)
        drill.step("empty the broker", broker.lose)
        drill.step("restore", broker.restore)
        drill.step("compare every key", broker.compare)
        _refusals(drill, broker)
        drill.step("live keys, with --force", broker.force)


def _refusals(drill: Drill, broker: "_Broker") -> None:
    config, store = broker.config, broker.rehearsal.store()
    drill.refused("live keys, without --force", Refused, broker.look, lambda: restore(config))
    for name, harm in HARMS.items():
        broken = run(config).manifest
        broker.harm(broken.id, harm)
        drill.refused(name, Damaged, broker.look, partial(restore, config, broken.id, force=True))
        store.delete(broken.name, broken.only.name)
    wrong = replace(config, keys={"rehearsal": b"x" * 32})
    drill.refused("wrong key", BackupError, broker.look, lambda: restore(wrong, force=True))
    half = run(config).manifest
    store.delete(half.name)
    drill.refused("half uploaded (no manifest)", Damaged, broker.look, lambda: restore(config, half.id, force=True))


class _Broker:
    """The broker, and what it held at the first snapshot."""

    def __init__(self, rehearsal: Rehearsal, redis: "Redis") -> None:
        self.rehearsal, self.redis = rehearsal, redis
        self.config = rehearsal.with_(broker=rehearsal.stack.env["BROKER_URL"], keep={"redis": Keep(7, 3)})
        self.before: dict[bytes, bytes] = {}

    def look(self) -> dict[bytes, bytes]:
        """Every key with its value, as Redis writes it down."""
        keys = list(self.redis.scan_iter(count=10_000))
        with self.redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.dump(key)
            return dict(zip(keys, pipe.execute(), strict=True))

    def harm(self, id_: str, how: Callable[[bytes], bytes]) -> None:
        """Do something to a snapshot behind the store's back."""
        stack, place = self.rehearsal.stack, self.config.store.bucket
        file = stack.data / "storage" / place / self.config.prefix / "redis" / f"{id_}.rdb"
        file.write_bytes(how(file.read_bytes()))
        stack.processes["storage"].restart()

    def fill(self) -> Result:
        """Plain values, queues, a hash."""
        with self.redis.pipeline(transaction=False) as pipe:
            for number in range(KEYS):
                pipe.set(f"key {number}", f"value {number} " * 5)
            pipe.lpush("critical", *(f"task {number}" for number in range(1000)))
            pipe.hset("unacked", "tag", "message")
            pipe.execute()
        self.before = self.look()
        return f"{len(self.before):,} keys", None

    def back_up(self) -> Result:
        """Take it."""
        manifest = run(self.config).manifest
        return f"{manifest.id}, checked, read back", manifest.size

    def lose(self) -> Result:
        """All keys."""
        self.redis.flushall()
        return f"{self.redis.dbsize()} keys are left", None

    def restore(self) -> Result:
        """Into the running broker."""
        result = restore(self.config)
        return f"{result.keys:,} keys, taken in as by a replica", result.manifest.size

    def compare(self) -> Result:
        """In memory, and after a start from the disk."""
        insist(self.look() == self.before, "the keys differ")
        insist(self.redis.info("persistence")["aof_enabled"] == 1, "the append-only file is off")
        process = self.rehearsal.stack.processes["broker"]
        process.kill()
        process.start()
        insist(self.look() == self.before, "after kill -9 and a new start the keys differ")
        return f"all {len(self.before):,} equal, and again after kill -9 and a start from the append-only file", None

    def force(self) -> Result:
        """Over live keys."""
        manifest = run(self.config).manifest
        self.redis.set("late", "1")
        kept = restore(self.config, manifest.id, force=True).kept
        insist(self.look() == self.before, "the keys differ")
        return f"restored; what was there is kept as {kept}", manifest.size
