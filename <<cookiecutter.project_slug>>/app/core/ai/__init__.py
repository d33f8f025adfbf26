"""Language models: texts into vectors (`Embedder`), questions into answers (`Answerer`), from the providers that the settings choose.

Importing this package imports no vendor's SDK and opens no socket. An SDK costs one to two seconds of CPU and 40 to
64 MB, so it is loaded when its provider is chosen *and* first used.
"""

from app.core.ai.answering import Answer, Answerer, Passage, Prompt, Usage
from app.core.ai.embedding import DIMENSIONS, Embedder, OpenAIEmbedder, checked_vectors
from app.core.ai.errors import (
    AiBusy,
    AiInputTooLong,
    AiInterrupted,
    AiMisconfigured,
    AiRateLimited,
    AiRefused,
    AiUnavailable,
    EmbeddingUnavailable,
)
from app.core.ai.offline import OfflineAnswerer, OfflineEmbedder, lexical_vector
from app.core.ai.providers import create_answerer, create_embedder

__all__ = [
    "DIMENSIONS",
    "AiBusy",
    "AiInputTooLong",
    "AiInterrupted",
    "AiMisconfigured",
    "AiRateLimited",
    "AiRefused",
    "AiUnavailable",
    "Answer",
    "Answerer",
    "Embedder",
    "EmbeddingUnavailable",
    "OfflineAnswerer",
    "OfflineEmbedder",
    "OpenAIEmbedder",
    "Passage",
    "Prompt",
    "Usage",
    "checked_vectors",
    "create_answerer",
    "create_embedder",
    "lexical_vector",
]
