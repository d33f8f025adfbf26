"""What this process hears from Redis: one connection for the channels of all its people."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from app.core.backoff import jittered
from app.core.cache import AWAY
from app.core.settings import Cache as CacheSettings

log = structlog.get_logger(__name__)

CONNECT_SECONDS = 2.0
SILENCE_SECONDS = 3.0
LONGEST_PAUSE_SECONDS = 1.0
# Every process hears this one, so that there is a connection even while nobody is here.
EVERYBODY = "events:channel:all"


class ListenerAway(Exception):
    """Redis has not confirmed a channel in time."""


class Listener:
    """Keeps a connection and subscribes to what is asked for. Connects again by itself.

    Args:
        settings: which Redis.
        hear: called with channel and message.
        regained: called whenever the connection stands, with all channels confirmed and before any message is handed
            on: the moment to fetch what was said meanwhile.
        lost: called when it has been away for `patience` seconds, and again as long as it is.
        silence: a connection that says nothing for so many seconds is asked, and given up after as many more.
    """

    def __init__(
        self,
        settings: CacheSettings,
        hear: Callable[[str, bytes], None],
        regained: Callable[[], Awaitable[None]],
        lost: Callable[[], None],
        patience: float,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        self._redis: Redis = Redis.from_url(
            settings.address(),
            socket_timeout=CONNECT_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
            # A client that connects again on its own would hide that messages were lost.
            retry=Retry(NoBackoff(), 0, supported_errors=()),
        )
        self._hear, self._regained, self._lost = hear, regained, lost
        self._patience, self._silence = patience, silence
        self._confirmed: dict[str, asyncio.Future[None]] = {}
        self._pubsub: PubSub | None = None
        self._task: asyncio.Task[None] | None = None

    async def subscribe(self, channel: str) -> None:
        """Hear a channel from now on, until `unsubscribe`.

        Raises:
            ListenerAway: Redis does not confirm it; the channel is heard once it is back.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        confirmed = self._confirmed.get(channel)
        if confirmed is None:
            confirmed = self._confirmed[channel] = asyncio.get_running_loop().create_future()
            await self._send("subscribe", channel)
        try:
            await asyncio.wait_for(asyncio.shield(confirmed), CONNECT_SECONDS)
        except TimeoutError as error:
            raise ListenerAway from error

    async def unsubscribe(self, channel: str) -> None:
        """Hear it no longer."""
        self._confirmed.pop(channel, None)
        await self._send("unsubscribe", channel)

    async def close(self) -> None:
        """Stop."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._redis.aclose()

    async def _send(self, command: str, channel: str) -> None:
        if self._pubsub is not None:
            # The reader meets the same fault; then everything is subscribed to again.
            with suppress(*AWAY):
                await getattr(self._pubsub, command)(channel)

    async def _run(self) -> None:
        pause = 0.0
        connected_until = time.monotonic()
        while True:
            connected = False
            try:
                async with self._redis.pubsub() as pubsub:
                    early = await self._subscribe_all(pubsub)
                    await self._regained()
                    connected, pause = True, 0.0
                    for channel, message in early:
                        self._hear(channel, message)
                    await self._read(pubsub)
            except Exception as error:  # noqa: BLE001  # whatever it was, the next connection may do better
                log.warning("events_not_heard", error=repr(error))
            finally:
                self._pubsub = None
            if connected:
                connected_until = time.monotonic()
            elif time.monotonic() - connected_until > self._patience:
                self._lost()
            await asyncio.sleep(jittered(pause))
            pause = min(pause * 2 or 0.05, LONGEST_PAUSE_SECONDS)

    async def _subscribe_all(self, pubsub: PubSub) -> list[tuple[str, bytes]]:
        """Subscribe to every channel; returns the messages that came before the last confirmation."""
        await pubsub.subscribe(EVERYBODY)
        self._pubsub = pubsub  # what is asked for from here on is sent over this one
        loop = asyncio.get_running_loop()
        for channel, confirmed in self._confirmed.items():
            if confirmed.done():  # by the connection before
                self._confirmed[channel] = loop.create_future()
        awaited = {EVERYBODY, *self._confirmed}
        if self._confirmed:
            await pubsub.subscribe(*self._confirmed)
        early: list[tuple[str, bytes]] = []
        async with asyncio.timeout(CONNECT_SECONDS):
            while awaited:
                message = await pubsub.get_message(timeout=CONNECT_SECONDS)
                if message is None:
                    continue
                channel = message["channel"].decode()
                if message["type"] == "message":
                    early.append((channel, message["data"]))
                else:
                    self._confirm(channel)
                    awaited.discard(channel)
        return early

    async def _read(self, pubsub: PubSub) -> None:
        asked = False
        while True:
            message = await pubsub.get_message(timeout=self._silence)
            if message is None:
                if asked:
                    raise TimeoutError("Redis is silent")
                asked = True
                await pubsub.ping()
                continue
            asked = False
            if message["type"] == "message":
                self._hear(message["channel"].decode(), message["data"])
            elif message["type"] == "subscribe":
                self._confirm(message["channel"].decode())

    def _confirm(self, channel: str) -> None:
        confirmed = self._confirmed.get(channel)
        if confirmed and not confirmed.done():
            confirmed.set_result(None)
