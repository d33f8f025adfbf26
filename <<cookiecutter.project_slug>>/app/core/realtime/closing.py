"""Why a socket is closed, as clients see it: the table in docs/realtime.md."""

import random
from dataclasses import dataclass

# Everybody at once would come back in the same moment, and each needs a ticket first.
RETRY_MILLISECONDS = (500, 10_000)


@dataclass(frozen=True, slots=True)
class Close:
    """An end.

    Attributes:
        code: of the close frame.
        reason: for a person who debugs, at most 123 bytes.
        cause: label of the metric `websocket_closed_total`.
        again: whether coming back later helps; the reason says when, another time for each client.
    """

    code: int
    reason: str
    cause: str
    again: bool = False

    def text(self) -> str:
        """The reason of the close frame."""
        if not self.again:
            return self.reason
        low, high = RETRY_MILLISECONDS
        return f"{self.reason}; retry_ms={random.randint(low, high)}"  # noqa: S311  # spreads, hides nothing


GONE = Close(1000, "", "client")
UNREADABLE = Close(1003, "messages are JSON objects as text", "protocol")
UNEXPECTED = Close(1008, "not expected here", "protocol")
TOO_LARGE = Close(1009, "message too large", "protocol")
RESTARTING = Close(1012, "restarting", "shutdown", again=True)
FULL = Close(1013, "no room for another socket", "full", again=True)
AWAY = Close(1013, "events are not available", "redis", again=True)
SLOW = Close(4008, "reads too slowly", "slow")
NO_TICKET = Close(4401, "the ticket is unknown, used or too old", "ticket")
STALE = Close(4401, "the ticket is no longer good", "signed_out")
EXPIRED = Close(4401, "the access token has expired", "expired")
SIGNED_OUT = Close(4403, "signed out", "signed_out")
NO_HELLO = Close(4408, "no hello in time", "hello")
TOO_MANY = Close(4429, "too many sockets of this person", "too_many")
TOO_FAST = Close(4429, "too many messages", "too_fast")
