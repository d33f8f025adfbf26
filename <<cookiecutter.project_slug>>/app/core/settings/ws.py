"""WebSockets and the events that go through them."""

from pydantic import BaseModel, Field


class Ws(BaseModel):
    """WebSockets at /ws, and the events kept for people who come back."""

    max_connections: int = Field(
        default=1000, ge=1, description="Sockets of one API process; nginx and the open files have to allow as many."
    )
    max_per_user: int = Field(default=10, ge=1, description="Sockets of one person, over all processes.")
    hello_seconds: float = Field(default=5, gt=0, description="How long a new socket may take to show its ticket.")
    send_seconds: float = Field(
        default=5, gt=0, description="How long a message may wait for a slow reader, who is then dropped."
    )
    ping_seconds: float = Field(
        default=20,
        gt=0,
        description="Pause between two pings; a peer that leaves one unanswered for as long is dropped.",
    )
    away_seconds: float = Field(
        default=10, ge=0, description="How long sockets wait for Redis to come back before they are sent away."
    )
    resume_events: int = Field(
        default=100, ge=1, description="Newest events kept for each person who was connected lately."
    )
    resume_seconds: int = Field(
        default=3600, ge=60, description="For how long they are kept after the last event or connection."
    )
