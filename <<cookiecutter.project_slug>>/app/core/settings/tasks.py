"""Background tasks."""

from pydantic import BaseModel, Field


class Tasks(BaseModel):
    """Background tasks. Each is a row of `task_outbox` until it is done, so none is lost with a process or the broker."""

    concurrency: int = Field(default=4, ge=1, description="Processes of one worker.")
    reserved: int = Field(
        default=1,
        ge=0,
        description="Further processes of it that only the critical queue may use, so that it always finds one free.",
    )
    drain_seconds: float = Field(
        default=60,
        gt=0,
        description="How long a worker that is told to stop lets its tasks run; what is not done by then goes back. Less than the time after which the worker is killed.",
    )
    sweep_seconds: float = Field(
        default=5, gt=0, description="How often tasks are looked for that were never sent, or whose worker died."
    )
    send_grace_seconds: float = Field(
        default=15, gt=0, description="How long after the commit a task may still be unsent before the sweep sends it."
    )
    lease_seconds: float = Field(
        default=60,
        gt=0,
        description="A running task renews its lease three times in this time; one whose lease ran out runs again.",
    )
    redeliver_seconds: float = Field(
        default=900,
        gt=0,
        description="A task that was sent and never started by then is sent again: longer than the longest queue.",
    )
    limit_seconds: float = Field(default=600, gt=0, description="Deadline of a task that names none.")
    retry_seconds: float = Field(
        default=5, gt=0, description="Wait before the second attempt; doubles each time, up to an hour, with jitter."
    )
    away_seconds: float = Field(
        default=30,
        gt=0,
        description="Longest wait of a task whose neighbour (database, store, outside service) is away; such an attempt does not count.",
    )
    patience_seconds: float = Field(
        default=86400, ge=0, description="After so long even such attempts count, so that no task waits for ever."
    )
