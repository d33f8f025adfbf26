"""What a call took: tokens, dollars, time; returned to the caller and counted."""

from decimal import Decimal
from functools import cache

import structlog

from app.core import metrics
from app.core.settings import Ai as AiSettings
from app.core.settings import Price

log = structlog.get_logger(__name__)

MILLION = Decimal(1_000_000)


def cost(
    settings: AiSettings, model: str, *, input_tokens: int, output_tokens: int = 0, read: int = 0, written: int = 0
) -> Decimal | None:
    """The price of a call in US dollars; None when it is not known, which is counted and logged once a model.

    Args:
        settings: hold the prices.
        model: as it was asked for.
        input_tokens: everything read, what is counted by `read` and `written` included.
        output_tokens: everything written.
        read: input found in the provider's cache.
        written: input put there.
    """
    price = settings.price(model)
    if price is None or (price.up_to is not None and input_tokens > price.up_to):
        metrics.AI_UNPRICED.labels(model).inc()
        _say_once(model, price)
        return None
    plain = max(0, input_tokens - read - written)
    dollars = (
        plain * price.input
        + read * (price.input if price.cache_read is None else price.cache_read)
        + written * (price.input if price.cache_write is None else price.cache_write)
        + output_tokens * price.output
    )
    return dollars / MILLION


@cache
def _say_once(model: str, price: Price | None) -> None:
    log.warning(
        "ai_price_unknown",
        model=model,
        advice="add it to AI_PRICES" if price is None else f"the known one ends at {price.up_to} tokens of input",
    )


def count(provider: str, model: str, kinds: dict[str, int], dollars: Decimal | None) -> None:
    """Add a call to the metrics.

    Args:
        provider: who was asked.
        model: which model.
        kinds: tokens by kind: input, output, cache_read, cache_write.
        dollars: what it cost, if known.
    """
    for kind, tokens in kinds.items():
        if tokens:
            metrics.AI_TOKENS.labels(provider, model, kind).inc(tokens)
    if dollars:
        metrics.AI_COST.labels(provider, model).inc(float(dollars))
