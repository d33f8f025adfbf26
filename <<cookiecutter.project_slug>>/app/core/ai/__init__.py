"""Language models: texts into vectors (`Embedder`), questions into answers (`Answerer`), from the providers that the settings choose.

Importing this package imports no vendor's SDK and opens no socket. An SDK costs one to two seconds of CPU and 40 to
64 MB, so it is loaded when its provider is chosen *and* first used.
"""

from app.core.ai.answering import Answer, Answerer, Passage, Prompt, Usage
from app.core.ai.embedding import DIMENSIONS, Embedder, OpenAIEmbedder, checked_vectors
from app.core.ai.errors import (
    AiBusy,
    AiError,
    AiInputTooLong,
    AiInterrupted,
    AiMisconfigured,
    AiProviderAway,
    AiRateLimited,
    AiRefused,
    AiUnavailable,
    EmbeddingProviderAway,
    EmbeddingUnavailable,
)
from app.core.ai.health import AiHealth
from app.core.ai.model import ModelAnswerer
from app.core.ai.offline import OfflineAnswerer, OfflineEmbedder, lexical_vector
from app.core.ai.providers import create_answerer, create_embedder, health_of

__all__ = [
    "DIMENSIONS",
    "AiBusy",
    "AiError",
    "AiHealth",
    "AiInputTooLong",
    "AiInterrupted",
    "AiMisconfigured",
    "AiProviderAway",
    "AiRateLimited",
    "AiRefused",
    "AiUnavailable",
    "Answer",
    "Answerer",
    "Embedder",
    "EmbeddingProviderAway",
    "EmbeddingUnavailable",
    "ModelAnswerer",
    "OfflineAnswerer",
    "OfflineEmbedder",
    "OpenAIEmbedder",
    "Passage",
    "Prompt",
    "Usage",
    "checked_vectors",
    "create_answerer",
    "create_embedder",
    "health_of",
    "lexical_vector",
]
