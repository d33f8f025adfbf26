"""The choice of providers by the settings."""

from app.core.ai.answering import Answerer
from app.core.ai.embedding import Embedder, OpenAIEmbedder
from app.core.ai.offline import OfflineAnswerer, OfflineEmbedder
from app.core.settings import Ai as AiSettings

OPENAI_BASE_URL = "https://api.openai.com/v1"


def create_embedder(settings: AiSettings) -> Embedder:
    """Build the embedder that `AI_EMBEDDING_PROVIDER` names; opens nothing and imports no SDK."""
    if settings.embedding_provider == "openai":
        return OpenAIEmbedder(
            api_key=settings.openai_api_key.get_secret_value(),
            base_url=settings.openai_base_url or OPENAI_BASE_URL,
            model=settings.embedding_model,
            batch=settings.embedding_batch,
            timeout_seconds=settings.timeout_seconds,
            max_retries=settings.max_retries,
        )
    return OfflineEmbedder()


def create_answerer(settings: AiSettings) -> Answerer:  # noqa: ARG001  # the choice follows with the providers
    """Build the answerer; opens nothing and imports no SDK."""
    return OfflineAnswerer()
