"""A running Redis: what is in it, and how it takes a snapshot in."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from ops.backup.errors import BackupError
from ops.backup.redis.replication import Primary, Target

POLL_SECONDS = 0.05
# To be reached by the replica, and then for each 10 MB that it has to fetch and load: much more than either takes.
REACH_SECONDS = 30
SECONDS_PER_10_MB = 5


class Server:
    """One Redis. Every failure of it is a `BackupError`."""

    def __init__(self, url: str) -> None:
        self.target = Target.of(url)
        self._redis = Redis.from_url(url, socket_timeout=30, socket_connect_timeout=10, decode_responses=True)

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"{self.target.host}:{self.target.port}"

    def keys(self) -> int:
        """How many keys all its databases hold."""
        with self._asking("count its keys"):
            spaces = self._redis.info("keyspace")
            return sum(int(space["keys"]) for space in spaces.values())

    def load(self, snapshot: Path, own_address: str = "", progress: Callable[[int], None] = lambda _sent: None) -> None:
        """Put a snapshot in the place of everything it holds, and have that in its append-only file.

        It becomes for a moment a replica of ours. What it held stays until the last byte has come.

        Args:
            snapshot: whole and checked: a server that is given a broken one may end itself.
            own_address: where it can reach us; else where our connection to it comes from.
            progress: is told the bytes sent.

        Raises:
            BackupError: it holds what it held before, unless the text says otherwise.
        """
        ours = own_address or self._our_address()
        deadline = time.monotonic() + REACH_SECONDS + snapshot.stat().st_size / 10e6 * SECONDS_PER_10_MB
        with self._asking("become a replica for the time of the restore"):
            before = str(self._redis.config_get("masterauth").get("masterauth", ""))
            with Primary(snapshot, ours, progress) as primary:
                self._redis.config_set("masterauth", primary.password)
                try:
                    self._redis.replicaof(ours, primary.port)
                    self._until(self._in_step, deadline, lambda: _why_not(primary, ours))
                finally:
                    # Whatever happened: a replica of nobody would refuse every write.
                    self._redis.replicaof("NO", "ONE")
                    self._redis.config_set("masterauth", before)
        self._until(
            self._on_disk, deadline, lambda: "its keys are back, but its append-only file is not written: its log"
        )

    def _our_address(self) -> str:
        try:
            with self.target.connect() as connection:
                ours: str = connection.getsockname()[0]
                return ours
        except OSError as error:
            raise BackupError(f"could not connect to Redis at {self.place}: {error}", "check BROKER_…") from error

    def _in_step(self) -> bool:
        found = self._redis.info("replication")
        return found.get("master_link_status") == "up" and not found.get("master_sync_in_progress")

    def _on_disk(self) -> bool:
        found = self._redis.info("persistence")
        if not found["aof_enabled"]:
            return not found["loading"]
        busy = found["aof_rewrite_in_progress"] or found["aof_rewrite_scheduled"] or found["loading"]
        return not busy and found["aof_last_bgrewrite_status"] == "ok" and found["aof_last_write_status"] == "ok"

    def _until(self, reached: Callable[[], bool], deadline: float, otherwise: Callable[[], str]) -> None:
        while True:
            try:
                if reached():
                    return
            except RedisError:  # busy with loading
                if time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                raise BackupError(f"Redis at {self.place} took nothing in: {otherwise()}")
            time.sleep(POLL_SECONDS)

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except RedisError as error:
            raise BackupError(f"Redis at {self.place} did not {what}: {error}", "check BROKER_…") from error


def _why_not(primary: Primary, ours: str) -> str:
    if primary.sent:
        return f"it fetched {primary.sent:,} bytes and did not load them; its log says why. {primary.error}"
    return f"it could not reach us at {ours}:{primary.port}; name an address that it can: --address. {primary.error}"
