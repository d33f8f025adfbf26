"""What can go wrong with a provider, as the client is told it.

The message of a provider never leaves this package: it may quote our texts or part of a key. What does leave, for logs
and the outbox, is the kind of fault and its HTTP status, as `args`.
"""

from math import ceil

from app.core.errors import Unavailable, UnprocessableContent


class AiUnavailable(Unavailable):
    """The provider gave nothing usable; the fault is its own, so later may work.

    Attributes:
        args: the reason, for logs and the outbox.
    """

    detail = "Answers cannot be given at the moment. Try again shortly."

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__()
        self.args = (reason,)
        if retry_after is not None:
            self.headers = {"Retry-After": str(max(1, ceil(retry_after)))}


class AiBusy(AiUnavailable):
    """This process asks as many questions at once as it may."""

    detail = "Too many questions at once. Try again shortly."


class AiRateLimited(AiUnavailable):
    """The provider limits us: not the person who asked, so it is no 429."""


class AiMisconfigured(AiUnavailable):
    """The provider refuses our key, or does not know the model: a fault of ours that a person has to mend."""


class AiInterrupted(AiUnavailable):
    """The answer broke off after its first piece."""

    detail = "The answer broke off. Ask again."


class AiRefused(UnprocessableContent):
    """The provider does not answer this, by its rules."""

    detail = "The model does not answer this question."


class AiInputTooLong(UnprocessableContent):
    """Question and passages are more than the model reads."""

    detail = "The question with its sources is too long for the model."


class EmbeddingUnavailable(AiUnavailable):
    """The provider gave no usable vectors; the fault is its own or its configuration's, so later may work."""

    detail = "Texts cannot be compared at the moment. Try again shortly."
