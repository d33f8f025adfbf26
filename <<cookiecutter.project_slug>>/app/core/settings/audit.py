"""The audit trail."""

from pydantic import BaseModel, Field

# The database refuses to delete what is younger: see the migration that makes the table.
KEEP_AT_LEAST_DAYS = 90


class Audit(BaseModel):
    """Who did what that matters to security."""

    keep_days: int = Field(default=365, ge=KEEP_AT_LEAST_DAYS, description="Entries older than this go.")
