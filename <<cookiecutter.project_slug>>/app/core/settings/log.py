"""Logs."""

from typing import Literal

from pydantic import BaseModel, Field


class Log(BaseModel):
    """Logs: JSON lines on standard output."""

    level: Literal["", "DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="", description="Empty: DEBUG in development, INFO in staging, WARNING in production."
    )
    format: Literal["json", "console"] = Field(
        default="json", description="console is for reading in a terminal; everything else wants json."
    )
