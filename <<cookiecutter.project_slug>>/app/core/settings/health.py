"""Health."""

from pydantic import BaseModel, SecretStr

from app.core.settings.base import secret


class Health(BaseModel):
    """Who may see the state of every part."""

    token: SecretStr = secret("Bearer token of /health/detailed. Empty: nobody sees the details.", required=False)
