"""What can go wrong with a provider, as the client is told it.

The message of a provider never leaves this package: it may quote our texts or part of a key. What does leave, for logs
and the outbox, is the kind of fault and its HTTP status, as `args`.
"""

from math import ceil

from app.core.errors import AppError, Unavailable, UnprocessableContent


class AiError(AppError):
    """No answer.

    Attributes:
        args: the reason, for logs and the outbox.
    """

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.args = (reason,)


class AiUnavailable(AiError, Unavailable):
    """None of the asker's fault; later may work.

    Attributes:
        retry_after: seconds that the provider wants to be left alone for, where it said so.
    """

    detail = "Answers cannot be given at the moment. Try again shortly."

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        if retry_after is not None:
            self.headers = {"Retry-After": str(max(1, ceil(retry_after)))}


class AiBusy(AiUnavailable):
    """This process asks as many questions at once as it may."""

    detail = "Too many questions at once. Try again shortly."


class AiRateLimited(AiUnavailable):
    """The provider limits us: not the person who asked, so it is no 429."""


class AiMisconfigured(AiUnavailable):
    """The provider refuses our key or our request, or does not know the model: a person has to mend it."""


class AiProviderAway(AiUnavailable):
    """The provider does not answer, or not with an answer: what opens its circuit."""


class AiInterrupted(AiProviderAway):
    """The answer broke off after its first piece."""

    detail = "The answer broke off. Ask again."


class AiRefused(AiError, UnprocessableContent):
    """The provider does not answer this, by its rules."""

    detail = "The model does not answer this question."


class AiInputTooLong(AiError, UnprocessableContent):
    """Question and passages are more than the model reads."""

    detail = "The question with its sources is too long for the model."


class EmbeddingUnavailable(AiUnavailable):
    """The provider gave no usable vectors; the fault is its own or its configuration's, so later may work."""

    detail = "Texts cannot be compared at the moment. Try again shortly."


class EmbeddingProviderAway(EmbeddingUnavailable):
    """The provider of vectors does not answer: what opens its circuit."""
