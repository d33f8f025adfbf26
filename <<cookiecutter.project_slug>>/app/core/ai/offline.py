"""The provider that needs no network, no model and no key, for development and tests. It knows words, not meaning."""

import asyncio
import math
import re
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from hashlib import blake2b
from operator import mul

from app.core.ai.answering import CHARACTERS_PER_TOKEN, Answer, Prompt, Usage
from app.core.ai.embedding import DIMENSIONS


class OfflineEmbedder:
    """Deterministic vectors without a network, a model or a dependency, for development and tests.

    It is **lexical, not semantic**: each word and each of its character n-grams is hashed to one of the `DIMENSIONS`
    axes with a sign (the "hashing trick"), counts are damped, the sum is normalised. Two texts are near when they share
    words or parts of words, so "invoices" finds "invoice" and a typing error does little harm; but "car" does not find
    "automobile", and another language finds nothing. For meaning, choose a real provider.

    One passage of 1,000 characters takes about half a millisecond once its words have been seen.
    """

    model = "offline-lexical-1"

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """See `Embedder.embed`; never fails."""
        if len(texts) == 1:  # a search query: cheaper than the hop to a thread
            return [lexical_vector(texts[0])]
        return await asyncio.to_thread(lambda: [lexical_vector(text) for text in texts])

    async def close(self) -> None:
        """Nothing is held."""


WORD = re.compile(r"\w+")
# Short words ("the", "de", "und") say little and are in every passage. Without corpus statistics the length
# of a word is the only sign of that which holds in any language written with an alphabet.
WORD_WEIGHT = (0.0, 0.25, 0.35, 0.5, 0.8)
GRAM_WEIGHT = 0.3
LONGEST_CACHED_WORD = 32


def lexical_vector(text: str) -> list[float]:
    """Hash the words and character n-grams of `text` into `DIMENSIONS` floats with L2 norm 1."""
    vector = [0.0] * DIMENSIONS
    words = Counter(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))
    for word, count in words.items():
        damped = 1.0 + math.log(count)
        features = _cached_features if len(word) <= LONGEST_CACHED_WORD else _features
        for axis, weight in features(word):
            vector[axis] += weight * damped
    length = math.sqrt(math.fsum(value * value for value in vector))
    if length == 0.0:
        # No word at all, or features that cancel out. A zero vector has no direction (cosine distance NaN,
        # and the HNSW index leaves it out), so such a text gets an axis of its own.
        vector[_axis(text.strip())[0]] = length = 1.0
    return [value / length for value in vector]


def _features(word: str) -> tuple[tuple[int, float], ...]:
    """The axes that one word touches, with signed weights: the word itself and its character n-grams."""
    ascii_word = word.isascii()
    axis, sign = _axis(word)
    base = WORD_WEIGHT[len(word)] if ascii_word and len(word) < len(WORD_WEIGHT) else 1.0
    found = [(axis, sign * base)]
    # Chinese, Japanese or Korean carry a word in two characters, without spaces around it.
    sizes = (3,) if ascii_word else (2, 3)
    for gram in _grams(f"<{word}>", sizes):
        axis, sign = _axis(gram)
        found.append((axis, sign * base * GRAM_WEIGHT))
    return tuple(found)


_cached_features = lru_cache(maxsize=8192)(_features)


def _grams(word: str, sizes: tuple[int, ...]) -> Iterator[str]:
    for size in sizes:
        for start in range(len(word) - size + 1):
            yield word[start : start + size]


def _axis(feature: str) -> tuple[int, float]:
    """Hash a feature to an axis and a sign; the sign makes collisions cancel instead of add up."""
    digest = int.from_bytes(blake2b(feature.encode("utf-8", "replace"), digest_size=4).digest(), "big")
    return digest % DIMENSIONS, 1.0 if digest & 0x8000_0000 else -1.0


class OfflineAnswerer:
    """Quotes the sentences of the given passages that share most words with the question, with the passages' numbers.

    It is **extractive**: it writes nothing of its own but a line that says so, understands nothing, and does not know
    whether what it quotes answers the question. It makes the way from a question to a streamed, numbered answer work
    without a provider.
    """

    model = "offline-extractive-1"

    @asynccontextmanager
    async def answer(self, prompt: Prompt, *, max_tokens: int | None = None) -> AsyncIterator[Answer]:
        """See `Answerer.answer`; never fails."""
        text, truncated = await asyncio.to_thread(_extract, prompt, max_tokens)
        yield Answer(
            _words(text),
            Usage(
                provider="offline",
                model=self.model,
                input_tokens=len(prompt.system + prompt.text()) // CHARACTERS_PER_TOKEN,
                output_tokens=len(text) // CHARACTERS_PER_TOKEN,
                estimated=True,
                truncated=truncated,
            ),
        )

    async def close(self) -> None:
        """Nothing is held."""


QUOTED = "Quoted from the sources, word for word (offline mode, no model was asked):"
NOTHING_QUOTED = "The sources share no words with the question (offline mode, no model was asked)."
MOST_QUOTES = 3
# Below this a sentence shares no more with the question than chance and short words do.
LEAST_LIKENESS = 0.12
# A sentence ends at its mark before a space, at a mark of Chinese or Japanese, or with its line.
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n+")


def _extract(prompt: Prompt, max_tokens: int | None) -> tuple[str, bool]:
    """The quotations as one text, and whether `max_tokens` cut it."""
    asked = lexical_vector(prompt.question)
    found = [
        (sum(map(mul, asked, lexical_vector(sentence))), -number, sentence)
        for number, passage in enumerate(prompt.passages, 1)
        for sentence in filter(None, map(str.strip, SENTENCE_END.split(passage.text)))
    ]
    best = sorted((entry for entry in found if entry[0] >= LEAST_LIKENESS), reverse=True)[:MOST_QUOTES]
    if not best:
        return NOTHING_QUOTED, False
    text = "\n".join([QUOTED, *(f"“{sentence}” [{-number}]" for _, number, sentence in best)])
    most = len(text) if max_tokens is None else max_tokens * CHARACTERS_PER_TOKEN
    return text[:most], most < len(text)


async def _words(text: str) -> AsyncIterator[str]:
    for word in re.findall(r"\S+\s*", text):
        yield word
