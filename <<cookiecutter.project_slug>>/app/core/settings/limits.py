"""How often somebody may ask."""

from pydantic import BaseModel, Field


class Limits(BaseModel):
    """How often somebody may ask, counted in the cache's Redis over all processes; without it each counts alone."""

    per_user: int = Field(
        default=300, ge=0, description="Requests a minute of one person, from whatever address. 0: no limit."
    )
    per_client: int = Field(
        default=0,
        ge=0,
        description="Requests a minute of one address. 0: nginx has that limit (RATE_LIMIT). Where no nginx stands in front: 100.",
    )
    sensitive: int = Field(
        default=20,
        ge=1,
        description="Requests a minute of one address to each route where something could be guessed. nginx is stricter (RATE_LIMIT_SIGN_IN).",
    )
