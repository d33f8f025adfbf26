"""The choice of providers by the settings."""

from app.core.ai import claude, openai_protocol
from app.core.ai.answering import Answerer
from app.core.ai.embedding import Embedder, OpenAIEmbedder
from app.core.ai.health import AiHealth, Watched
from app.core.ai.model import ModelAnswerer
from app.core.ai.offline import OfflineAnswerer, OfflineEmbedder
from app.core.ai.vendor import Connection, Vendor
from app.core.settings import Ai as AiSettings


def create_embedder(settings: AiSettings) -> Embedder:
    """Build the embedder that `AI_EMBEDDING_PROVIDER` names; opens nothing and imports no SDK."""
    if settings.embedding_provider == "offline":
        return OfflineEmbedder()
    # A key goes to the address that it was given for, and to no other.
    own = bool(settings.embedding_base_url)
    return OpenAIEmbedder(
        api_key=(settings.embedding_api_key if own else settings.openai_api_key).get_secret_value(),
        base_url=settings.embedding_base_url or settings.openai_base_url or openai_protocol.BASE_URL,
        model=settings.embedding_model,
        batch=settings.embedding_batch,
        timeout_seconds=settings.timeout_seconds,
        max_retries=settings.max_retries,
        settings=settings,
    )


def create_answerer(settings: AiSettings) -> Answerer:
    """Build the answerer that `AI_ANSWER_PROVIDER` names; opens nothing and imports no SDK."""
    if settings.answer_provider == "offline":
        return OfflineAnswerer()
    vendor: Vendor
    times = settings.connect_seconds, settings.answer_seconds
    if settings.answer_provider == "claude":
        key, address = settings.claude_api_key.get_secret_value(), settings.claude_base_url or claude.BASE_URL
        vendor = claude.Claude(Connection(key, address, *times), settings.answer_effort)
    else:
        key, address = settings.openai_api_key.get_secret_value(), settings.openai_base_url or openai_protocol.BASE_URL
        vendor = openai_protocol.OpenAI(Connection(key, address, *times), settings.answer_effort)
    return ModelAnswerer(vendor, settings)


def health_of(embedder: Embedder, answerer: Answerer) -> AiHealth | None:
    """What health asks after; None where no real provider is chosen."""
    watched = [provider for provider in (embedder, answerer) if isinstance(provider, Watched)]
    return AiHealth(watched) if watched else None
