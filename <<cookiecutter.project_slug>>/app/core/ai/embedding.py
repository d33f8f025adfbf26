"""Embeddings: text in, vectors out.

Every vector is a list of `DIMENSIONS` floats with L2 norm 1, so that cosine distance, inner product and the database's
`halfvec` column agree whoever made it. Vectors of two models are not comparable: store `Embedder.model` beside them.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from app.core import metrics
from app.core.ai.accounting import cost, count
from app.core.ai.answering import CHARACTERS_PER_TOKEN
from app.core.ai.errors import EmbeddingProviderAway, EmbeddingUnavailable
from app.core.ai.vendor import Connection, Sdk, retry_after
from app.core.circuit import Circuit, CircuitOpen, State
from app.core.settings import Ai as AiSettings

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = structlog.get_logger(__name__)

# Statuses that go away by themselves.
PASSING = frozenset({408, 409, 429})
DIMENSIONS = 512
"""Length of every vector. Stored as `halfvec(512)`: 1 KiB a passage; changing it needs a migration and new embeddings."""


class Embedder(Protocol):
    """Turns texts into vectors. Implementations are safe to share between coroutines."""

    @property
    def model(self) -> str:
        """Name to store beside a vector; vectors of different models must not be compared."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector for each text, in order: `DIMENSIONS` floats with L2 norm 1.

        Raises:
            EmbeddingUnavailable: the provider did not answer in time, or not with what was asked.
        """

    async def close(self) -> None:
        """Release connections. The embedder is not used afterwards."""


class OpenAIEmbedder:
    """Embeddings by the OpenAI protocol: the vendor's own service or any compatible address.

    The SDK retries connection faults, time-outs, 408, 409, 429 and 5xx with exponential backoff and jitter, and honours
    `Retry-After`. What comes back is checked before it is believed: count, order, length, finite numbers.

    Args:
        api_key: sent as bearer token; some local servers need none.
        base_url: address including the version, such as `https://api.openai.com/v1`.
        model: a model that honours `dimensions` (OpenAI: the `text-embedding-3` family and later).
        batch: texts in one request.
        timeout_seconds: deadline of one attempt.
        max_retries: further attempts after the first.
        settings: of the circuit, the connections and the prices.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        model: str,
        batch: int = 64,
        timeout_seconds: float = 20.0,
        max_retries: int = 2,
        settings: AiSettings | None = None,
    ) -> None:
        settings = settings or AiSettings()
        self.model = model
        self.circuit = Circuit(
            "ai_embeddings", settings.circuit_failures, settings.circuit_seconds, counts=(EmbeddingProviderAway,)
        )
        self._settings = settings
        self._refused: str | None = None
        self._batch = batch
        # The SDK's time-out starts anew with every byte received, so a server that drips would hold us for
        # ever. This one does not; 8 s is the SDK's longest pause between two attempts.
        self._deadline = timeout_seconds * (max_retries + 1) + 8.0 * max_retries
        connect = min(settings.connect_seconds, timeout_seconds)
        self._sdk = Sdk("openai", "AsyncOpenAI", Connection(api_key, base_url, connect, timeout_seconds, max_retries))

    @property
    def trouble(self) -> str | None:
        """Why it would fail now, as far as is known without asking; None when nothing is known."""
        return self._refused or (None if self.circuit.state is State.CLOSED else f"embeddings: {self.circuit.state}")

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """See `Embedder.embed`. Texts go in batches, one after the other, so that a long text does not flood
        the provider's rate limit."""
        vectors: list[list[float]] = []
        for start in range(0, len(texts), self._batch):
            vectors += await self._account(list(texts[start : start + self._batch]))
        return vectors

    async def close(self) -> None:
        """Close the connections to the provider, if any were opened."""
        await self._sdk.close()

    async def _account(self, texts: list[str]) -> list[list[float]]:
        started = time.monotonic()
        outcome = "abandoned"
        try:
            async with self.circuit.guard():
                vectors = await self._embed_batch(texts)
            outcome, self._refused = "ok", None
            return vectors
        except CircuitOpen as error:
            outcome = "unavailable"
            raise EmbeddingUnavailable(str(error), float(error.headers["Retry-After"])) from error
        except EmbeddingProviderAway:
            outcome = "unavailable"
            raise
        except EmbeddingUnavailable as error:
            outcome, self._refused = "misconfigured", str(error)
            log.error("ai_embeddings", reason=str(error), advice="look at the key, the address and the model in AI_*")
            raise
        finally:
            metrics.AI_REQUESTS.labels("openai", "embedding", outcome).inc()
            metrics.AI_SECONDS.labels("openai", "embedding").observe(time.monotonic() - started)

    async def _embed_batch(self, texts: list[str]) -> list[list[float]]:
        client: AsyncOpenAI = await self._sdk.open()
        from openai import APIStatusError, OpenAIError  # loaded by `open`, off the event loop

        try:
            async with asyncio.timeout(self._deadline):
                answer = await client.embeddings.create(
                    model=self.model,
                    # The protocol refuses an empty string.
                    input=[text if text.strip() else "-" for text in texts],
                    dimensions=DIMENSIONS,
                    encoding_format="float",  # compatible servers do not all know base64
                )
        except TimeoutError as error:
            raise EmbeddingProviderAway(f"no answer from the embedding provider within {self._deadline:g} s") from error
        except APIStatusError as error:
            status = error.status_code
            kind = EmbeddingProviderAway if status in PASSING or status >= 500 else EmbeddingUnavailable
            raise kind(
                f"the embedding provider failed: {_reason(error)}", retry_after(error.response.headers)
            ) from error
        except OpenAIError as error:
            raise EmbeddingProviderAway(f"the embedding provider failed: {_reason(error)}") from error
        except (ValueError, TypeError, AttributeError) as error:  # a body that the SDK could not read
            raise EmbeddingProviderAway("the embedding provider sent an answer that is not an embedding") from error
        vectors = checked_vectors(getattr(answer, "data", None), expected=len(texts), model=self.model)
        self._count(answer, texts)
        return vectors

    def _count(self, answer: Any, texts: list[str]) -> None:
        tokens = getattr(getattr(answer, "usage", None), "prompt_tokens", None)
        if not isinstance(tokens, int):
            tokens = sum(map(len, texts)) // CHARACTERS_PER_TOKEN
        count("openai", self.model, {"input": tokens}, cost(self._settings, self.model, input_tokens=tokens))


def checked_vectors(data: Any, *, expected: int, model: str) -> list[list[float]]:
    """Return the vectors of an answer in the order of its texts, each normalised to length 1.

    The SDK does not validate what a server sends, and compatible servers differ: a model that ignores `dimensions`
    sends longer vectors, some send items out of order.

    Raises:
        EmbeddingUnavailable: missing or repeated items, a wrong length, or something that is not a finite number.
    """
    try:
        items = {int(item.index): item.embedding for item in data}
    except (TypeError, ValueError, AttributeError) as error:
        raise EmbeddingUnavailable("the embedding provider sent an answer that is not a list of embeddings") from error
    if len(data) != expected or set(items) != set(range(expected)):
        raise EmbeddingUnavailable(f"asked the embedding provider for {expected} vectors, received {len(data)}")
    vectors = []
    for index in range(expected):
        vector = items[index]
        if not isinstance(vector, list):
            raise EmbeddingUnavailable("the embedding provider sent a vector that is not a list of numbers")
        if len(vector) != DIMENSIONS:
            raise EmbeddingUnavailable(
                f"asked model {model!r} for {DIMENSIONS} dimensions, received {len(vector)}: "
                "choose a model that can be shortened"
            )
        vectors.append(_normalised(vector))
    return vectors


def _normalised(vector: list[Any]) -> list[float]:
    try:
        length = math.hypot(*vector)
    except TypeError as error:
        raise EmbeddingUnavailable("the embedding provider sent a vector that is not a list of numbers") from error
    if not math.isfinite(length) or length == 0.0:
        raise EmbeddingUnavailable("the embedding provider sent a vector without a direction")
    return [value / length for value in vector]


def _reason(error: Exception) -> str:
    """The kind of fault and its HTTP status. Never the message: it may quote our text or part of the key."""
    status = getattr(error, "status_code", None)
    return type(error).__name__ + (f" (HTTP {status})" if status else "")
