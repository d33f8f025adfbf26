"""Everything a process holds open, made and closed in one place: by the API's lifespan and by each worker process."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Request
from redis.asyncio import Redis

from app.core.ai import Answerer, Embedder, create_answerer, create_embedder, health_of
from app.core.cache import ONE_RETRY, Cache
from app.core.db import Database
from app.core.encryption import IN_SESSION, Encryption
from app.core.events import Events
from app.core.rate_limit import Limiter
from app.core.settings import Settings
from app.core.sign_outs import SignOuts
from app.core.storage import Storage
from app.core.tasks import Publisher


class Checked(Protocol):
    """Something that health asks after."""

    @property
    def name(self) -> str:
        """How health calls it."""

    async def check(self) -> None:
        """Raise when it does not work."""


class Broker:
    """The broker as seen by health and metrics; messages go through `Publisher`."""

    name = "broker"

    def __init__(self, settings: Settings) -> None:
        self.redis: Redis = Redis.from_url(
            settings.broker.address(), socket_timeout=2, socket_connect_timeout=2, retry=ONE_RETRY
        )

    async def check(self) -> None:
        """Raise when Redis does not answer."""
        await self.redis.ping()

    async def close(self) -> None:
        """Close every connection."""
        await self.redis.aclose()


@dataclass(frozen=True, slots=True)
class Resources:
    """What features work with."""

    settings: Settings
    db: Database
    cache: Cache
    events: Events
    limiter: Limiter
    broker: Broker
    storage: Storage
    publisher: Publisher
    embedder: Embedder
    answerer: Answerer
    encryption: Encryption
    sign_outs: SignOuts

    @property
    def checked(self) -> tuple[Checked, ...]:
        """The neighbours, for health."""
        replica = (self.db.replica,) if self.db.replica else ()
        ai = health_of(self.embedder, self.answerer)
        return self.db, *replica, self.cache, self.broker, self.storage, *((ai,) if ai else ())


@asynccontextmanager
async def open_resources(settings: Settings) -> AsyncIterator[Resources]:
    """Make everything, and close it in reverse order. Nothing connects before it is needed."""
    async with AsyncExitStack() as stack:
        publisher = Publisher(settings)
        stack.push_async_callback(publisher.close)
        encryption = Encryption(settings.encryption)
        db = Database(settings.database, publisher.publish, {IN_SESSION: encryption})
        stack.push_async_callback(db.close)
        cache = Cache(settings.cache)
        stack.push_async_callback(cache.close)
        events = Events(settings.ws, cache)
        limiter = Limiter(cache)
        broker = Broker(settings)
        stack.push_async_callback(broker.close)
        storage = Storage(settings.storage)
        stack.push_async_callback(storage.close)
        embedder = create_embedder(settings.ai)
        stack.push_async_callback(embedder.close)
        answerer = create_answerer(settings.ai)
        stack.push_async_callback(answerer.close)
        yield Resources(
            settings,
            db,
            cache,
            events,
            limiter,
            broker,
            storage,
            publisher,
            embedder,
            answerer,
            encryption,
            SignOuts(db, settings.auth),
        )


async def app_resources(request: Request) -> Resources:
    """The resources of the application that handles this request. A plain function would run in a thread, every time."""
    resources: Resources = request.app.state.resources
    return resources


AppResources = Annotated[Resources, Depends(app_resources)]
